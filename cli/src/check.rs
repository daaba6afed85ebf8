//! `culvert check`: is the cluster fit for Culvert, and is Culvert well? Every line has an id that never changes its meaning.

mod authority;
mod facts;
mod judge;
mod networks;
mod reach;
mod waypoints;

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::facts::Facts;
pub(crate) use self::judge::trouble;
use crate::cluster::Connection;

/// Says whether the cluster is fit and Culvert is well.
#[derive(Args)]
pub(crate) struct CheckCommand {
    #[command(flatten)]
    connection: Connection,
    /// Only what can be told before an installation.
    #[arg(long)]
    pre: bool,
    /// Look again until nothing fails, for at most so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "120")]
    wait: Option<u64>,
    /// Namespace of Culvert's own pods.
    #[arg(long, default_value = "culvert-system")]
    system: String,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Json,
    Text,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Works, and somebody should know.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    /// `group.name`; never changes its meaning.
    pub(crate) id: &'static str,
    pub(crate) state: State,
    /// What is so.
    pub(crate) what: String,
    /// What to do; empty when it is well.
    pub(crate) remedy: String,
}

impl Line {
    /// The part before the dot.
    pub(crate) fn group(&self) -> &'static str {
        self.id.split('.').next().unwrap_or(self.id)
    }
}

/// Between two looks with `--wait`: pods become ready within seconds, and a look asks for some dozen lists.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs it. Fails when a check fails.
pub(crate) async fn run(command: CheckCommand) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let until = Instant::now() + Duration::from_secs(command.wait.unwrap_or(0));
    let lines = loop {
        let over = Instant::now() >= until;
        match Facts::gather(&client, &command.system, command.pre).await {
            Ok(facts) => {
                let lines = judge::judge(&facts, command.pre);
                if over || lines.iter().all(|l| l.state != State::Fail) {
                    break lines;
                }
            }
            Err(error) if over => return Err(error),
            // An API server that is away may come back while there is time.
            Err(error) => eprintln!("asked in vain, and again soon: {error:#}"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let failed = lines.iter().any(|l| l.state == State::Fail);
    let mut out = stdout().lock();
    match command.output {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?,
        Form::Text => write!(out, "{}", text(&lines))?,
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The lines by group, with a sum.
fn text(lines: &[Line]) -> String {
    let (mut text, mut group) = (String::new(), "");
    for line in lines {
        if line.group() != group {
            group = line.group();
            text.push_str(&format!("{group}\n"));
        }
        let mark = match line.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        text.push_str(&format!("  {mark} {:<18} {}\n", line.id, line.what));
        if !line.remedy.is_empty() {
            text.push_str(&format!("       {:<18} remedy: {}\n", "", line.remedy));
        }
    }
    let count = |state| lines.iter().filter(|l| l.state == state).count();
    text.push_str(&format!(
        "{} ok, {} warnings, {} failed\n",
        count(State::Ok),
        count(State::Warn),
        count(State::Fail)
    ));
    text
}

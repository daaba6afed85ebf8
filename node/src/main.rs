//! `culvert-node`: the node agent as a program.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use node::app::{self, Ended};
use node::config::Config;

#[derive(Parser)]
#[command(name = "culvert-node", version, about = "Culvert's node agent")]
struct Args {
    /// Configuration, YAML.
    #[arg(long, default_value = "/etc/culvert/node.yaml")]
    config: PathBuf,
    /// Only say whether the configuration is right.
    #[arg(long)]
    check: bool,
    /// Takes all capture away from this node: programs, maps, rules, and on Kubernetes the CNI plug-in and the pods'
    /// annotations. Pods then talk in clear. Stop the agent first.
    #[arg(long)]
    unload: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.check {
        return chassis::config::check::<Config>(&args.config);
    }
    let config = match chassis::config::load::<Config>(&args.config) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let done = if args.unload {
        app::unload(config)
    } else {
        app::run(config).and_then(|ended| match ended {
            Ended::Stay => Ok(()),
            Ended::Unload => Err(become_unload(&args.config)),
        })
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes `--unload` in place of this process, whose threads end with that. Comes back only when it cannot.
fn become_unload(config: &Path) -> anyhow::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return anyhow::Error::new(error).context("the program's own path"),
    };
    let error = Command::new(program).arg("--unload").arg("--config").arg(config).exec();
    anyhow::Error::new(error).context("--unload cannot be started; run it by hand on this node")
}

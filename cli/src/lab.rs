//! `culvert lab …`.

mod fault;
mod show;

use std::io::{Write, stdout};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) use self::show::titled;
use clap::{Args, Subcommand, ValueEnum};
use lab::{Lab, LabError, Options, Place, Spec};

/// A laboratory on this machine.
#[derive(Args)]
pub(crate) struct LabCommand {
    /// Which lab; not needed while there is only one.
    #[arg(long, global = true, value_name = "NAME")]
    name: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Capture packets for some seconds, and say what was seen.
    Capture {
        /// At this pod's veth pair, on the node's side; on the wire between the nodes when not given.
        #[arg(long)]
        pod: Option<String>,
        /// Seconds to capture.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Count the packets that hold this text.
        #[arg(long)]
        marker: Option<String>,
        /// As for tcpdump.
        filter: Vec<String>,
    },
    /// Take a lab down; also cleans up after a crash.
    Down {
        /// Every lab on this machine.
        #[arg(long)]
        all: bool,
    },
    /// Run a command in a pod: culvert lab exec web -- curl http://cart/
    Exec {
        /// The pod; or `node/<name>` for a node, `<node>/ztunnel-<n>` for a node proxy, `infra` for the authority and the
        /// collector, `wire`.
        pod: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Let things go wrong.
    Fault(fault::FaultCommand),
    /// Print the log of a process (status lists them).
    Logs {
        /// As in `pod/web`, `ca`, `node1/ztunnel-1`.
        process: String,
    },
    /// Check a document without raising anything.
    Check {
        /// The document.
        file: PathBuf,
    },
    /// Install what the lab needs beyond the system's packages: the OpenTelemetry collector.
    Setup,
    /// Print spans that the lab's collector received, a JSON object a line.
    Spans,
    /// Show what is there.
    Status {
        /// Form of the answer.
        #[arg(short, long, value_enum, default_value_t = Form::Table)]
        output: Form,
    },
    /// Raise a lab.
    Up {
        /// The document that describes it, as in examples/shop.yaml.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Json,
    Table,
}

/// Runs it. Errors are one message on stderr and status 1; `exec` ends with the status of its command.
pub(crate) fn run(command: LabCommand) -> ExitCode {
    let name = command.name.as_deref();
    let done = privileged(&command.verb).and_then(|()| match command.verb {
        Verb::Capture { pod, seconds, marker, filter } => {
            capture(name, pod.as_deref(), seconds, marker.as_deref(), &filter)
        }
        Verb::Check { file } => check(&file),
        Verb::Down { all } => down(name, all),
        Verb::Exec { pod, command } => exec(name, &pod, &command),
        Verb::Fault(fault) => open(name).and_then(|lab| fault::run(&lab, fault)).map(|()| ExitCode::SUCCESS),
        Verb::Logs { process } => logs(name, &process),
        Verb::Setup => setup(),
        Verb::Spans => spans(name),
        Verb::Status { output } => status(name, output),
        Verb::Up { file } => up(name, &file),
    });
    done.unwrap_or_else(|error| {
        // The reader of our output had enough, as in `culvert lab spans | head`.
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("culvert lab: {error}");
        ExitCode::FAILURE
    })
}

/// What enters namespaces is for root; reading is not.
fn privileged(verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Check { .. } | Verb::Logs { .. } | Verb::Setup | Verb::Spans => Ok(()),
        Verb::Capture { .. }
        | Verb::Down { .. }
        | Verb::Exec { .. }
        | Verb::Fault(_)
        | Verb::Status { .. }
        | Verb::Up { .. } => Ok(lab::need_root()?),
    }
}

/// The lab of this name, or the only one.
fn open(name: Option<&str>) -> anyhow::Result<Lab> {
    Ok(Lab::open(&pick(name)?)?)
}

fn pick(name: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let mut there = lab::labs();
    match there.len() {
        0 => anyhow::bail!("there is no lab; raise one (culvert lab up examples/shop.yaml)"),
        1 => Ok(there.remove(0)),
        _ => anyhow::bail!("there are several labs ({}); say which with --name", there.join(", ")),
    }
}

fn up(name: Option<&str>, file: &Path) -> anyhow::Result<ExitCode> {
    let mut spec = Spec::load(file)?;
    if let Some(name) = name {
        spec.name = name.to_owned();
    }
    let begun = std::time::Instant::now();
    let options = Options { keep: true, progress: Arc::new(|step| eprintln!("  {step}")), ..Options::default() };
    eprintln!("raising the lab {}", spec.name);
    call_off_on_signal(options.cancel.clone())?;
    let lab = Lab::up(&spec, &options)?;
    eprintln!("up in {:.1} s", begun.elapsed().as_secs_f64());
    print!("{}", show::table(&lab.status()));
    Ok(ExitCode::SUCCESS)
}

// Ctrl-C and SIGTERM undo what was raised so far, instead of leaving it half way.
fn call_off_on_signal(cancel: Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut terminate = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("  called off; undoing");
        cancel.store(true, Ordering::Relaxed);
    });
    Ok(())
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let spec = Spec::load(file)?;
    println!("{}: {} nodes, {} pods, {} services", spec.name, spec.nodes.len(), spec.pods.len(), spec.services.len());
    Ok(ExitCode::SUCCESS)
}

fn down(name: Option<&str>, all: bool) -> anyhow::Result<ExitCode> {
    let names = if all { lab::labs() } else { vec![pick(name)?] };
    for name in names {
        lab::down(&name)?;
        eprintln!("the lab {name} is down");
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(name: Option<&str>, place: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let lab = open(name)?;
    let place = match place.split_once('/') {
        Some(("node", node)) => lab.node(node)?,
        _ if place == "wire" => lab.wire(),
        _ if place == "infra" => lab.infra(),
        Some((node, program)) => proxy(&lab, node, program)?,
        _ => lab.pod(place)?,
    };
    let Some((program, args)) = command.split_first() else { anyhow::bail!("no command") };
    let status = place.command(program).args(args).attached()?;
    Ok(exit_code(status))
}

// A node proxy has a network namespace of its own, where its admin server is.
fn proxy(lab: &Lab, node: &str, program: &str) -> anyhow::Result<Place> {
    let generation = program.strip_prefix("ztunnel-").and_then(|n| n.parse().ok());
    let generation = generation.ok_or_else(|| unfit(format!("{node}/{program} is no place; use <node>/ztunnel-1")))?;
    lab.pid(&format!("{node}/{program}"))?;
    Ok(lab.ztunnel(node, generation))
}

// As a shell reports its commands: 128 and the signal's number for one that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn logs(name: Option<&str>, process: &str) -> anyhow::Result<ExitCode> {
    let path = open(name)?.log_path(process)?;
    let mut log = std::fs::File::open(&path)?;
    std::io::copy(&mut log, &mut stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn setup() -> anyhow::Result<ExitCode> {
    let agent = lab::ensure_collector()?;
    println!("collector: {}", agent.display());
    Ok(ExitCode::SUCCESS)
}

fn spans(name: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    let spans = open(name)?.spans()?;
    if spans.is_empty() {
        eprintln!("no spans yet; the node proxies send them every 5 s");
    }
    for span in spans {
        writeln!(out, "{}", serde_json::to_string(&span)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(name: Option<&str>, form: Form) -> anyhow::Result<ExitCode> {
    let status = open(name)?.status();
    match form {
        Form::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Form::Table => print!("{}", show::table(&status)),
    }
    Ok(ExitCode::SUCCESS)
}

fn capture(
    name: Option<&str>,
    pod: Option<&str>,
    seconds: u64,
    marker: Option<&str>,
    filter: &[String],
) -> anyhow::Result<ExitCode> {
    let lab = open(name)?;
    let filter = filter.join(" ");
    let capture = match pod {
        Some(pod) => lab.host_side_capture(pod, &filter)?,
        None => lab.wire_capture(&filter)?,
    };
    eprintln!("capturing for {seconds} s");
    // A time was asked for, so there is no event to wait for.
    std::thread::sleep(Duration::from_secs(seconds));
    let captured = capture.finish()?;
    println!("{} packets, {} bytes", captured.packets(), captured.bytes());
    if let Some(marker) = marker {
        println!("{} packets hold {marker:?}", captured.packets_with(marker.as_bytes()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What clap's parsers give back.
fn unfit(text: impl Into<String>) -> anyhow::Error {
    LabError::Unfit(text.into()).into()
}

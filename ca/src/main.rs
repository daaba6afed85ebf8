//! `culvert-ca`: the certificate authority as a program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ca::audit::{Audit, Decision, Log};
use ca::config::Config;
use ca::kubernetes::rotate::Rotator;
use ca::program::{self, Ca};
use ca::rotation::Step;
use chassis::admin::{Reply, Router, Server, readiness_routes};
use chassis::{Drain, Gate, Signals, config};
use clap::{Parser, Subcommand};
use kubernetes::client::{self, Source};
use telemetry::{LineWriter, LogConfig, Metrics, init_logging};

/// Signs workload certificates for the mesh over gRPC.
#[derive(Parser)]
#[command(name = "culvert-ca", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/etc/culvert/ca.yaml")]
    config: PathBuf,
    /// Says what is wrong with the configuration and the files that it names, and ends. Makes nothing.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Changes the root of a cluster's authority step by step, while the mesh runs.
    Rotate(Rotate),
}

#[derive(clap::Args)]
struct Rotate {
    #[command(subcommand)]
    step: RotateStep,
    /// A kubeconfig; without one the pod's own service account is used.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Its context; the current one when absent.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace of the authority's Secret.
    #[arg(long, global = true, default_value = "culvert-system")]
    namespace: String,
    /// The name of the authority's Secret.
    #[arg(long, global = true, default_value = "culvert-ca-key")]
    secret: String,
}

#[derive(Subcommand)]
enum RotateStep {
    /// Shows where a change stands and when the next step is safe.
    Status,
    /// Makes a new root and has everyone trust both; the old one signs on.
    Prepare,
    /// Has the new root sign, once everyone trusts it.
    Activate {
        /// Every proxy is known to have got a certificate since `prepare`: do not wait for the old ones to end.
        #[arg(long)]
        renewed: bool,
    },
    /// Trusts the new root alone, once nothing of the old one is in use.
    Retire {
        /// Every proxy is known to have got a certificate since `activate`: do not wait for the old ones to end.
        #[arg(long)]
        renewed: bool,
    },
}

/// Time that open calls get after SIGTERM; a call takes milliseconds.
const DRAIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.command {
        Some(Command::Rotate(command)) => chassis::block_on(rotate(command)).context("runtime").flatten(),
        None => {
            let config: Config = match config::load(&arguments.config) {
                Ok(config) => config,
                Err(status) => return status,
            };
            if arguments.check { check(&arguments, &config) } else { run(config) }
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-ca: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(arguments: &Arguments, config: &Config) -> anyhow::Result<()> {
    program::check(config)?;
    println!("{}: no mistakes", arguments.config.display());
    Ok(())
}

async fn rotate(command: &Rotate) -> anyhow::Result<()> {
    let source = match &command.kubeconfig {
        None => Source::InCluster,
        Some(path) => Source::Kubeconfig { path: path.clone(), context: command.context.clone() },
    };
    let client = client::connect(&source, "culvert-ca rotate").await?;
    let rotator = Rotator::new(client, &command.namespace, &command.secret);
    let now = std::time::SystemTime::now();
    let report = match command.step {
        RotateStep::Status => rotator.status(now).await,
        RotateStep::Prepare => rotator.step(Step::Prepare, false, now).await,
        RotateStep::Activate { renewed } => rotator.step(Step::Activate, renewed, now).await,
        RotateStep::Retire { renewed } => rotator.step(Step::Retire, renewed, now).await,
    }?;
    println!("{report}");
    Ok(())
}

fn run(config: Config) -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    let writer = LineWriter::stdout().context("log writer")?;
    let log = init_logging(&LogConfig::from_env(&variable)?, writer, None)?;
    let ended = chassis::block_on(serve(config)).context("runtime")?;
    // Half a second: the log goes to a pipe or a file.
    log.flush(Duration::from_millis(500));
    ended
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let signals = Signals::install().context("signal handlers")?;
    let (gate, drain, metrics) = (Gate::new(), Drain::new(), Arc::new(Metrics::new()));
    let serving = gate.condition("serving");
    let (health, scrape) = (config.health, config.metrics);
    let health = health.map(|address| Server::bind("health", address)).transpose()?;
    let scrape = scrape.map(|address| Server::bind("metrics", address)).transpose()?;
    let signal = drain.signal();
    let end = || {
        let signal = signal.clone();
        async move { signal.draining().await }
    };
    let mut pages = tokio::task::JoinSet::new();
    if let Some(server) = health {
        pages.spawn_local(server.serve(readiness_routes(&gate, &drain), end()));
    }
    if let Some(server) = scrape {
        let metrics = metrics.clone();
        let page = move |_| {
            let text = metrics.render();
            async move { Reply::with(http::StatusCode::OK, telemetry::metrics::CONTENT_TYPE, text) }
        };
        let routes = Router::new().get("/metrics", "OpenMetrics text", page);
        pages.spawn_local(server.serve(routes, end()));
    }
    let guard = signal.guard();
    let work = tokio::task::spawn_local(async move {
        let audit = Arc::new(Counted::new(&metrics));
        let ca = tokio::select! {
            ca = Ca::prepare(config, audit, &gate, &metrics) => ca?,
            // A cluster without an authority is waited for, but not past the end.
            () = signal.draining() => return Ok(()),
        };
        let trust_domain = ca.signers().now().trust_domain().to_owned();
        tracing::info!(address = %ca.address(), trust_domain, "serving certificates");
        serving.met();
        ca.run(async move { signal.draining().await }).await.context("listener")?;
        drop(guard);
        anyhow::Ok(())
    });
    tokio::select! {
        _ = signals.drain(&drain, DRAIN) => {}
        broken = work => broken.context("service")?.context("service")?,
    }
    Ok(())
}

/// Counts decisions and passes them on to the log.
struct Counted {
    decisions: telemetry::metrics::CounterFamily,
}

impl Counted {
    fn new(metrics: &Metrics) -> Self {
        let help = "Certificate requests by result: issued, or the reason of the refusal.";
        Self { decisions: metrics.counters("culvert_ca_requests", help, &["result"]) }
    }
}

impl Audit for Counted {
    fn record(&self, decision: &Decision) {
        let result = decision.outcome.as_ref().map_or_else(|refusal| refusal.name(), |_| "issued");
        self.decisions.with(&[result]).inc();
        Log.record(decision);
    }
}

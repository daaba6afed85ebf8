//! `culvert-ca`: the certificate authority as a program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ca::audit::{Audit, Decision, Log};
use ca::config::Config;
use ca::program::{self, Ca};
use chassis::admin::{Reply, Router, Server, readiness_routes};
use chassis::{Drain, Gate, Signals, config};
use clap::Parser;
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
}

/// Time that open calls get after SIGTERM; a call takes milliseconds.
const DRAIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config: Config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let ended = if arguments.check { check(&arguments, &config) } else { run(config) };
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
    let (gate, drain, metrics) = (Gate::new(), Drain::new(), Metrics::new());
    let serving = gate.condition("serving");
    let (health, scrape) = (config.health, config.metrics);
    let health = health.map(|address| Server::bind("health", address)).transpose()?;
    let scrape = scrape.map(|address| Server::bind("metrics", address)).transpose()?;
    let ca = Ca::prepare(config, Arc::new(Counted::new(&metrics))).await?;
    tracing::info!(address = %ca.address(), trust_domain = ca.authority().trust_domain(), "serving certificates");
    let not_after = ca.authority().not_after().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics.gauge_fn("culvert_ca_signer_expiry_seconds", "End of the signing certificate, Unix time.", move || {
        not_after.as_secs_f64()
    });
    serving.met();

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
        let page = move |_| {
            let text = metrics.render();
            async move { Reply::with(http::StatusCode::OK, telemetry::metrics::CONTENT_TYPE, text) }
        };
        let routes = Router::new().get("/metrics", "OpenMetrics text", page);
        pages.spawn_local(server.serve(routes, end()));
    }
    let guard = signal.guard();
    let work = tokio::task::spawn_local(async move {
        let ended = ca.run(async move { signal.draining().await }).await;
        drop(guard);
        ended
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

//! Puts the parts together and runs them until a drain has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chassis::admin::{metrics_routes, readiness_routes};
use chassis::readiness::Gate;
use chassis::{Drain, Signals, background};
use proxy::settings::Otlp;
use proxy::setup::{self, Ports};
use proxy::{World, crl};
use telemetry::Tracing;
use tokio::sync::mpsc;

use crate::budget::Limits;
use crate::config::Config;
use crate::discovery::{discover, follower};
use crate::dns::Names;
use crate::here::Shared;
use crate::pods::{Keeper, Pods};
use crate::{admin, rights, worker};

/// Spans that wait at the end are sent for at most so long: a collector that is down must not hold the pod's
/// termination (its grace period is 30 s by default, the drain takes most of it).
const FLUSH: Duration = Duration::from_secs(2);

/// Runs the proxy.
pub(crate) fn run(config: Config) -> Result<()> {
    rights::check(config.dns.enabled && config.packet_mark.is_none()).context("the proxy cannot serve pods")?;
    chassis::block_on(serve(config)).context("no runtime")?
}

async fn serve(config: Config) -> Result<()> {
    let signals = Signals::install().context("cannot take over SIGTERM and SIGINT")?;
    let tracing = tracing(&config)?;
    let log = setup::log(&config.log, tracing.as_ref())?;
    let ports = Ports::bind(config.admin, config.metrics, config.ready)?;
    let drain = Drain::new();
    let gate = Gate::new();
    let telemetry = setup::telemetry(&config.log, &log, tracing.clone(), "ztunnel", env!("CARGO_PKG_VERSION"));
    let pods = Arc::new(Pods::default());
    let shared = Arc::new(Shared {
        pods: pods.clone(),
        world: Arc::new(World::with_pod_networks(config.pod_networks())),
        identities: setup::identities(&config.ca, &config.cluster, true)?,
        telemetry: telemetry.clone(),
        drain: drain.signal(),
        names: Names::new(&config, &telemetry).context("`dns`")?.map(Arc::new),
        config: config.clone(),
    });
    // In force before the first handshake.
    let revoked = config.crl_file.as_deref().map(|path| crl::Lists::open(path, &shared.identities)).transpose()?;
    let (senders, mut workers) = workers(&shared)?;
    let keeper = Keeper {
        shared: shared.clone(),
        pods: pods.clone(),
        workers: senders.clone(),
        limits: limits(&config),
        certified: gate.condition("certificates of the pods"),
    };
    let handed_over = gate.condition("pods from the node agent");
    let follower = follower(&shared, senders, gate.condition("discovery"));
    let world = shared.clone();
    // A push of the whole mesh is a second of work; connections and the pages of this thread come before it.
    let discovery = background("discovery", move || discover(follower, world)).context("cannot start discovery")?;
    tracing::info!(node = %config.node, workers = workers.len(), "node proxy starts");

    let deadline = config.drain.0;
    let admin = admin::routes(&shared, &pods, &log, &drain, deadline);
    let ended = drain.ended();
    tokio::select! {
        result = ports.serve(admin, metrics_routes(&telemetry), readiness_routes(&gate, &drain)) => result?,
        result = discovery => match result?? {},
        never = revocations(revoked) => match never {},
        () = keeper.run(zds::proxy::Client::new(&config.zds_socket), || handed_over.met()) => {}
        panicked = workers.ended() => panicked.context("a worker ended")?,
        _ended = signals.drain(&drain, deadline) => {}
    }
    drop(ended);
    if let Some(exporter) = tracing
        && !exporter.flush(FLUSH).await
    {
        tracing::warn!("the collector did not take all spans in time");
    }
    log.flush(FLUSH);
    Ok(())
}

/// Follows the file of revoked certificates, if there is one, for ever.
async fn revocations(lists: Option<crl::Lists>) -> Infallible {
    match lists {
        Some(lists) => lists.follow().await,
        None => std::future::pending().await,
    }
}

type Senders = Vec<mpsc::UnboundedSender<worker::Command>>;

fn workers(shared: &Arc<Shared>) -> Result<(Senders, chassis::Workers)> {
    let count = shared.config.workers.unwrap_or_else(default_workers);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let receivers = Arc::new(std::sync::Mutex::new(receivers.into_iter().map(Some).collect::<Vec<_>>()));
    let shared = shared.clone();
    let workers = chassis::workers(count, move |index| {
        let receiver = receivers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[index].take();
        let shared = shared.clone();
        async move {
            if let Some(receiver) = receiver {
                worker::work(shared, receiver).await;
            }
        }
    });
    Ok((senders, workers.context("cannot start the workers")?))
}

/// One for each CPU that we may use, at most 4: a node proxy that could take every core of a large node would be a bad
/// neighbour, and 4 threads carry more than a node's network card (SPECIFICATION.md).
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

fn limits(config: &Config) -> Limits {
    let standard = Limits::default();
    Limits {
        connections: config.pod_limits.connections.unwrap_or(standard.connections),
        handshakes: config.pod_limits.handshakes.unwrap_or(standard.handshakes),
        lookups: config.pod_limits.lookups.unwrap_or(standard.lookups),
    }
}

/// The exporter of spans, if one is wanted.
fn tracing(config: &Config) -> Result<Option<Tracing>> {
    let from_file = |otlp: &Otlp| setup::tracing_config(otlp, "ztunnel");
    let wanted = config.otel.clone().or_else(|| config.otlp.as_ref().map(from_file));
    Ok(setup::tracing(wanted, &[("k8s.node.name", &config.node), ("k8s.cluster.name", &config.cluster)])?)
}

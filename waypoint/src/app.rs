//! Puts the parts together and runs them until a drain has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chassis::admin::{metrics_routes, readiness_routes};
use chassis::readiness::{Condition, Gate};
use chassis::{Drain, Signals};
use identity::Manager;
use mesh::Identity;
use proxy::control_plane::Plane;
use proxy::setup::{self, Ports};
use proxy::{Follower, crl};
use tokio::sync::mpsc;
use tokio::time::sleep;
use xds::client::{ClientConfig, Node};

use crate::addresses::Addresses;
use crate::admin;
use crate::bound;
use crate::config::Config;
use crate::here::{Room, Shared};
use crate::worker::{self, Command};

/// Spans that wait at the end are sent for at most so long: a collector that is down must not hold the pod's termination.
const FLUSH: Duration = Duration::from_secs(2);

/// Between looks at a certificate that was refused: well below the 5 s in which the manager asks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs the waypoint.
///
/// # Errors
/// When it cannot start, or one of its parts fails.
pub fn run(config: Config) -> Result<()> {
    chassis::block_on(serve(config)).context("no runtime")?
}

async fn serve(config: Config) -> Result<()> {
    let signals = Signals::install().context("cannot take over SIGTERM and SIGINT")?;
    let resource = [
        ("k8s.node.name", config.node.as_str()),
        ("k8s.cluster.name", config.cluster.as_str()),
        ("k8s.namespace.name", config.own_pod.namespace.as_str()),
        ("k8s.pod.name", config.own_pod.name.as_str()),
    ];
    let wanted = config.otlp.as_ref().map(|otlp| setup::tracing_config(otlp, &config.gateway));
    let tracing = setup::tracing(wanted, &resource)?;
    let log = setup::log(&config.log, tracing.as_ref())?;
    let ports = Ports::bind(config.admin, config.metrics, config.ready)?;
    let drain = Drain::new();
    let gate = Gate::new();
    let telemetry = setup::telemetry(&config.log, &log, tracing.clone(), "waypoint", env!("CARGO_PKG_VERSION"));
    let shared = Arc::new(Shared {
        own: config.identity().context("the configuration names no identity")?,
        world: Arc::default(),
        tables: Default::default(),
        addresses: Addresses::default(),
        identities: setup::identities(&config.ca, &config.cluster, false)?,
        calls: crate::external::counters(telemetry.metrics()),
        telemetry: telemetry.clone(),
        drain: drain.signal(),
        connections: Room::new(config.limits.connections),
        handshakes: Room::new(config.limits.handshakes),
        config: config.clone(),
    });
    // In force before the first handshake.
    let revoked = config.crl_file.as_deref().map(|path| crl::Lists::open(path, &shared.identities)).transpose()?;
    let (senders, mut workers) = workers(&shared)?;
    tracing::info!(identity = %shared.own, workers = workers.len(), "waypoint starts");

    let conditions = Conditions {
        discovery: gate.condition("discovery"),
        addresses: gate.condition("addresses of bound services"),
        certificate: gate.condition("certificate"),
    };
    let admin = admin::routes(&shared, &log, &drain, config.drain.0);
    let ended = drain.ended();
    tokio::select! {
        result = ports.serve(admin, metrics_routes(&telemetry), readiness_routes(&gate, &drain)) => result?,
        result = discover(&shared, senders, conditions.discovery) => match result? {},
        never = revocations(revoked) => match never {},
        never = until_ready(&shared, conditions.addresses, conditions.certificate) => match never {},
        panicked = workers.ended() => panicked.context("a worker ended")?,
        _ended = signals.drain(&drain, config.drain.0) => {}
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

/// What has to hold before callers are sent here.
struct Conditions {
    discovery: Condition,
    addresses: Condition,
    certificate: Condition,
}

/// Follows the control plane for ever.
async fn discover(
    shared: &Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    synced: Condition,
) -> Result<Infallible> {
    let config = &shared.config;
    let node = Node::waypoint(config.address(), &config.own_pod.name, &config.own_pod.namespace, &config.node);
    let plane = Plane::new(&config.xds, &config.cluster, ClientConfig::waypoint(node)).context("`xds`")?;
    let told = shared.clone();
    let follower = Follower::new(shared.world.clone(), synced, move |news| {
        if !news.removed.is_empty() {
            for worker in &workers {
                if worker.send(Command::Evict(news.removed.clone())).is_err() {
                    tracing::debug!("a worker has ended");
                }
            }
        }
        bound::apply(&told, news);
    });
    // Ourselves: near and far are measured from where we are.
    shared.addresses.hint(&mesh::NetworkAddress::new(config.network.as_str(), config.address()).to_string());
    let handle = plane.handle();
    tokio::select! {
        result = plane.follow(follower, &shared.telemetry) => Ok(result.context("`xds`")?),
        () = shared.addresses.carry(&handle) => anyhow::bail!("nothing can be asked of discovery any more"),
    }
}

/// Meets the conditions of readiness that are not discovery's own.
async fn until_ready(shared: &Shared, addresses: Condition, certificate: Condition) -> Infallible {
    let certified = async {
        first_certificate(&shared.identities, &shared.own).await;
        certificate.met();
    };
    let settled = async {
        shared.addresses.settled().await;
        addresses.met();
    };
    tokio::join!(certified, settled);
    std::future::pending().await
}

async fn first_certificate(identities: &Manager, own: &Identity) {
    while let Err(error) = identities.certificate(own).await {
        tracing::warn!(identity = %own, %error, "no certificate yet");
        sleep(LOOK_AGAIN).await;
    }
}

/// Follows the file of revoked certificates, if there is one, for ever.
async fn revocations(lists: Option<crl::Lists>) -> Infallible {
    match lists {
        Some(lists) => lists.follow().await,
        None => std::future::pending().await,
    }
}

type Senders = Vec<mpsc::UnboundedSender<Command>>;

fn workers(shared: &Arc<Shared>) -> Result<(Senders, chassis::Workers)> {
    let one_each = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let count = shared.config.workers.unwrap_or_else(one_each);
    let mut senders = Vec::new();
    let mut parts = Vec::new();
    for _ in 0..count {
        let (sender, receiver) = mpsc::unbounded_channel();
        senders.push(sender);
        // All listen before one serves, so that a port that is taken stops the program.
        parts.push(Some((worker::listen(shared.config.listen)?, receiver)));
    }
    let parts = Arc::new(std::sync::Mutex::new(parts));
    let shared = shared.clone();
    let workers = chassis::workers(count, move |index| {
        let part = parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[index].take();
        let shared = shared.clone();
        async move {
            if let Some((listener, receiver)) = part {
                worker::work(shared, listener, receiver).await;
            }
        }
    });
    Ok((senders, workers.context("cannot start the workers")?))
}

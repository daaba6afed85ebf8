//! Puts the parts together and runs them until a drain has ended.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chassis::admin::{metrics_routes, readiness_routes};
use chassis::readiness::Gate;
use chassis::{Drain, Server, Signals};
use identity::channel::ChannelConfig;
use identity::{GrpcSigner, GrpcSignerConfig, Manager};
use telemetry::{AccessLog, LineWriter, LogConfig, LogFormat, LogHandle, Sampler, Telemetry, Tracing, TracingConfig};
use tokio::sync::mpsc;

use crate::budget::Limits;
use crate::config::{self, Config};
use crate::discovery::Follower;
use crate::dns::Names;
use crate::here::Shared;
use crate::pods::{Keeper, Pods};
use crate::world::World;
use crate::{admin, control_plane, crl, rights, worker};

/// Spans that wait at the end are sent for at most so long: a collector that is down must not hold the pod's
/// termination (its grace period is 30 s by default, the drain takes most of it).
const FLUSH: Duration = Duration::from_secs(2);

/// A peer can make h2 warn as often as it likes (a PING acknowledgement that nobody asked for), so only its errors show.
const DEFAULT_LEVEL: &str = "info,h2=error";

/// Runs the proxy.
pub(crate) fn run(config: Config) -> Result<()> {
    rights::check(config.dns.enabled && config.packet_mark.is_none()).context("the proxy cannot serve pods")?;
    chassis::block_on(serve(config)).context("no runtime")?
}

async fn serve(config: Config) -> Result<()> {
    let signals = Signals::install().context("cannot take over SIGTERM and SIGINT")?;
    let tracing = tracing(&config)?;
    let log = log(&config, tracing.as_ref())?;
    let ports = Ports::bind(&config)?;
    let drain = Drain::new();
    let gate = Gate::new();
    let telemetry = sinks(&config, &log, tracing.clone());
    let pods = Arc::new(Pods::default());
    let shared = Arc::new(Shared {
        pods: pods.clone(),
        pod_networks: config.pod_networks(),
        world: World::new(),
        identities: identities(&config)?,
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
    let follower = Follower { shared: shared.clone(), workers: senders, synced: gate.condition("discovery") };
    tracing::info!(node = %config.node, workers = workers.len(), "node proxy starts");

    let deadline = config.drain.0;
    let admin = admin::routes(&shared, &pods, &log, &drain, deadline);
    let ended = drain.ended();
    tokio::select! {
        result = ports.serve(admin, metrics_routes(&telemetry), readiness_routes(&gate, &drain)) => result?,
        result = discover(follower, &config) => match result? {},
        never = revocations(revoked) => match never {},
        () = keeper.run(zds::proxy::Client::new(&config.zds_socket), |synced| {
            if synced { handed_over.met() } else { handed_over.unmet() }
        }) => {}
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

/// Follows discovery for ever.
async fn discover(follower: Follower, config: &Config) -> Result<Infallible> {
    if let Some(path) = &config.local_file {
        return follower.file(path).await.with_context(|| format!("{}", path.display()));
    }
    if let Some(text) = &config.local_text {
        return Ok(follower.text(text).await?);
    }
    let Some(plane) = &config.xds else { anyhow::bail!("neither `localFile` nor `localText` nor `xds` is given") };
    control_plane::follow(follower, config, plane).await.context("`xds`")
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

/// Where records go.
fn sinks(config: &Config, log: &LogHandle, tracing: Option<Tracing>) -> Telemetry {
    let telemetry = Telemetry::new(telemetry::Config {
        access: Some(AccessLog::new(log)),
        tracing,
        policy_info: config.log.policy_info,
        ..telemetry::Config::default()
    });
    telemetry.metrics().build_info("ztunnel", env!("CARGO_PKG_VERSION"));
    telemetry.metrics().process();
    telemetry
}

/// The exporter of spans, if one is wanted.
fn tracing(config: &Config) -> Result<Option<Tracing>> {
    let from_file = |otlp: &config::Otlp| {
        let mut tracing = TracingConfig::new(&otlp.endpoint, "ztunnel");
        tracing.sampler = Sampler::ParentRatio(otlp.sampling);
        tracing
    };
    let Some(mut tracing) = config.otel.clone().or_else(|| config.otlp.as_ref().map(from_file)) else {
        return Ok(None);
    };
    for (key, value) in [("k8s.node.name", &config.node), ("k8s.cluster.name", &config.cluster)] {
        // What OTEL_RESOURCE_ATTRIBUTES says wins.
        if !tracing.resource.iter().any(|(k, _)| k == key) {
            tracing.attribute(key, value);
        }
    }
    Tracing::start(&tracing, None).map(Some).context("traces")
}

fn log(config: &Config, tracing: Option<&Tracing>) -> Result<LogHandle> {
    let writer = LineWriter::stdout().context("no thread for the log")?;
    let format = match config.log.format {
        config::LogFormat::Json => LogFormat::Json,
        config::LogFormat::Text => LogFormat::Plain,
    };
    let level = config.log.level.clone().unwrap_or_else(|| DEFAULT_LEVEL.to_owned());
    telemetry::init_logging(&LogConfig { level, format }, writer, tracing).context("`log`")
}

/// The servers of the proxy itself.
struct Ports {
    admin: Server,
    metrics: Server,
    ready: Server,
}

impl Ports {
    /// Listens on all, so that a port which is taken stops the program before it does anything else.
    fn bind(config: &Config) -> Result<Self> {
        let bind = |name, address: SocketAddr| Server::bind(name, address);
        Ok(Self {
            admin: bind("admin", config.admin)?,
            metrics: bind("metrics", config.metrics)?,
            ready: bind("readiness", config.ready)?,
        })
    }

    async fn serve(self, admin: chassis::Router, metrics: chassis::Router, ready: chassis::Router) -> Result<()> {
        let never = std::future::pending::<()>;
        let all = async {
            tokio::try_join!(
                self.admin.serve(admin, never()),
                self.metrics.serve(metrics, never()),
                self.ready.serve(ready, never()),
            )
        };
        all.await.context("admin servers")?;
        Ok(())
    }
}

fn identities(config: &Config) -> Result<Manager> {
    let ca = &config.ca;
    let channel = ChannelConfig {
        alt_name: ca.alt_name.clone(),
        ..ChannelConfig::new(&ca.address, config::roots(&ca.root_file))
    };
    let signer = GrpcSigner::new(GrpcSignerConfig {
        channel,
        token_file: Some(ca.token_file.clone()),
        cluster_id: config.cluster.clone(),
        headers: ca.headers.clone().into_iter().collect(),
        impersonate: true,
    })
    .context("`ca`")?;
    let manager = identity::Config { ttl: ca.certificate_lifetime.0, ..identity::Config::default() };
    Ok(Manager::new(manager, Arc::new(signer)))
}

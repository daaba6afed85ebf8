//! Puts the parts together and runs them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use chassis::admin::{Reply, Router, admin_routes, metrics_routes, readiness_routes};
use chassis::{Drain, Gate, Server, Signals};
use http::StatusCode;
use redirect_loader::{LoadConfig, Redirector, probe};
use telemetry::{LineWriter, LogConfig, LogFormat, LogHandle, Telemetry};
use tokio::sync::{mpsc, oneshot};
use zds::agent::Options;

use crate::agent::{Agent, Manner, Parts};
use crate::config::{Config, KubernetesConfig};
use crate::file::{self, Listed};
use crate::find::{self, Finder};
use crate::kubernetes::{self, Feed};
use crate::meters::Meters;
use crate::status::Status;

/// Time for the last lines of the log.
const FLUSH: Duration = Duration::from_secs(1);

/// What proxies do.
pub(crate) type Events = mpsc::UnboundedReceiver<zds::agent::Event>;

/// Who wants to know the status, as it is when the agent gets to answer: the kernel's counters move without an event.
type Asked = mpsc::Receiver<oneshot::Sender<Status>>;

/// Where pods come from.
enum Origin {
    File(Listed),
    Kubernetes(Feed, Box<KubernetesConfig>),
}

/// What is to become of the node after the agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Capture stays: a dead agent changes nothing, and the next one takes over.
    Stay,
    /// Culvert is being removed from the cluster: [`unload`] comes next, in a process of its own, since nothing of this one
    /// may be at work meanwhile.
    Unload,
}

/// Runs the agent until SIGTERM.
///
/// # Errors
/// When a part cannot start or ends.
pub fn run(config: Config) -> Result<Ended> {
    chassis::block_on(serve(settled(config))).context("no runtime")?
}

/// Takes all capture away, and on Kubernetes everything else that the agent put onto the node.
///
/// # Errors
/// When something is left; the text says what.
pub fn unload(config: Config) -> Result<()> {
    let Some(kubernetes) = &config.kubernetes else {
        return Redirector::unload(&config.bpffs).context("not everything was taken away");
    };
    let _log = logging(&config)?;
    let kubernetes = kubernetes.clone();
    let failed = chassis::block_on(kubernetes::remove(&settled(config), &kubernetes)).context("no runtime")?;
    if failed.is_empty() { Ok(()) } else { bail!("not everything was taken away:\n  {}", failed.join("\n  ")) }
}

/// With the cgroup that is meant in place of the configured one.
fn settled(mut config: Config) -> Config {
    config.cgroup_root = find::on_v2(config.cgroup_root);
    config
}

async fn serve(config: Config) -> Result<Ended> {
    let signals = Signals::install().context("cannot take over SIGTERM and SIGINT")?;
    let log = logging(&config)?;
    let admin = Server::bind("admin", config.admin)?;
    let health = config.health().map(|address| Server::bind("health", address)).transpose()?;
    let telemetry = Telemetry::new(telemetry::Config::default());
    telemetry.metrics().build_info("node", env!("CARGO_PKG_VERSION"));
    let (drain, gate) = (Drain::new(), Gate::new());
    let listed = config.pods_file.as_deref().map(Listed::read).transpose()?;
    let finder = finder(&config)?;
    let agent = start(&config, finder.clone())?;
    let origin = match (listed, &config.kubernetes) {
        (Some(listed), _) => Origin::File(listed),
        (None, Some(kubernetes)) => {
            let meters = Meters::new(telemetry.metrics());
            let feed = kubernetes::start(&config, kubernetes, finder, meters, &gate).await?;
            Origin::Kubernetes(feed, Box::new(kubernetes.clone()))
        }
        // Refused by the check of the configuration.
        (None, None) => bail!("neither podsFile nor kubernetes is given"),
    };
    let (ask, asked) = mpsc::channel(1);
    let routes = admin_routes(&log, &drain, Duration::ZERO).merge(metrics_routes(&telemetry)).merge(status_route(ask));
    let shown = readiness_routes(&gate, &drain).merge(metrics_routes(&telemetry));
    let kubernetes = config.kubernetes.clone();
    let mut work = work(agent, origin, config, asked)?;
    tokio::select! {
        result = admin.serve(routes, std::future::pending::<()>()) => result.context("admin server")?,
        result = serve_health(health, shown) => result.context("health server")?,
        result = &mut work => result.context("the agent's thread ended")??,
        _ended = signals.drain(&drain, Duration::ZERO) => {}
    }
    let ended = match &kubernetes {
        Some(kubernetes) if kubernetes::is_leaving(kubernetes).await => Ended::Unload,
        _ => Ended::Stay,
    };
    log.flush(FLUSH);
    Ok(ended)
}

async fn serve_health(server: Option<Server>, routes: Router) -> std::io::Result<()> {
    match server {
        Some(server) => server.serve(routes, std::future::pending::<()>()).await,
        None => std::future::pending().await,
    }
}

fn logging(config: &Config) -> Result<LogHandle> {
    let level = config.log_level.clone().unwrap_or_else(|| "info".to_owned());
    let writer = LineWriter::stdout().context("no thread for the log")?;
    telemetry::init_logging(&LogConfig { level, format: LogFormat::Plain }, writer, None).context("`logLevel`")
}

fn status_route(ask: mpsc::Sender<oneshot::Sender<Status>>) -> Router {
    Router::new().get("/status", "pods, whether they are captured, and proxies", move |_| {
        let ask = ask.clone();
        async move {
            match now(&ask).await {
                Some(status) => Reply::json(&status),
                None => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending"),
            }
        }
    })
}

async fn now(ask: &mpsc::Sender<oneshot::Sender<Status>>) -> Option<Status> {
    let (answer, status) = oneshot::channel();
    ask.send(answer).await.ok()?;
    status.await.ok()
}

/// Runs the agent on a thread of its own: enrolling a pod takes up to 100 ms of system calls, and meanwhile proxies want
/// answers on the hand-over socket, which has this thread.
fn work(agent: (Agent, Events), origin: Origin, config: Config, asked: Asked) -> Result<oneshot::Receiver<Result<()>>> {
    let (done, ended) = oneshot::channel();
    let body = move || {
        let run = async move {
            match origin {
                Origin::File(listed) => file::follow(agent, listed, &config.node, asked).await,
                Origin::Kubernetes(feed, kubernetes) => {
                    kubernetes::follow(agent, feed, &config, &kubernetes, asked).await
                }
            }
        };
        let result = chassis::block_on(run).context("no runtime").flatten();
        // When nobody waits any more the program is ending.
        drop(done.send(result));
    };
    std::thread::Builder::new().name("agent".to_owned()).spawn(body).context("no thread for the agent")?;
    Ok(ended)
}

fn finder(config: &Config) -> Result<Finder> {
    let proc = config.kubernetes.as_ref().map_or("/proc".into(), |k| k.proc.clone());
    Finder::new(&proc, &config.cgroup_root).context("`cgroupRoot`")
}

/// Loads the redirector and opens the hand-over sockets.
fn start(config: &Config, finder: Finder) -> Result<(Agent, Events)> {
    if let Err(missing) = probe() {
        let lines: Vec<String> = missing.iter().map(|m| format!("  {m}")).collect();
        bail!("this node cannot capture pods:\n{}", lines.join("\n"));
    }
    // Only root may be the proxy: whoever is admitted here gets pods' network namespaces and may not be captured. Who else
    // is refused is the agent's decision, which knows the pods.
    let options = Options::new(|peer| match peer.uid {
        0 => Ok(()),
        other => Err(format!("runs as uid {other}, and only root may be the node proxy")),
    });
    let sockets = config.sockets();
    for folder in sockets.iter().filter_map(|socket| socket.parent()) {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let (server, events) = zds::agent::Server::bind_all(&sockets, options).context("hand-over socket")?;
    // After the socket, which only one agent can have: programs of a running agent are not replaced by a second one.
    let load = LoadConfig { cgroup_root: config.cgroup_root.clone(), bpffs: config.bpffs.clone() };
    let redirector = Redirector::load(&load).context("cannot load the redirector")?;
    let manner = match &config.kubernetes {
        Some(kubernetes) => Manner::Kubernetes { notice: kubernetes.leave_notice.0 },
        None => Manner::File,
    };
    let (leave, clear) =
        (config.leave_deadline.as_ref().map(|span| span.0), config.clear_deadline.as_ref().map(|span| span.0));
    let parts = Parts { redirector, server, finder, leave, clear, manner };
    Ok((Agent::new(parts).context("cannot start")?, events))
}

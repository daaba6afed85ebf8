//! Puts the parts together and runs them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chassis::admin::{Reply, admin_routes, metrics_routes};
use chassis::{Drain, Server, Signals};
use document::watch::Watcher;
use http::StatusCode;
use redirect_loader::{LoadConfig, Redirector, probe};
use telemetry::{LineWriter, LogConfig, LogFormat, Telemetry};
use tokio::sync::{mpsc, oneshot};
use zds::agent::Options;

use crate::agent::Agent;
use crate::config::{Config, PodsFile};
use crate::status::Status;

/// How often leaving pods are looked after: the kernel does not tell when a pod's last captured connection has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Time for the last lines of the log.
const FLUSH: Duration = Duration::from_secs(1);

/// Runs the agent until SIGTERM. Capture stays: a dead agent changes nothing.
pub(crate) fn run(config: Config) -> Result<()> {
    chassis::block_on(serve(config)).context("no runtime")?
}

/// Takes all capture away.
pub(crate) fn unload(config: &Config) -> Result<()> {
    Redirector::unload(&config.bpffs).context("not everything was taken away")
}

async fn serve(config: Config) -> Result<()> {
    let signals = Signals::install().context("cannot take over SIGTERM and SIGINT")?;
    let level = config.log_level.clone().unwrap_or_else(|| "info".to_owned());
    let writer = LineWriter::stdout().context("no thread for the log")?;
    let log =
        telemetry::init_logging(&LogConfig { level, format: LogFormat::Plain }, writer, None).context("`logLevel`")?;
    let admin = Server::bind("admin", config.admin)?;
    let list = list(&config.pods_file)?;
    let agent = start(&config)?;
    let telemetry = Telemetry::new(telemetry::Config::default());
    telemetry.metrics().build_info("node", env!("CARGO_PKG_VERSION"));
    let drain = Drain::new();
    let (ask, asked) = mpsc::channel(1);
    let routes = admin_routes(&log, &drain, Duration::ZERO).merge(metrics_routes(&telemetry)).get(
        "/status",
        "pods, whether they are captured, and proxies",
        move |_| {
            let ask = ask.clone();
            async move {
                match now(&ask).await {
                    Some(status) => Reply::json(&status),
                    None => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending"),
                }
            }
        },
    );
    let mut work = work(agent, list, config.clone(), asked)?;
    tokio::select! {
        result = admin.serve(routes, std::future::pending::<()>()) => result.context("admin server")?,
        result = &mut work => result.context("the agent's thread ended")??,
        _ended = signals.drain(&drain, Duration::ZERO) => {}
    }
    log.flush(FLUSH);
    Ok(())
}

/// Who wants to know the status, as it is when the agent gets to answer: the kernel's counters move without an event.
type Asked = mpsc::Receiver<oneshot::Sender<Status>>;

async fn now(ask: &mpsc::Sender<oneshot::Sender<Status>>) -> Option<Status> {
    let (answer, status) = oneshot::channel();
    ask.send(answer).await.ok()?;
    status.await.ok()
}

/// Runs the agent on a thread of its own: enrolling a pod takes up to 100 ms of system calls, and meanwhile proxies want
/// answers on the hand-over socket, which has this thread.
fn work(agent: (Agent, Events), list: PodsFile, config: Config, asked: Asked) -> Result<oneshot::Receiver<Result<()>>> {
    let (done, ended) = oneshot::channel();
    let body = move || {
        let run = async move {
            let mut agent = agent;
            agent.0.apply(list);
            follow(agent, &config, asked).await
        };
        let result = chassis::block_on(run).context("no runtime").flatten();
        // When nobody waits any more the program is ending.
        drop(done.send(result));
    };
    std::thread::Builder::new().name("agent".to_owned()).spawn(body).context("no thread for the agent")?;
    Ok(ended)
}

type Events = mpsc::UnboundedReceiver<zds::agent::Event>;

/// Loads the redirector and opens the hand-over socket.
fn start(config: &Config) -> Result<(Agent, Events)> {
    if let Err(missing) = probe() {
        let lines: Vec<String> = missing.iter().map(|m| format!("  {m}")).collect();
        bail!("this node cannot capture pods:\n{}", lines.join("\n"));
    }
    // Only root may be the proxy: whoever is admitted here gets pods' network namespaces and may not be captured.
    let options = Options::new(|peer| match peer.uid {
        0 => Ok(()),
        other => Err(format!("runs as uid {other}, and only root may be the node proxy")),
    });
    if let Some(folder) = config.zds_socket.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let (server, events) = zds::agent::Server::bind(&config.zds_socket, options).context("hand-over socket")?;
    // After the socket, which only one agent can have: programs of a running agent are not replaced by a second one.
    let load = LoadConfig { cgroup_root: config.cgroup_root.clone(), bpffs: config.bpffs.clone() };
    let redirector = Redirector::load(&load).context("cannot load the redirector")?;
    let leave = config.leave_deadline.0;
    let agent = Agent::new(redirector, server, &config.cgroup_root, leave).context("cannot start")?;
    Ok((agent, events))
}

fn list(path: &Path) -> Result<PodsFile> {
    Ok(document::load::<PodsFile>(path)?)
}

/// Follows the list and the proxies for ever.
async fn follow((mut agent, mut events): (Agent, Events), config: &Config, mut asked: Asked) -> Result<()> {
    let path = &config.pods_file;
    let mut watcher = Watcher::new(path).with_context(|| format!("{}: cannot be watched", path.display()))?;
    let mut look = tokio::time::interval(LOOK);
    let mut leaving = true;
    // What was written between the first reading and the watch.
    match list(path) {
        Ok(list) => agent.apply(list),
        Err(mistakes) => tracing::warn!(file = %path.display(), %mistakes, "list of pods not taken over"),
    }
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => agent.proxy(event),
                None => bail!("the hand-over socket is gone"),
            },
            changed = watcher.changed() => {
                changed.with_context(|| format!("{}: cannot be watched any more", path.display()))?;
                match list(path) {
                    Ok(list) => agent.apply(list),
                    Err(mistakes) => tracing::warn!(file = %path.display(), %mistakes, "list of pods not taken over"),
                }
                leaving = true;
            }
            // The sender lives in the routes of the admin server, which end with this.
            Some(answer) = asked.recv() => {
                let told = answer.send(agent.status(&config.node));
                tracing::trace!(told = told.is_ok(), "status");
            }
            _tick = look.tick(), if leaving => leaving = agent.tick(),
        }
    }
}

//! Puts the parts together and runs them.
//!
//! Threads: this one (pages, certificate, statuses, signals), one for the source of objects, one that owns the world, and
//! those that serve. They talk by channels, so that a large push keeps neither a change nor the kubelet waiting.

mod parts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chassis::admin::{Server as Page, admin_routes, readiness_routes};
use chassis::{Drain, Gate, Signals, Workers};
use telemetry::{LineWriter, LogConfig, LogFormat, LogHandle, Metrics};
use tokio::sync::{mpsc, oneshot, watch};
use xds::server::{Server, Store};

use crate::apply::{self, Apply, Ask, Outside, Sinks, Words};
use crate::arrival::Feed;
use crate::config::{Config, Listen};
use crate::grants::{Grants, PATIENCE};
use crate::metrics::{self, Numbers};
use crate::proxies::{Account, Proxies};
use crate::serve::Listener;
use crate::world::World;
use crate::{debug, keys, tls};
use parts::{Objects, Plane};

/// Events between the source and the world. A list comes faster than it is applied, and waits here; some kilobytes each.
const FEED: usize = 4096;

/// Time for the last lines of the log.
const FLUSH: Duration = Duration::from_secs(1);

/// Time that streams and statuses get after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the control plane until SIGTERM.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(config: Config) -> Result<()> {
    let format = if config.log.json { LogFormat::Json } else { LogFormat::Plain };
    let writer = LineWriter::stdout().context("no thread for the log")?;
    let log = telemetry::init_logging(&LogConfig { level: config.log.level.clone(), format }, writer, None)
        .context("log.level")?;
    let body = async {
        let signals = Signals::install().context("cannot take over SIGTERM and SIGINT")?;
        Control::prepare(config).await?.run(signals, Some(&log)).await
    };
    let ended = chassis::block_on(body).context("no runtime")?;
    log.flush(FLUSH);
    ended
}

/// Says what is wrong with what the configuration names, and makes nothing.
///
/// # Errors
/// The mistakes.
pub fn check(config: &Config) -> Result<()> {
    if let Some(folder) = &config.source.folder {
        crate::folder::Folder::check(folder)?;
    }
    if let Some(file) = &config.token_file {
        drop(crate::grants::TokenFile::open(file.clone())?);
    }
    if let Some(files) = &config.certificate.files {
        drop(tls::from_files(files)?);
    }
    Ok(())
}

/// A control plane whose ports are bound and whose threads run.
pub struct Control {
    config: Config,
    store: Store,
    server: Server<Grants>,
    plane: Plane,
    gate: Gate,
    drain: Drain,
    metrics: Arc<Metrics>,
    asks: mpsc::Sender<Ask>,
    pod_cidrs: watch::Receiver<Vec<mesh::addr::Cidr>>,
    published: watch::Receiver<Option<apply::Published>>,
    outside: Outside,
    /// Where answers from outside go.
    answers: mpsc::Sender<Feed>,
    words: Option<mpsc::UnboundedReceiver<Words>>,
    workers: Workers,
    threads: Vec<(&'static str, oneshot::Receiver<Result<()>>)>,
    address: SocketAddr,
    ports: Ports,
}

struct Ports {
    metrics: Page,
    health: Page,
    admin: Page,
}

impl Ports {
    fn bind(listen: &Listen) -> Result<Self> {
        let bind = |name, address| Page::bind(name, Listen::usable(address));
        Ok(Self {
            metrics: bind("metrics", listen.metrics)?,
            health: bind("health", listen.health)?,
            admin: bind("admin", listen.admin)?,
        })
    }
}

fn grants(config: &Config, plane: &Plane, proxies: Proxies, drain: &Drain, metrics: &Metrics) -> Grants {
    metrics.constant(
        "culvert_build",
        "Version of this program",
        vec![("component", "control".to_owned()), ("version", env!("CARGO_PKG_VERSION").to_owned())],
    );
    Grants {
        reviewer: plane.reviewer.clone(),
        proxies,
        cluster_id: config.mesh.cluster_id.clone(),
        stream_life: config.pace.stream_life.get(),
        patience: PATIENCE,
        drain: drain.signal(),
        verdicts: metrics.counters("culvert_control_verdicts", "Judged streams, by result", &["result"]),
    }
}

impl Control {
    /// Binds the ports and starts the threads. Must be called on a runtime with local tasks.
    ///
    /// # Errors
    /// Whatever keeps it from running, before anything is served.
    pub async fn prepare(config: Config) -> Result<Self> {
        let ports = Ports::bind(&config.listen)?;
        let listener = Listener::bind(Listen::usable(config.listen.xds))?;
        let address = listener.address();
        let (gate, drain, metrics) = (Gate::new(), Drain::new(), Arc::new(Metrics::new()));
        let objects_known = gate.condition("objects");
        let plane = Plane::new(&config, &gate, &metrics).await?;
        let proxies = Proxies::new(config.node_proxies.iter().filter_map(|text| Account::parse(text)));
        let store = apply::store();
        let server = Server::new(store.clone(), grants(&config, &plane, proxies.clone(), &drain, &metrics));
        let (feed, fed) = mpsc::channel(FEED);
        let (asks, asked) = mpsc::channel(16);
        let outside = Outside { vet: keys::Vet::strict(), ..Outside::default() };
        let answers = feed.clone();
        let (words, said) = mpsc::unbounded_channel();
        let (pod_cidrs, published) = (Arc::new(watch::Sender::default()), Arc::new(watch::Sender::default()));
        metrics::register(&metrics, &store, &server, &feed, plane.cached.clone());
        let sinks = Sinks {
            store: store.clone(),
            proxies,
            words,
            pod_cidrs: pod_cidrs.clone(),
            published: published.clone(),
            outside: outside.clone(),
            ready: objects_known,
            numbers: Numbers::new(&metrics),
        };
        let threads = vec![
            ("objects", objects_thread(&config, feed, &metrics)?),
            ("world", world_thread(&config, sinks, fed, asked)?),
        ];
        let serving = parts::serving_threads(config.pace.threads);
        let workers = listener.serve(serving, &server, plane.tls.clone(), &gate, &drain.signal());
        let workers = workers.context("no threads to serve on")?;
        let (pod_cidrs, published, words) = (pod_cidrs.subscribe(), published.subscribe(), Some(said));
        Ok(Self {
            config,
            store,
            server,
            plane,
            gate,
            drain,
            metrics,
            asks,
            pod_cidrs,
            published,
            outside,
            answers,
            words,
            workers,
            threads,
            address,
            ports,
        })
    }

    /// Where discovery is served; the port is the real one when 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is ready.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Ends it.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// How the clients stand.
    pub fn clients(&self) -> std::collections::BTreeMap<u64, xds::server::ClientReport> {
        self.server.clients()
    }

    /// The routes of the three ports: metrics, health, admin.
    fn routes(&self, log: Option<&LogHandle>) -> [chassis::Router; 3] {
        let cluster = &self.config.mesh.cluster_id;
        let metrics = debug::metrics_routes(self.metrics.clone(), &self.server, cluster);
        let own = debug::admin_routes(&self.server, &self.store, self.pod_cidrs.clone(), self.asks.clone(), cluster);
        let admin = match log {
            Some(log) => admin_routes(log, &self.drain, DRAIN).merge(own),
            None => own,
        };
        [metrics, readiness_routes(&self.gate, &self.drain), admin]
    }

    /// Runs until a signal, or until a part breaks. `log` is what the admin port changes the levels of.
    ///
    /// # Errors
    /// When a part broke.
    pub async fn run(mut self, signals: Signals, log: Option<&LogHandle>) -> Result<()> {
        let [metrics, health, admin] = self.routes(log);
        let signal = self.drain.signal();
        let Ports { metrics: on_metrics, health: on_health, admin: on_admin } = self.ports;
        let mut pages = tokio::task::JoinSet::new();
        for (page, routes) in [(on_metrics, metrics), (on_health, health), (on_admin, admin)] {
            let signal = signal.clone();
            // Pages stay until everything else has ended, so that the kubelet sees why we are not ready.
            pages.spawn_local(page.serve(routes, async move { signal.forced().await }));
        }
        tracing::info!(address = %self.address, "discovery");
        let renewal = self.plane.keep_certificate();
        let converge = metrics::convergence(self.metrics.clone(), self.server.clone(), self.published.clone());
        let outside =
            self.plane.outside(&self.config, &self.outside, self.server.clone(), self.answers.clone(), &self.metrics);
        let words = self.words.take();
        let (asks, waiting) = (self.asks.clone(), self.outside.waiting.subscribe());
        let statuses = self.plane.statuses(&self.config, words, asks, waiting, &self.metrics, &signal);
        let broken = async {
            tokio::select! {
                never = renewal => match never {},
                never = converge => match never {},
                never = statuses => match never {},
                never = outside => match never {},
                ended = self.workers.ended() => match ended {
                    Ok(()) => std::future::pending().await,
                    Err(error) => Err(anyhow::Error::from(error)),
                },
                ended = thread_ended(&mut self.threads) => ended,
            }
        };
        tokio::select! {
            _ended = signals.drain(&self.drain, DRAIN) => Ok(()),
            ended = broken => ended,
        }
    }
}

/// A thread with a runtime of its own; the receiver tells how it ended.
fn thread<Fut: Future<Output = Result<()>>>(
    name: &str,
    body: impl FnOnce() -> Fut + Send + 'static,
) -> Result<oneshot::Receiver<Result<()>>> {
    let (done, ended) = oneshot::channel();
    let run = move || {
        let result = chassis::block_on(async move { body().await }).context("no runtime").flatten();
        // When nobody waits any more the program is ending.
        drop(done.send(result));
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).with_context(|| format!("no thread {name}"))?;
    Ok(ended)
}

/// The first thread that ends, which none should.
async fn thread_ended(threads: &mut [(&'static str, oneshot::Receiver<Result<()>>)]) -> Result<()> {
    let all = threads.iter_mut().map(|(name, ended)| Box::pin(async move { (*name, ended.await) }));
    let ((name, ended), _, _) = futures_util::future::select_all(all).await;
    match ended {
        Ok(Err(error)) => Err(error.context(format!("thread {name}"))),
        Ok(Ok(())) => bail!("thread {name} has ended"),
        Err(_) => bail!("thread {name} panicked"),
    }
}

fn objects_thread(
    config: &Config,
    feed: mpsc::Sender<Feed>,
    metrics: &Metrics,
) -> Result<oneshot::Receiver<Result<()>>> {
    let errors = metrics.counters("culvert_control_watch_errors", "Errors of watches, by kind", &["kind"]);
    let objects = Objects::of(config);
    thread("objects", move || objects.run(feed, errors))
}

fn world_thread(
    config: &Config,
    sinks: Sinks,
    fed: mpsc::Receiver<Feed>,
    asked: mpsc::Receiver<Ask>,
) -> Result<oneshot::Receiver<Result<()>>> {
    let settings = parts::settings(config);
    let pace = apply::Pace { debounce: config.pace.debounce.get(), batch: config.pace.batch };
    thread("world", move || async move {
        Apply::new(World::new(settings), sinks, pace).run(fed, asked).await?;
        Ok(())
    })
}

//! The parts that differ between a cluster and a folder.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use chassis::readiness::Condition;
use chassis::{Gate, Signal};
use identity::channel::TrustedRoots;
use identity::server::ServerTls;
use kube::Client;
use kubernetes::client::{Source, connect};
use kubernetes::review::{Cached, Limits, Reviewer, TokenReviewer};
use telemetry::Metrics;
use telemetry::metrics::CounterFamily;
use tokio::sync::{mpsc, watch as watched};
use xds::server::Server;

use crate::acknowledged::{self, Replicas};
use crate::apply::{Ask, Outside, Waiting, Words};
use crate::arrival::Feed;
use crate::config::Config;
use crate::deploy::Deployer;
use crate::folder::Folder;
use crate::grants::{Grants, Known, TokenFile};
use crate::keys::{self, Fetcher};
use crate::lease::Election;
use crate::maps;
use crate::status_writer::Writer;
use crate::tls::{self, Renewal};
use crate::watch;
use crate::world::Settings;

/// User agent at the API server.
const PROGRAM: &str = concat!("culvert-control/", env!("CARGO_PKG_VERSION"));

/// Where objects come from.
#[derive(Clone, Debug)]
pub(super) enum Objects {
    Folder(PathBuf),
    Cluster(Source),
}

impl Objects {
    pub(super) fn of(config: &Config) -> Self {
        match &config.source.folder {
            Some(folder) => Self::Folder(folder.clone()),
            None => Self::Cluster(source(config)),
        }
    }

    pub(super) async fn run(self, feed: mpsc::Sender<Feed>, errors: CounterFamily) -> Result<()> {
        match self {
            Self::Folder(folder) => Folder::open(&folder)?.run(feed).await?,
            Self::Cluster(source) => watch::run(connect(&source, PROGRAM).await?, feed, errors).await,
        }
        Ok(())
    }
}

fn source(config: &Config) -> Source {
    let kubernetes = config.source.kubernetes.clone().unwrap_or_default();
    kubernetes.kubeconfig.map_or(Source::InCluster, |path| Source::Kubeconfig { path, context: kubernetes.context })
}

/// Who judges tokens, who certifies us, who hears of faults.
pub(super) struct Plane {
    /// `None` without a cluster.
    client: Option<Client>,
    pub(super) reviewer: Arc<dyn Reviewer>,
    pub(super) cached: Option<Cached>,
    pub(super) tls: Arc<ServerTls>,
    certified: Condition,
    renewal: Option<Renewal>,
    /// Whether this replica leads.
    leads: watched::Sender<bool>,
}

impl Plane {
    pub(super) async fn new(config: &Config, gate: &Gate, metrics: &Metrics) -> Result<Self> {
        let certified = gate.condition("certificate");
        let expiry = metrics.gauge(
            "culvert_control_certificate_expiry_seconds",
            "End of the server certificate from the CA, Unix time",
        );
        let renewal = match &config.certificate.ca {
            Some(ca) => {
                let mesh = &config.mesh;
                Some(Renewal::new(ca, &mesh.trust_domain, &mesh.cluster_id, certified.clone(), expiry)?)
            }
            None => None,
        };
        let tls = match (&renewal, &config.certificate.files) {
            (Some(renewal), _) => renewal.tls(),
            (None, Some(files)) => tls::from_files(files)?,
            // The configuration's check has refused it.
            (None, None) => Arc::new(ServerTls::empty()),
        };
        if let Some(file) = &config.token_file {
            let reviewer = Arc::new(TokenFile::open(file.clone())?);
            let leads = watched::Sender::new(false);
            return Ok(Self { client: None, reviewer, cached: None, tls, certified, renewal, leads });
        }
        let client = connect(&source(config), PROGRAM).await.context("source.kubernetes")?;
        let asked = Arc::new(TokenReviewer::new(client.clone(), config.audience.as_str()));
        let cached = Cached::new(asked, Limits::default());
        let reviewer = Arc::new(Known::new(Arc::new(cached.clone()), config.pace.outage.get()));
        let leads = watched::Sender::new(false);
        Ok(Self { client: Some(client), reviewer, cached: Some(cached), tls, certified, renewal, leads })
    }

    /// Fetches what the world needs from outside, and hears for it when nodes have acknowledged; for ever.
    pub(super) fn outside(
        &self,
        config: &Config,
        outside: &Outside,
        server: Server<Grants>,
        feed: mpsc::Sender<Feed>,
        metrics: &Metrics,
    ) -> impl Future<Output = Infallible> + use<> {
        let roots = config.issuer_roots.clone().map_or(TrustedRoots::System, TrustedRoots::File);
        let fetcher = Fetcher::new(outside.vet.clone(), roots);
        let fetched =
            metrics.counters("culvert_control_key_fetches", "Fetches of issuers' keys, by result", &["result"]);
        let errors = metrics.counters("culvert_control_map_errors", "Errors of watches of ConfigMaps", &["kind"]);
        let keys = keys::run(fetcher, outside.keys.subscribe(), feed.clone(), fetched);
        let acknowledged = acknowledged::run(server, outside.waiting.subscribe(), feed.clone(), self.replicas(config));
        let maps = self.client.clone().map(|client| maps::run(client, outside.maps.subscribe(), feed, errors));
        async move {
            let maps = async {
                if let Some(maps) = maps {
                    maps.await;
                }
            };
            // They end when the world does, and the program follows.
            tokio::join!(keys, acknowledged, maps);
            std::future::pending().await
        }
    }

    /// Those who serve beside us, where a cluster knows of us.
    fn replicas(&self, config: &Config) -> Option<Replicas> {
        let leader = &config.leader;
        let client = self.client.clone().filter(|_| leader.write_statuses)?;
        Some(Replicas::new(client, &leader.namespace, leader.identity.as_deref()?, self.leads.subscribe()))
    }

    /// Keeps the server certificate good, for ever.
    pub(super) fn keep_certificate(&mut self) -> impl Future<Output = Infallible> + use<> {
        let (renewal, tls, certified) = (self.renewal.take(), self.tls.clone(), self.certified.clone());
        async move {
            match renewal {
                Some(renewal) => renewal.run().await,
                None => tls::watch_files(tls, certified).await,
            }
        }
    }

    /// Says on objects what is to be said, when we lead, for ever. Without a cluster it is shown and logged.
    pub(super) fn statuses(
        &self,
        config: &Config,
        words: Option<mpsc::UnboundedReceiver<Words>>,
        asks: mpsc::Sender<Ask>,
        waiting: watched::Receiver<Waiting>,
        metrics: &Metrics,
        signal: &Signal,
    ) -> impl Future<Output = Infallible> + use<> {
        let leading = metrics.gauge("culvert_control_leader", "1 while this replica writes statuses");
        let written = metrics.counters("culvert_control_status_writes", "Statuses written, by result", &["result"]);
        let deployed = metrics.counters("culvert_control_waypoint_tasks", "Work on waypoints, by result", &["result"]);
        let (waypoint, mesh) = (config.waypoint.clone(), config.mesh.clone());
        let client = self.client.clone().filter(|_| config.leader.write_statuses);
        let (leader, rate, signal) = (config.leader.clone(), config.pace.status_writes, signal.clone());
        let (told, alone) = (self.leads.clone(), self.client.is_none());
        async move {
            let (client, words) = match (client, words) {
                (Some(client), Some(words)) => (client, words),
                (_, words) => return unwritten(words, alone).await,
            };
            let me = leader.identity.unwrap_or_else(own_name);
            let election = Election::new(client.clone(), &leader.namespace, &leader.lease, &me);
            let (leads, leader, mut shown) = (election.leader(), election.leader(), election.leader());
            let (own, done) = (client.clone(), deployed);
            let deployer = waypoint.map(|values| {
                let (asks, waiting) = (asks.clone(), waiting.clone());
                Deployer { client: own, leader, values, mesh, waiting, asks, done }
            });
            let writer = Writer { client, me, leader: leads, words, asks, rate, written };
            let guard = signal.guard();
            let elect = async {
                election.run(async { signal.draining().await }).await;
                drop(guard);
            };
            let show = async {
                loop {
                    let leads = *shown.borrow_and_update();
                    leading.set(i64::from(leads));
                    told.send_replace(leads);
                    if shown.changed().await.is_err() {
                        return;
                    }
                }
            };
            let deploy = async {
                if let Some(deployer) = deployer {
                    deployer.run().await;
                }
            };
            tokio::join!(elect, writer.run(), deploy, show);
            std::future::pending().await
        }
    }
}

/// Nobody writes: what is said is shown on the admin port, and where no cluster has the objects it is logged, too, since their
/// owner has no other place to see it.
async fn unwritten(words: Option<mpsc::UnboundedReceiver<Words>>, log: bool) -> Infallible {
    if let Some(mut words) = words {
        while let Some(words) = words.recv().await {
            if log {
                tell(&words);
            }
        }
    }
    std::future::pending().await
}

/// Logs what is wrong with objects.
fn tell(words: &Words) {
    let statuses = match words {
        Words::Said(statuses) => statuses,
        Words::Unreadable { key, why, .. } => {
            return tracing::warn!(object = %key, why, "the object has not the shape of its kind and is ignored");
        }
    };
    for status in statuses {
        let object = &status.object;
        let of_parents = status.parents.iter().flat_map(|parent| &parent.conditions);
        for said in status.conditions.iter().chain(of_parents).filter(|said| !said.status) {
            tracing::info!(%object, condition = said.kind, reason = said.reason, why = said.message, "does not hold");
        }
        for event in &status.events {
            tracing::warn!(%object, reason = event.reason, why = event.message, "to be mended");
        }
    }
}

/// A name of our own among the replicas: the host's, which is the pod's, and a random part, since a container that starts
/// again on the same host is another one.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("control");
    format!("{host}_{:08x}", rand::random::<u32>())
}

/// As many as there are CPUs, up to four, unless the operator knows better; see [`crate::config::Pace::threads`].
pub(super) fn serving_threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
        n => n,
    }
}

/// What translation is told besides objects.
pub(super) fn settings(config: &Config) -> Settings {
    let mesh = &config.mesh;
    let defaults = Settings::default();
    Settings {
        trust_domain: mesh.trust_domain.as_str().into(),
        cluster_id: mesh.cluster_id.as_str().into(),
        cluster_domain: mesh.cluster_domain.trim_matches('.').into(),
        network: mesh.network.as_str().into(),
        root_namespace: mesh.root_namespace.as_str().into(),
        pod_cidrs_from_nodes: mesh.pod_cidrs_from_nodes,
        pod_cidrs: mesh.pod_cidrs.iter().filter_map(|c| mesh::addr::Cidr::new(c.addr(), c.prefix_len()).ok()).collect(),
        automatic_waypoints: config.waypoint.as_ref().is_some_and(|w| w.automatic),
        providers: crate::config::providers::providers(&config.extension_providers),
        ..defaults
    }
}

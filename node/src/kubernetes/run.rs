//! Starts the parts that talk to others, and follows what they tell.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chassis::Gate;
use chassis::readiness::Condition;
use kubernetes::client::{Source, connect};
use tokio::sync::{mpsc, oneshot};

use super::enrolment::Settings;
use super::facts::PodFacts;
use super::feed;
use super::hands::{Hands, MANAGER};
use super::mirror::Change;
use super::office::Office;
use super::order::{Order, PodRef};
use crate::agent::Agent;
use crate::app::Events;
use crate::cni::conflist::{OwnConfig, PLUGIN};
use crate::cni::installer::{Chain, Installer};
use crate::cni::server::{self, Asked};
use crate::config::{Config, KubernetesConfig};
use crate::find::Finder;
use crate::meters::Meters;
use crate::status::Status;

/// News for the agent's thread.
#[derive(Debug)]
pub(crate) enum Input {
    Pod(Change<PodFacts>),
    Namespace(Change<Option<String>>),
    /// The CNI plug-in brings a pod.
    Asked(Asked),
    /// Where the plug-in stands.
    Chain(Chain),
    /// The answer to [`Order::Annotate`].
    Annotated {
        pod: PodRef,
        value: Option<&'static str>,
        done: bool,
    },
    /// The answer to [`Order::Look`].
    Looked {
        pod: Option<PodFacts>,
        namespace: Option<(String, Option<String>)>,
    },
}

/// The agent's thread's ends of the channels.
pub(crate) struct Feed {
    inputs: mpsc::UnboundedReceiver<Input>,
    orders: mpsc::UnboundedSender<Order>,
    listed: Condition,
    chained: Option<Condition>,
    finder: Finder,
    meters: Meters,
}

/// How often due things are looked after while there are any: the kernel does not tell when a pod's last captured connection
/// has ended, and a running pod's processes appear without a word.
const LOOK: Duration = Duration::from_millis(200);

/// How often what is captured is compared with what ought to be. It walks over all processes, some 10 ms on a full node.
const AUDIT: Duration = Duration::from_secs(10);

/// Changes that are taken in before anything is decided: the first list comes as one piece.
const BATCH: usize = 1024;

/// Starts watches, hands, installer and the plug-in's socket, as tasks of this runtime.
pub(crate) async fn start(
    config: &Config,
    kubernetes: &KubernetesConfig,
    finder: Finder,
    meters: Meters,
    gate: &Gate,
) -> Result<Feed> {
    let (input, inputs) = mpsc::unbounded_channel();
    let (orders, ordered) = mpsc::unbounded_channel();
    let listed = gate.condition("pods and namespaces");
    let chained = kubernetes.cni.install.then(|| gate.condition("CNI plug-in in the node's chain"));
    let client = connect(&source(kubernetes), MANAGER).await.context("Kubernetes")?;
    let hands = Hands::new(client.clone(), &config.node, meters.failures.clone());
    tokio::spawn(hands.work(ordered, input.clone()));
    let to_pod = feed::sender(input.clone(), Input::Pod);
    let (node, failures, watching) = (config.node.clone(), meters.failures.clone(), client.clone());
    tokio::spawn(async move { feed::pods(watching, &node, to_pod, failures).await });
    let to_namespace = feed::sender(input.clone(), Input::Namespace);
    tokio::spawn(feed::namespaces(client, to_namespace, meters.failures.clone()));
    let socket = &kubernetes.cni.socket;
    let listener = server::bind(socket).with_context(|| format!("the CNI plug-in's socket {}", socket.display()))?;
    let (asked, mut asks) = mpsc::unbounded_channel();
    tokio::spawn(server::serve(listener, asked));
    let to_asked = input.clone();
    tokio::spawn(async move {
        while let Some(asked) = asks.recv().await {
            // Nobody listens any more when the agent's thread has ended; the plug-in is told by the drop.
            drop(to_asked.send(Input::Asked(asked)));
        }
    });
    if kubernetes.cni.install {
        let installer = installer(kubernetes)?;
        tokio::spawn(installer.keep(move |chain| drop(input.send(Input::Chain(chain)))));
    }
    Ok(Feed { inputs, orders, listed, chained, finder, meters })
}

/// Follows pods and proxies for ever.
pub(crate) async fn follow(
    (agent, mut events): (Agent, Events),
    feed: Feed,
    config: &Config,
    kubernetes: &KubernetesConfig,
    mut asked: mpsc::Receiver<oneshot::Sender<Status>>,
) -> Result<()> {
    let Feed { mut inputs, orders, listed, chained, finder, meters } = feed;
    let mut office = Office::new(agent, kubernetes, settings(kubernetes), finder, orders, meters);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut audit = tokio::time::interval(AUDIT);
    audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Before the first list nobody can say who may be a proxy, and what it would get.
            event = events.recv(), if office.is_synced() => match event {
                Some(event) => office.proxy(event),
                None => bail!("the hand-over socket is gone"),
            },
            input = inputs.recv() => {
                let Some(input) = input else { bail!("the program's thread is gone") };
                take(&mut office, input, chained.as_ref());
                for _ in 0..BATCH {
                    match inputs.try_recv() {
                        Ok(input) => take(&mut office, input, chained.as_ref()),
                        Err(_) => break,
                    }
                }
                office.settle();
                if office.is_synced() {
                    listed.met();
                }
            }
            // The sender lives in the routes of the admin server, which end with this.
            Some(answer) = asked.recv() => {
                let told = answer.send(office.status(&config.node));
                tracing::trace!(told = told.is_ok(), "status");
            }
            _tick = look.tick(), if office.is_busy() => office.tick(),
            _tick = audit.tick(), if office.is_synced() => office.audit(),
        }
    }
}

fn take(office: &mut Office, input: Input, chained: Option<&Condition>) {
    if let (Input::Chain(chain), Some(condition)) = (&input, chained) {
        match chain {
            Chain::In { .. } => condition.met(),
            Chain::NoNetwork | Chain::Failed(_) => condition.unmet(),
        }
    }
    office.take(input);
}

pub(super) fn source(kubernetes: &KubernetesConfig) -> Source {
    match &kubernetes.kubeconfig {
        Some(path) => Source::Kubeconfig { path: path.clone(), context: None },
        None => Source::InCluster,
    }
}

fn settings(kubernetes: &KubernetesConfig) -> Settings {
    Settings {
        system_namespace: kubernetes.system_namespace.clone(),
        proxy_accounts: kubernetes.proxies(),
        exclude_namespaces: kubernetes.exclude_namespaces.clone(),
        unsupported_runtime_classes: kubernetes.unsupported_runtime_classes.clone(),
        dns: kubernetes.dns_capture,
    }
}

pub(super) fn installer(kubernetes: &KubernetesConfig) -> Result<Installer> {
    let beside = || -> Result<PathBuf> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(program.with_file_name(PLUGIN))
    };
    let plugin = kubernetes.cni.plugin.clone().map_or_else(beside, Ok)?;
    let cni = &kubernetes.cni;
    let own = OwnConfig {
        socket: cni.socket.display().to_string(),
        system_namespace: kubernetes.system_namespace.clone(),
        exclude_namespaces: kubernetes.exclude_namespaces.clone(),
        // Bounded by the check of the configuration.
        deadline_ms: u64::try_from(cni.deadline.0.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(Installer { conf_dir: cni.conf_dir.clone(), bin_dir: cni.bin_dir.clone(), plugin, own })
}

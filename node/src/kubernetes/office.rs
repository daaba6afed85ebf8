//! The agent's thread on Kubernetes: brings desk, agent and calls together.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::calls::Calls;
use super::desk::{Desk, Place};
use super::enrolment::Settings;
use super::order::Order;
use super::run::Input;
use crate::agent::Agent;
use crate::cni::installer::Chain;
use crate::config::{KubernetesConfig, LateCapture};
use crate::find::{Finder, Held};
use crate::meters::Meters;
use crate::status::{Host, Status};

/// How often running pods whose network is not known are looked for among the processes, when nothing else happens: a walk
/// over all of them.
const SCAN: Duration = Duration::from_secs(1);

/// The device of a pod whose CNI was not heard: runtimes call it so unless told otherwise.
const DEVICE: &str = "eth0";

pub(super) struct Office {
    agent: Agent,
    desk: Desk,
    calls: Calls,
    finder: Finder,
    orders: mpsc::UnboundedSender<Order>,
    meters: Meters,
    late: LateCapture,
    kubelet_port: u16,
    host: Host,
    /// When processes may be walked over again for the same pods.
    next_scan: Instant,
    /// For whom that was done last.
    sought: std::collections::BTreeSet<String>,
    /// Whether the agent has more to do.
    busy: bool,
}

impl Office {
    pub(super) fn new(
        agent: Agent,
        kubernetes: &KubernetesConfig,
        settings: Settings,
        finder: Finder,
        orders: mpsc::UnboundedSender<Order>,
        meters: Meters,
    ) -> Self {
        let calls = Calls::new(kubernetes.cni.deadline.0, meters.adds.clone());
        let cni = if kubernetes.cni.install {
            "not looked at yet"
        } else {
            "not installed by the agent (cni.install: false)"
        };
        Self {
            agent,
            desk: Desk::new(settings),
            calls,
            finder,
            orders,
            meters,
            late: kubernetes.late_capture,
            kubelet_port: kubernetes.kubelet_port,
            host: Host { cni: cni.to_owned(), ..Host::default() },
            next_scan: Instant::now(),
            sought: std::collections::BTreeSet::new(),
            busy: true,
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.desk.is_synced()
    }

    /// Whether something is due although nobody tells anything.
    pub(super) fn is_busy(&self) -> bool {
        self.is_synced() && (self.busy || !self.calls.is_empty() || self.desk.is_waiting() || !self.sought.is_empty())
    }

    /// Takes news in. Nothing is decided before [`Office::settle`].
    pub(super) fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Pod(change) => self.desk.take_pod(change),
            Input::Namespace(change) => self.desk.take_namespace(change),
            Input::Looked { pod, namespace } => self.desk.learn(pod, namespace),
            Input::Asked(asked) => self.calls.take(asked, now),
            Input::Annotated { pod, value, done } => {
                let title = format!("{}/{}", pod.namespace, pod.name);
                self.desk.patched(&title, &pod.uid, value, done, now);
            }
            Input::Chain(chain) => self.chain(chain),
        }
    }

    /// Brings the node in line with what is known.
    pub(super) fn settle(&mut self) {
        if !self.is_synced() {
            return;
        }
        let now = Instant::now();
        let questions = self.calls.decide(&mut self.desk, now);
        self.order(questions);
        self.scan(now);
        // A second time when a pod was given up: it must not stay enrolled.
        for _ in 0..2 {
            let wish = self.desk.wish(self.agent.uids());
            self.agent.apply(wish);
            if !self.report(now) {
                break;
            }
        }
        self.busy = true;
    }

    /// Follows a proxy.
    pub(super) fn proxy(&mut self, event: zds::agent::Event) {
        self.agent.proxy(event);
        // A pod may have been captured, whose old connections have a deadline.
        self.busy = true;
        if self.report(Instant::now()) {
            self.settle();
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        let more = self.agent.tick();
        // Deadlines of calls, second attempts of annotations, pods whose processes appear.
        self.settle();
        self.busy = more;
    }

    /// Compares what is captured with what ought to be, and puts it right.
    pub(super) fn audit(&mut self) {
        self.host.repaired.clear();
        match self.agent.audit() {
            Ok(lacks) => {
                for lack in lacks {
                    tracing::warn!(pod = %lack.uid, what = lack.what, "capture of a pod was damaged; repaired");
                    self.meters.repairs.with(&[lack.what]).inc();
                    self.host.repaired.push(format!("{}: {}", lack.uid, lack.what));
                    let note = format!("{}; put back by the node agent", lack.what);
                    let event = self.desk.tell(&lack.uid, "CaptureRepaired", note);
                    self.order(event);
                    self.agent.repair(&lack.uid);
                }
            }
            Err(error) => tracing::warn!(%error, "what is captured cannot be listed"),
        }
        self.moved();
        self.agent.look_at_pods();
        self.hooks();
        self.kubelet();
        self.settle();
    }

    /// What is shown.
    pub(super) fn status(&self, node: &str) -> Status {
        let (pods, proxies) = self.agent.shown();
        Status { node: node.to_owned(), pods, proxies, left_out: self.desk.left_out(), host: Some(self.host.clone()) }
    }

    /// Tells everybody what came of it. Says whether a pod was given up.
    fn report(&mut self, now: Instant) -> bool {
        let views = self.agent.views();
        let given_up = self.calls.finish(&mut self.desk, &views, now);
        let patches = self.desk.patches(&views, now);
        self.order(patches);
        for uid in self.desk.announced(&views) {
            self.agent.announced(&uid);
        }
        let news = self.desk.news(&views);
        self.order(news);
        let left_out = self.desk.left_out().len();
        self.meters.count(views.values().map(|v| v.phase.word()).chain(std::iter::repeat_n("left_out", left_out)));
        self.meters.proxies.set(self.agent.proxies_connected());
        given_up
    }

    fn order(&self, orders: impl IntoIterator<Item = Order>) {
        for order in orders {
            // Nobody works any more when the program is ending; the next agent sees what is not done.
            drop(self.orders.send(order));
        }
    }

    /// Finds the networks of running pods that the CNI plug-in did not bring.
    fn scan(&mut self, now: Instant) {
        let mut missing = self.desk.missing();
        let unborn = self.desk.unborn();
        if !unborn.is_empty() {
            missing.extend(self.agent.former().intersection(&unborn).cloned());
        }
        let new = !missing.is_subset(&self.sought);
        if missing.is_empty() || (!new && now < self.next_scan) {
            self.sought = missing;
            return;
        }
        self.next_scan = now + SCAN;
        let found = self.finder.namespaces(|uid| missing.contains(uid));
        self.sought = missing;
        match found {
            Ok(found) => {
                for (uid, namespaces) in found {
                    if let Some(netns) = namespaces.into_iter().next() {
                        self.found(&uid, netns);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "processes cannot be listed; running pods are not captured"),
        }
    }

    /// A running pod's network was found.
    fn found(&mut self, uid: &str, netns: Held) {
        let captured = self.agent.captured(netns.as_fd());
        let late = self.desk.is_expected(uid) && captured.is_none();
        if late {
            self.meters.late.inc();
            tracing::warn!(pod = uid, "pod was not captured from birth");
            let fate = match self.late {
                LateCapture::Close => "what it had opened is cut off",
                LateCapture::Keep => "what it had opened goes on in clear",
            };
            let note = format!(
                "it started without the CNI plug-in and is captured only now; {fate}. Was culvert-cni taken out of the node's network configuration?"
            );
            let event = self.desk.tell(uid, "NotCapturedFromBirth", note);
            self.order(event);
        }
        let running = !late || self.late == LateCapture::Keep;
        self.sought.remove(uid);
        let addresses = captured.unwrap_or_default();
        self.desk.place(uid, Place { netns, device: DEVICE.to_owned(), addresses, running });
    }

    /// Notices sandboxes that were made anew without us: no process is left in the namespace that we hold, and there are some in
    /// another.
    fn moved(&mut self) {
        let placed = self.desk.placed();
        let found = match self.finder.namespaces(|uid| placed.contains(uid)) {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "processes cannot be listed; new sandboxes are not seen"),
        };
        for (uid, namespaces) in found {
            let same = |n: &Held| self.desk.place_of(&uid).is_some_and(|p| p.netns == *n);
            if !namespaces.iter().any(same)
                && let Some(netns) = namespaces.into_iter().next()
            {
                tracing::warn!(pod = %uid, ?netns, "pod has another network namespace");
                self.desk.place(&uid, Place { netns, device: DEVICE.to_owned(), addresses: Vec::new(), running: true });
            }
        }
    }

    /// Finds the kubelet, and lets its probes through.
    fn kubelet(&mut self) {
        let before = (self.host.kubelet, self.host.kubelet_error.clone());
        let found = self
            .finder
            .listener(self.kubelet_port, self.host.kubelet)
            .map_err(|e| format!("processes cannot be listed: {e}"));
        let listener = found.and_then(|found| {
            found.ok_or_else(|| format!("nobody of this node listens on port {} (kubeletPort)", self.kubelet_port))
        });
        // Each time: a kubelet that systemd starts again has another cgroup of the same name.
        let exempted = listener.and_then(|kubelet| match self.agent.exempt_kubelet(&kubelet.cgroup) {
            Ok(()) => Ok(kubelet.pid),
            Err(error) => Err(error.to_string()),
        });
        (self.host.kubelet, self.host.kubelet_error) = match exempted {
            Ok(pid) => (Some(pid), None),
            Err(error) => (None, Some(error)),
        };
        if before != (self.host.kubelet, self.host.kubelet_error.clone()) {
            match &self.host.kubelet_error {
                None => tracing::info!(pid = self.host.kubelet, "probes of the kubelet are let through"),
                Some(error) => tracing::warn!(error, "probes of the kubelet are captured like other connections"),
            }
        }
    }

    /// Looks whether others' programs came between ours.
    fn hooks(&mut self) {
        match self.agent.keep_order() {
            Ok(foreign) => {
                if foreign != self.host.foreign_hooks {
                    foreign.iter().for_each(|hook| {
                        tracing::warn!(hook, "the proxy may see pods' addresses instead of Services'")
                    });
                }
                self.host.foreign_hooks = foreign;
            }
            Err(error) => tracing::warn!(%error, "the order of connect hooks cannot be told"),
        }
    }

    fn chain(&mut self, chain: Chain) {
        self.meters.chained.set(i64::from(matches!(chain, Chain::In { .. })));
        (self.host.cni, self.host.cni_file) = match chain {
            Chain::In { file, .. } => ("in the chain".to_owned(), Some(file)),
            Chain::NoNetwork => ("the node has no network configuration yet".to_owned(), None),
            Chain::Failed(error) => (error, None),
        };
    }
}

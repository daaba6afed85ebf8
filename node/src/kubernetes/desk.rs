//! What the agent knows of the node's pods, and what follows from it. No input or output: changes go in; what ought to be
//! captured, annotated and told comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use zds::WorkloadInfo;

use super::annotation::Annotations;
use super::enrolment::{Reason, Settings, Verdict, is_proxy, judge};
use super::facts::{PodFacts, Stage};
use super::mirror::{Change, Mirror};
use super::order::Order;
use crate::agent::{Entry, HostEnd, Netns, Phase, View, Wish};
use crate::find::Held;
use crate::status::LeftOut;

/// Where a pod's network is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) netns: Held,
    /// Its first device, as the CNI plug-in was told; `eth0` by convention of the runtimes.
    pub(crate) device: String,
    /// Its addresses as the CNI plug-ins gave them; the pod's status knows them later.
    pub(crate) addresses: Vec<IpAddr>,
    /// It ran before we came to it, and what it has open goes on.
    pub(crate) running: bool,
}

/// What the API server says of a pod that the CNI plug-in asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<'a> {
    /// Its pod or its namespace is not known (yet).
    No,
    /// It is.
    Yes(&'a PodFacts, Verdict),
}

pub(crate) struct Desk {
    settings: Settings,
    /// By `namespace/name`.
    pods: Mirror<PodFacts>,
    /// The label of each namespace.
    namespaces: Mirror<Option<String>>,
    /// By UID.
    places: BTreeMap<String, Place>,
    /// Pods that were in the mesh before they had a network: the CNI plug-in ought to bring them.
    expected: BTreeSet<String>,
    /// Pods that the plug-in brought while they were not in the mesh: whoever asks for them later asks for a running pod.
    passed: BTreeSet<String>,
    annotations: Annotations,
    /// Events that were sent, by pod and reason.
    told: BTreeSet<(String, &'static str)>,
}

impl Desk {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            pods: Mirror::default(),
            namespaces: Mirror::default(),
            places: BTreeMap::new(),
            expected: BTreeSet::new(),
            passed: BTreeSet::new(),
            annotations: Annotations::default(),
            told: BTreeSet::new(),
        }
    }

    /// Whether everything has been listed once. Nothing is decided before.
    pub(crate) fn is_synced(&self) -> bool {
        self.pods.is_synced() && self.namespaces.is_synced()
    }

    pub(crate) fn take_pod(&mut self, change: Change<PodFacts>) {
        self.pods.take(change);
        self.tidy();
    }

    pub(crate) fn take_namespace(&mut self, change: Change<Option<String>>) {
        self.namespaces.take(change);
        self.tidy();
    }

    /// The answer to a question about one pod, which may be newer than the watch.
    pub(crate) fn learn(&mut self, pod: Option<PodFacts>, namespace: Option<(String, Option<String>)>) {
        if let Some(pod) = pod {
            self.take_pod(Change::Applied(pod.title(), pod));
        }
        if let Some((name, label)) = namespace {
            self.take_namespace(Change::Applied(name, label));
        }
    }

    /// Finds a pod by what the CNI plug-in knows of it.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Known<'_> {
        let pod = self.pods.get(&format!("{namespace}/{name}"));
        // A namesake of an earlier or later life is another pod.
        let meant = |p: &&PodFacts| known(&self.pods).get(p.uid.as_str()).is_some_and(|known| std::ptr::eq(*known, *p));
        match pod.filter(|p| uid.is_none_or(|uid| p.uid == uid)).filter(meant) {
            Some(pod) if self.namespaces.get(namespace).is_some() => Known::Yes(pod, self.verdict(pod)),
            _ => Known::No,
        }
    }

    /// A pod's network as the CNI plug-in, or a look at the node's processes, shows it.
    pub(crate) fn place(&mut self, uid: &str, place: Place) {
        self.expected.remove(uid);
        self.places.insert(uid.to_owned(), place);
    }

    /// The plug-in has seen a pod that was not in the mesh then.
    pub(crate) fn passed(&mut self, uid: &str) {
        self.expected.remove(uid);
        self.passed.insert(uid.to_owned());
    }

    /// A pod's network is of no use; its sandbox is being taken down.
    pub(crate) fn forget_place(&mut self, uid: &str) {
        self.places.remove(uid);
    }

    /// The network of a pod.
    pub(crate) fn place_of(&self, uid: &str) -> Option<&Place> {
        self.places.get(uid)
    }

    /// Pods that ought to be captured, have a network, and whose network is not known.
    pub(crate) fn missing(&self) -> BTreeSet<String> {
        let missing = self.wanted().filter(|p| !p.addresses.is_empty() && !self.places.contains_key(&p.uid));
        missing.map(|p| p.uid.clone()).collect()
    }

    /// Pods that ought to be captured and have no network yet, as far as is known. One that is captured already has one: the agent
    /// was restarted between the pod's birth and the word of its address, while its images are pulled.
    pub(crate) fn unborn(&self) -> BTreeSet<String> {
        let unborn = self.wanted().filter(|p| p.addresses.is_empty() && !self.places.contains_key(&p.uid));
        unborn.map(|p| p.uid.clone()).collect()
    }

    /// Pods whose network is known.
    pub(crate) fn placed(&self) -> BTreeSet<String> {
        self.places.keys().cloned().collect()
    }

    /// Whether the CNI plug-in ought to have brought a pod.
    pub(crate) fn is_expected(&self, uid: &str) -> bool {
        self.expected.contains(uid)
    }

    /// What ought to be on this node, given the pods that the agent has in its books.
    pub(crate) fn wish(&self, held: impl IntoIterator<Item = Arc<str>>) -> Wish {
        let entries: Vec<Entry> = self.wanted().filter_map(|pod| self.entry(pod)).collect();
        let listed: BTreeSet<&str> = entries.iter().map(|e| e.uid.as_str()).collect();
        let by_uid = known(&self.pods);
        let ended = held.into_iter().filter(|uid| {
            let lives = by_uid.get(&**uid).is_some_and(|pod| {
                // One that is wanted and has no place lost its sandbox.
                pod.stage == Stage::Alive && self.verdict(pod) != Verdict::In
            });
            !listed.contains(&**uid) && !lives
        });
        let ended = ended.map(|uid| uid.to_string()).collect();
        let proxies = by_uid.values().filter(|p| is_proxy(p, &self.settings)).map(|p| p.uid.clone()).collect();
        let others = by_uid.values().filter(|p| p.stage == Stage::Alive && self.verdict(p) != Verdict::In);
        let others = others.map(|p| (p.uid.clone(), info(p))).collect();
        Wish { entries, ended, others, proxies: Some(proxies) }
    }

    /// Annotations that ought to be written now.
    pub(crate) fn patches(&mut self, views: &BTreeMap<Arc<str>, View>, now: Instant) -> Vec<Order> {
        let alive = known(&self.pods).into_values().filter(|p| p.stage == Stage::Alive);
        self.annotations.orders(alive, views, now)
    }

    /// An annotation was written, or not.
    pub(crate) fn patched(&mut self, title: &str, uid: &str, value: Option<&str>, done: bool, now: Instant) {
        self.annotations.ended(uid, done, now);
        // The watch will say so too; until then what was written counts as seen.
        if done && let Some(pod) = self.pods.get_mut(title).filter(|p| p.uid == uid) {
            pod.redirection = value.map(ToOwned::to_owned);
        }
    }

    /// Whether annotations wait for a second attempt.
    pub(crate) fn is_waiting(&self) -> bool {
        self.annotations.is_waiting()
    }

    /// Pods that were announced to leave, and of which nothing tells peers any more that they can be tunnelled to.
    pub(crate) fn announced(&self, views: &BTreeMap<Arc<str>, View>) -> Vec<Arc<str>> {
        let pods = known(&self.pods);
        let quiet = |uid: &str| pods.get(uid).is_none_or(|p| p.redirection.is_none());
        let leaving = views.iter().filter(|(_, v)| v.phase == Phase::Announced);
        leaving.filter(|(uid, _)| quiet(uid)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Pods for which somebody asks in vain.
    pub(crate) fn left_out(&self) -> Vec<LeftOut> {
        let out = known(&self.pods).into_values().filter_map(|pod| match self.verdict(pod) {
            Verdict::Out(reason) if reason.is_worth_telling() => Some((pod, reason)),
            _ => None,
        });
        let shown = |(pod, reason): (&PodFacts, Reason)| LeftOut {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            reason: reason.word(),
            message: reason.to_string(),
        };
        out.map(shown).collect()
    }

    /// Events about what stands in the way, each once.
    pub(crate) fn news(&mut self, views: &BTreeMap<Arc<str>, View>) -> Vec<Order> {
        let left_out =
            self.left_out().into_iter().map(|l| (l.uid, l.reason, format!("not in the mesh: {}", l.message)));
        let bypass = self.wanted().filter(|p| p.bypass_inbound).map(|p| {
            let note = "ambient.istio.io/bypass-inbound-capture is not supported: its inbound connections are captured too; \
                        remove the annotation, or take the pod out of the mesh";
            (p.uid.clone(), "BypassUnsupported", note.to_owned())
        });
        let failed = views.iter().filter_map(|(uid, view)| match (&view.phase, &view.refused) {
            (Phase::Failed { error }, _) => Some((uid.to_string(), "CaptureFailed", format!("{error}; tried again"))),
            // It will be without a proxy when the one that serves it ends.
            (Phase::Captured, Some(why)) => {
                let note = format!("a former node proxy serves it; {why}; tried again");
                Some((uid.to_string(), "CaptureFailed", note))
            }
            _ => None,
        });
        let all: Vec<_> = left_out.chain(bypass).chain(failed).collect();
        all.into_iter().filter_map(|(uid, reason, note)| self.tell(&uid, reason, note)).collect()
    }

    /// An Event about a pod, unless one of this reason was sent.
    pub(crate) fn tell(&mut self, uid: &str, reason: &'static str, note: String) -> Option<Order> {
        if !self.told.insert((uid.to_owned(), reason)) {
            return None;
        }
        let pod = *known(&self.pods).get(uid)?;
        Some(Order::Event { pod: pod.into(), reason, note })
    }

    fn verdict(&self, pod: &PodFacts) -> Verdict {
        let label = self.namespaces.get(&pod.namespace).and_then(|l| l.as_deref());
        judge(pod, label, &self.settings)
    }

    fn wanted(&self) -> impl Iterator<Item = &PodFacts> {
        known(&self.pods).into_values().filter(|pod| self.verdict(pod) == Verdict::In)
    }

    fn entry(&self, pod: &PodFacts) -> Option<Entry> {
        let place = self.places.get(&pod.uid)?;
        let addresses = if pod.addresses.is_empty() { place.addresses.clone() } else { pod.addresses.clone() };
        (!addresses.is_empty()).then(|| Entry {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
            netns: Netns::Held(place.netns.clone()),
            addresses,
            host: HostEnd::PeerOf(place.device.clone()),
            running: place.running,
            dns: pod.dns.unwrap_or(self.settings.dns),
        })
    }

    /// Drops what is known of pods that are gone or have ended, and notes who is expected.
    fn tidy(&mut self) {
        if !self.is_synced() {
            return;
        }
        let alive: BTreeSet<String> =
            known(&self.pods).values().filter(|p| p.stage == Stage::Alive).map(|p| p.uid.clone()).collect();
        self.places.retain(|uid, _| alive.contains(uid));
        self.expected.retain(|uid| alive.contains(uid));
        self.passed.retain(|uid| alive.contains(uid));
        self.annotations.retain(|uid| alive.contains(uid));
        self.told.retain(|(uid, _)| alive.contains(uid));
        let new: Vec<String> = self
            .wanted()
            .filter(|p| p.addresses.is_empty() && !self.places.contains_key(&p.uid) && !self.passed.contains(&p.uid))
            .map(|p| p.uid.clone())
            .collect();
        self.expected.extend(new);
    }
}

/// The pods by UID. Of several that claim one, the one is meant whose object has it, otherwise the oldest: a claim never takes a
/// pod over that is there.
fn known(pods: &Mirror<PodFacts>) -> BTreeMap<&str, &PodFacts> {
    let claim = |pod: &PodFacts| (pod.uid != pod.object_uid, pod.created.is_none(), pod.created.clone());
    let mut known: BTreeMap<&str, &PodFacts> = BTreeMap::new();
    for pod in pods.values() {
        let first = known.entry(&pod.uid).or_insert(pod);
        if claim(pod) < claim(first) {
            *first = pod;
        }
    }
    known
}

/// The names of a pod, as proxies know them.
fn info(pod: &PodFacts) -> WorkloadInfo {
    WorkloadInfo {
        name: pod.name.as_str().into(),
        namespace: pod.namespace.as_str().into(),
        service_account: pod.service_account.as_str().into(),
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
pub(super) mod tests;

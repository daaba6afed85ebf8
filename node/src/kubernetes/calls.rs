//! Pods that the CNI plug-in brings, until their answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetry::metrics::CounterFamily;
use tokio::sync::oneshot;

use super::desk::{Desk, Known, Place};
use super::enrolment::Verdict;
use super::order::Order;
use crate::agent::{Phase, View};
use crate::cni::request::AddRequest;
use crate::cni::server::{Answer, Asked};
use crate::find::Held;

/// The watch usually has a pod before the kubelet makes its sandbox. When it has not after this long, the API server is asked;
/// Istio's agent waits as long (cni-zds.md 1: 10 x 10 ms).
const LAG: Duration = Duration::from_millis(100);

/// A pod that waits.
struct Call {
    request: AddRequest,
    place: Place,
    since: Instant,
    /// Whether the API server was asked.
    looked: bool,
    /// The UID of the pod once it is being enrolled.
    uid: Option<String>,
    answer: oneshot::Sender<Answer>,
}

/// All of them.
pub(super) struct Calls {
    waiting: Vec<Call>,
    /// How long a pod may wait.
    deadline: Duration,
    adds: CounterFamily,
}

impl Calls {
    pub(super) fn new(deadline: Duration, adds: CounterFamily) -> Self {
        Self { waiting: Vec::new(), deadline, adds }
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a request; one that cannot be served is answered at once.
    pub(super) fn take(&mut self, asked: Asked, now: Instant) {
        let Asked { request, answer } = asked;
        match place(&request) {
            Ok(place) => self.waiting.push(Call { request, place, since: now, looked: false, uid: None, answer }),
            Err(error) => self.say(answer, &request, Err(error)),
        }
    }

    /// Decides those whose pods are known, and asks for the others.
    pub(super) fn decide(&mut self, desk: &mut Desk, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        for mut call in std::mem::take(&mut self.waiting) {
            if call.uid.is_some() {
                self.waiting.push(call);
                continue;
            }
            let (namespace, name) = (&call.request.pod_namespace, &call.request.pod_name);
            let uid = Some(call.request.pod_uid.as_str()).filter(|uid| !uid.is_empty());
            let found = match desk.find(namespace, name, uid) {
                Known::No => None,
                Known::Yes(pod, verdict) => Some((pod.uid.clone(), verdict)),
            };
            match found {
                Some((uid, Verdict::Out(reason))) => {
                    desk.passed(&uid);
                    self.say(call.answer, &call.request, Ok(format!("not in the mesh: {reason}")));
                    continue;
                }
                Some((uid, Verdict::In)) => {
                    desk.place(&uid, call.place.clone());
                    call.uid = Some(uid);
                }
                None if now.duration_since(call.since) >= self.deadline => {
                    let text = "the API server does not know the pod; is the node agent allowed to list pods?";
                    self.say(call.answer, &call.request, Err(text.to_owned()));
                    continue;
                }
                None if !call.looked && now.duration_since(call.since) >= LAG => {
                    call.looked = true;
                    orders.push(Order::Look { namespace: namespace.clone(), name: name.clone() });
                }
                None => {}
            }
            self.waiting.push(call);
        }
        orders
    }

    /// Answers those that are captured, failed or have waited too long. Says whether a pod was given up.
    pub(super) fn finish(&mut self, desk: &mut Desk, views: &BTreeMap<Arc<str>, View>, now: Instant) -> bool {
        let mut given_up = false;
        for call in std::mem::take(&mut self.waiting) {
            let Some(uid) = call.uid.as_deref() else {
                self.waiting.push(call);
                continue;
            };
            let view = views.get(uid);
            let late = now.duration_since(call.since) >= self.deadline;
            let verdict = verdict(view, &call.place.netns, late, self.deadline, call.answer.is_closed());
            match verdict {
                None => self.waiting.push(call),
                Some(answer) => {
                    // A newer sandbox of the same pod may have taken its place.
                    let same = desk.place_of(uid).is_some_and(|p| p.netns == call.place.netns);
                    if answer.is_err() && same {
                        desk.forget_place(uid);
                        given_up = true;
                    }
                    self.say(call.answer, &call.request, answer);
                }
            }
        }
        given_up
    }

    fn say(&self, answer: oneshot::Sender<Answer>, request: &AddRequest, text: Answer) {
        let pod = format!("{}/{}", request.pod_namespace, request.pod_name);
        match &text {
            Ok(text) => tracing::debug!(pod, text, "CNI plug-in answered"),
            Err(error) => tracing::warn!(pod, error, "pod may not start"),
        }
        self.adds.with(&[if text.is_ok() { "started" } else { "refused" }]).inc();
        // A plug-in that was killed meanwhile hears nothing.
        drop(answer.send(text));
    }
}

/// What to answer; `None` = nothing yet.
fn verdict(view: Option<&View>, netns: &Held, late: bool, deadline: Duration, left: bool) -> Option<Answer> {
    if left {
        return Some(Err("the plug-in did not wait for the answer".to_owned()));
    }
    // What the agent has may still be the pod's former sandbox.
    let current = view.filter(|v| v.netns.is_none_or(|id| id == netns.id()));
    match current.map(|v| &v.phase) {
        Some(Phase::Captured) => Some(Ok("captured".to_owned())),
        Some(Phase::Failed { error }) => Some(Err(error.clone())),
        _ if late && let Some(why) = current.and_then(|v| v.refused.as_deref()) => {
            Some(Err(format!("no node proxy has taken it within {deadline:?}: {why}")))
        }
        _ if late => Some(Err(format!(
            "no node proxy has taken it within {deadline:?}; is the pod of daemonset ztunnel on this node ready?"
        ))),
        _ => None,
    }
}

/// The network of the request's pod.
fn place(request: &AddRequest) -> Result<Place, String> {
    let addresses = request.addresses()?;
    if addresses.is_empty() {
        return Err("the plug-ins before culvert-cni gave the pod no address".to_owned());
    }
    let netns = Held::open(request.netns.as_ref()).map_err(|e| {
        format!(
            "{}: {e}; does the node agent see the host's /var/run/netns (mount propagation HostToContainer)?",
            request.netns
        )
    })?;
    Ok(Place { netns, device: request.device.clone(), addresses, running: false })
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;

//! The annotation by which a pod's capture is published: control publishes tunnels to pods that have it, so it comes after
//! capture and goes before it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::facts::PodFacts;
use super::order::Order;
use crate::agent::{Phase, View};

/// First and longest wait before a patch is tried again; Istio's agent has 5 ms to 5 s (cni-zds.md 1).
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What ought to be said of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// This value; `None` = no annotation.
    Say(Option<&'static str>),
    /// What is there.
    Leave,
}

/// Patches that are on their way or failed.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    flights: BTreeMap<String, Flight>,
}

#[derive(Debug)]
struct Flight {
    /// When it is tried again; `None` = no answer yet.
    again: Option<Instant>,
    wait: Duration,
}

impl Annotations {
    /// The patches to send now.
    pub(super) fn orders<'a>(
        &mut self,
        pods: impl Iterator<Item = &'a PodFacts>,
        views: &BTreeMap<Arc<str>, View>,
        now: Instant,
    ) -> Vec<Order> {
        let mut orders = Vec::new();
        for pod in pods {
            let value = match word(views.get(&*pod.uid)) {
                Word::Say(value) if value != pod.redirection.as_deref() => value,
                Word::Say(_) => {
                    // An answer that is still to come must find its flight, so that two never cross.
                    if self.flights.get(&pod.uid).is_some_and(|f| f.again.is_some()) {
                        self.flights.remove(&pod.uid);
                    }
                    continue;
                }
                Word::Leave => continue,
            };
            let flight = self.flights.get(&pod.uid);
            if flight.is_some_and(|f| f.again.is_none_or(|again| again > now)) {
                continue;
            }
            let wait = flight.map_or(WAITS.0, |f| (f.wait * 2).min(WAITS.1));
            self.flights.insert(pod.uid.clone(), Flight { again: None, wait });
            orders.push(Order::Annotate { pod: pod.into(), value });
        }
        orders
    }

    /// A patch was answered.
    pub(super) fn ended(&mut self, uid: &str, done: bool, now: Instant) {
        if done {
            self.flights.remove(uid);
        } else if let Some(flight) = self.flights.get_mut(uid) {
            flight.again = Some(now + flight.wait);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.flights.values().any(|f| f.again.is_some())
    }

    pub(super) fn retain(&mut self, alive: impl Fn(&str) -> bool) {
        self.flights.retain(|uid, _| alive(uid));
    }
}

/// What a pod's state means for others (cni-zds.md 1).
fn word(view: Option<&View>) -> Word {
    match view.map(|v| &v.phase) {
        None | Some(Phase::Announced | Phase::Leaving { .. } | Phase::Waiting { refusing: false }) => Word::Say(None),
        Some(Phase::Captured) => Word::Say(Some("enabled")),
        Some(Phase::Waiting { refusing: true }) => Word::Say(Some("pending")),
        // A repair that failed leaves what stands; a first enrolment that failed had no annotation.
        Some(Phase::Failed { .. }) => Word::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_captured_pod_is_published() {
        for (phase, expected) in [
            (None, Word::Say(None)),
            (Some(Phase::Captured), Word::Say(Some("enabled"))),
            (Some(Phase::Waiting { refusing: true }), Word::Say(Some("pending"))),
            (Some(Phase::Waiting { refusing: false }), Word::Say(None)),
            (Some(Phase::Announced), Word::Say(None)),
            (Some(Phase::Leaving { connections: 3 }), Word::Say(None)),
            (Some(Phase::Failed { error: "x".into() }), Word::Leave),
        ] {
            let view = phase.clone().map(|phase| View { phase, wanted: true, netns: None, refused: None });
            assert_eq!(word(view.as_ref()), expected, "{phase:?}");
        }
    }
}

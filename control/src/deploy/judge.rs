//! What is said of a Gateway: conditions, addresses, listeners. Pure (waypoint-api.md 1 and 3; gateway-api.md 6).

use k8s_openapi::jiff::Timestamp;
use kubernetes::object::gateway as api;
use kubernetes::status::{Condition, Truth, Wanted, entries};
use serde_json::{Value, json};

use super::fault::{Fault, all};
use super::listener::{self, Judged, say};

/// How far a Gateway came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing {
    /// What it asks for cannot be made: parameters, names.
    Mistaken(Vec<Fault>),
    /// The API server refuses an object, or somebody else has it.
    Refused(String),
    /// Objects are there.
    Made(Made),
}

/// The objects as they are now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Made {
    /// Host name of the Service.
    pub(crate) hostname: String,
    /// Addresses of the Service.
    pub(crate) addresses: Vec<String>,
    /// Pods that are ready.
    pub(crate) ready: i64,
    /// Pods that there should be.
    pub(crate) wanted: i64,
    /// What the Deployment's controller complains of.
    pub(crate) complaint: Option<String>,
    /// Services that a security policy governs and past which nodes may still go (design.md 5), `namespace/name`.
    pub(crate) waiting: Vec<String>,
}

impl Made {
    /// From the Service and the Deployment as the API server has them.
    pub(crate) fn of(service: &Value, deployment: &Value, cluster_domain: &str) -> Self {
        let text =
            |of: &Value, pointer: &str| of.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
        let ips =
            list.into_iter().flatten().filter_map(Value::as_str).filter(|ip| *ip != "None").map(ToOwned::to_owned);
        let conditions = deployment.pointer("/status/conditions").and_then(Value::as_array);
        let complains = |c: &&Value| c["type"] == "ReplicaFailure" && c["status"] == "True";
        let complaint = conditions.into_iter().flatten().find(complains);
        Self {
            hostname: format!(
                "{}.{}.svc.{cluster_domain}",
                text(service, "/metadata/name"),
                text(service, "/metadata/namespace")
            ),
            addresses: ips.collect(),
            ready: number("/status/readyReplicas"),
            wanted: number("/spec/replicas"),
            complaint: complaint.map(|c| text(c, "/message")).filter(|m| !m.is_empty()),
            waiting: Vec::new(),
        }
    }
}

/// Types of conditions of a Gateway that we write.
pub(crate) const OWNED: [&str; 4] = ["Accepted", "AddressesAssigned", "Programmed", "ResolvedRefs"];

/// What is to be said of a Gateway whose listeners were judged and that came so far. `there` is it as it is, with what was
/// said before.
pub(crate) fn judge(
    gateway: &api::Gateway,
    listeners: &[Judged],
    standing: &Standing,
    there: &Value,
    now: Timestamp,
) -> Wanted {
    let accepted = accepted(gateway, listeners, standing);
    let served = accepted.truth == Truth::True;
    let before = gateway.status.as_ref().is_some_and(|s| !s.addresses.is_empty());
    let programmed = if served {
        programmed(standing, before)
    } else {
        say("Programmed", Truth::False, "Invalid", "the Gateway is not accepted; what was made before stays as it is")
    };
    let resolved = match (standing, unresolved(listeners)) {
        (Standing::Mistaken(faults), _) => say("ResolvedRefs", Truth::False, "InvalidParameters", &all(faults)),
        (_, Some(text)) => say("ResolvedRefs", Truth::False, "InvalidRouteKinds", &text),
        _ => say("ResolvedRefs", Truth::True, "ResolvedRefs", "all that it names is there"),
    };
    let addresses = addresses(gateway, standing, served);
    let assigned = match addresses.as_ref().is_some_and(|a| !a.is_empty()) {
        true => say("AddressesAssigned", Truth::True, "AddressesAssigned", "the addresses are those of its Service"),
        false => {
            say("AddressesAssigned", Truth::False, "NotAssigned", "addresses are given when the first pod is ready")
        }
    };
    let generation = gateway.metadata.generation.unwrap_or_default();
    let listeners: Vec<Value> =
        listeners.iter().map(|l| listener_status(l, &programmed, generation, there, now)).collect();
    Wanted {
        uid: gateway.metadata.uid.clone().unwrap_or_default(),
        generation,
        conditions: vec![accepted, assigned, programmed, resolved],
        fields: vec![
            ("addresses", addresses.filter(|a| !a.is_empty()).map(Value::Array)),
            ("listeners", Some(Value::Array(listeners)).filter(|l| l.as_array().is_some_and(|l| !l.is_empty()))),
        ],
    }
}

fn accepted(gateway: &api::Gateway, listeners: &[Judged], standing: &Standing) -> Condition {
    let of = |truth, reason, text: &str| say("Accepted", truth, reason, text);
    let asked: Vec<&str> =
        gateway.spec.addresses.iter().map(|a| a.value.as_str()).filter(|value| !value.is_empty()).collect();
    if !asked.is_empty() {
        let text = format!(
            "spec.addresses asks for {}, and a waypoint has the addresses of its Service; leave spec.addresses out",
            asked.join(", ")
        );
        return of(Truth::False, "UnsupportedAddress", &text);
    }
    if let Standing::Mistaken(faults) = standing {
        return of(Truth::False, "InvalidParameters", &all(faults));
    }
    let bad: Vec<&str> = listeners.iter().filter(|l| !l.accepted).map(|l| l.name.as_str()).collect();
    match (listeners.iter().any(|l| l.accepted), bad.is_empty()) {
        (true, true) => of(Truth::True, "Accepted", "it is a waypoint"),
        (true, false) => {
            let text = format!("it is a waypoint; not served: listener {}, see its conditions", bad.join(", "));
            of(Truth::True, "ListenersNotValid", &text)
        }
        (false, _) => {
            let port = listener::HBONE_PORT;
            let text = format!("no listener is a waypoint's; write one with port: {port} and protocol: HBONE");
            of(Truth::False, "ListenersNotValid", &text)
        }
    }
}

/// `before`: it had addresses, so that it was ready once.
fn programmed(standing: &Standing, before: bool) -> Condition {
    let of = |truth, reason, text: &str| say("Programmed", truth, reason, text);
    let made = match standing {
        Standing::Mistaken(faults) => return of(Truth::False, "Invalid", &all(faults)),
        Standing::Refused(why) => return of(Truth::False, "Invalid", why),
        Standing::Made(made) => made,
    };
    if made.addresses.is_empty() {
        return of(Truth::False, "AddressNotAssigned", "its Service has no address yet");
    }
    let pods = format!("{} of {} pods are ready", made.ready, made.wanted);
    let complaint = made.complaint.as_ref().map(|c| format!(": {c}")).unwrap_or_default();
    match (made.ready > 0, before) {
        (true, _) if !made.waiting.is_empty() => {
            let services = made.waiting.join(", ");
            let text = format!(
                "{pods}{complaint}; not every node sends the traffic of {services} here yet: their security policies are in \
                 force when all have acknowledged, culvert config diff shows which have not"
            );
            of(Truth::False, "Pending", &text)
        }
        (true, _) => of(Truth::True, "Programmed", &format!("{pods}{complaint}")),
        (false, false) => {
            let text = format!(
                "{pods}{complaint}; it gets its addresses when the first one is, kubectl get pods shows why not"
            );
            of(Truth::False, "Pending", &text)
        }
        (false, true) => {
            let text = format!(
                "{pods}{complaint}; the addresses stay, so that what is bound to it fails and does not go round it"
            );
            of(Truth::False, "NoResources", &text)
        }
    }
}

fn unresolved(listeners: &[Judged]) -> Option<String> {
    let mut conditions = listeners.iter().flat_map(|l| l.conditions.iter().map(move |c| (l, c)));
    let bad = conditions.find(|(_, c)| c.kind == "ResolvedRefs" && c.truth == Truth::False);
    bad.map(|(l, c)| format!("listener {}: {}", l.name, c.message))
}

/// Given when the first pod is ready and never taken back: a waypoint that was ready once fails closed (waypoint-api.md 1).
fn addresses(gateway: &api::Gateway, standing: &Standing, served: bool) -> Option<Vec<Value>> {
    let there: Vec<Value> = gateway.status.iter().flat_map(|s| &s.addresses).map(|a| json!(a)).collect();
    let Standing::Made(made) = standing else { return Some(there) };
    if !served || made.addresses.is_empty() || (made.ready == 0 && there.is_empty()) {
        return Some(there);
    }
    let address = |kind: &str, value: &str| json!({ "type": kind, "value": value });
    let ips = made.addresses.iter().map(|ip| address("IPAddress", ip));
    Some(std::iter::once(address("Hostname", &made.hostname)).chain(ips).collect())
}

fn listener_status(judged: &Judged, programmed: &Condition, generation: i64, there: &Value, now: Timestamp) -> Value {
    let before = there.pointer("/status/listeners").and_then(Value::as_array);
    let before = before.into_iter().flatten().find(|l| l["name"] == *judged.name);
    let old = before.and_then(|l| l["conditions"].as_array()).cloned().unwrap_or_default();
    let mut conditions = judged.conditions.clone();
    conditions.push(match judged.accepted {
        true => programmed.clone(),
        false => say("Programmed", Truth::False, "Invalid", "the listener is not accepted"),
    });
    let kinds = judged.kinds.iter().map(|kind| json!({ "group": "gateway.networking.k8s.io", "kind": kind }));
    json!({
        "name": judged.name,
        "supportedKinds": kinds.collect::<Vec<_>>(),
        // Routes are attached to Services, not to waypoints; one that names a waypoint as its parent is refused.
        "attachedRoutes": 0,
        "conditions": entries(&conditions, &old, generation, now),
    })
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

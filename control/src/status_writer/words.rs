//! From what the world says to what is written.

use kube::api::ApiResource;
use kubernetes::status::{Condition, MAX_MESSAGE, Merge, Target, Truth, Wanted};
use serde_json::json;

use crate::apply::Words;
use crate::object::{Key, Kind, condition};
use crate::world::{Event, Status};

/// Bytes of an Event's note at most (`events.k8s.io/v1`).
const NOTE: usize = 1024;

/// Statuses that words stand for.
pub(super) fn statuses(words: Words) -> Vec<Status> {
    match words {
        Words::Said(statuses) => statuses,
        Words::Unreadable { key, uid, why } => vec![Status {
            object: key,
            uid: uid.into(),
            generation: 0,
            conditions: Vec::new(),
            events: vec![Event {
                reason: "Unreadable",
                message: format!("the object has not the shape of its kind and is ignored: {why}; correct the field"),
            }],
            addresses: None,
        }],
    }
}

/// What is to be written on the object itself, if its status is ours to write.
pub(super) fn wanted(key: &Key, status: &Status) -> Option<(Target, Wanted)> {
    let (plural, merge) = written(key.kind)?;
    if status.events.iter().any(|e| e.reason == "Unreadable") {
        return None;
    }
    let api_version = key.kind.api_version();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: key.kind.as_str().to_owned(),
        plural: plural.to_owned(),
    };
    let namespace = Some(key.namespace.to_string()).filter(|ns| !ns.is_empty());
    let target = Target { resource, namespace, name: key.name.to_string(), merge };
    let conditions = status.conditions.iter().map(|c| Condition {
        kind: c.kind.to_owned(),
        truth: if c.status { Truth::True } else { Truth::False },
        reason: c.reason.to_owned(),
        message: c.message.clone(),
    });
    // `status.addresses` of a ServiceEntry (Istio's `ServiceEntryAddress`).
    let addresses = status.addresses.as_ref().map(|list| {
        let list: Vec<_> = list.iter().map(|(host, ip)| json!({ "host": host, "value": ip })).collect();
        ("addresses", Some(json!(list)).filter(|_| !list.is_empty()))
    });
    let wanted = Wanted {
        uid: status.uid.to_string(),
        generation: status.generation,
        conditions: conditions.collect(),
        fields: addresses.into_iter().collect(),
    };
    Some((target, wanted))
}

/// Kinds on which conditions are written: their plural, and how conditions are merged.
fn written(kind: Kind) -> Option<(&'static str, Merge)> {
    match kind {
        Kind::AuthorizationPolicy => Some(("authorizationpolicies", Merge::Whole)),
        Kind::PeerAuthentication => Some(("peerauthentications", Merge::Whole)),
        Kind::Service => Some(("services", Merge::ByType)),
        Kind::ServiceEntry => Some(("serviceentries", Merge::Whole)),
        Kind::WorkloadEntry => Some(("workloadentries", Merge::Whole)),
        Kind::EndpointSlice
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::Node
        | Kind::Pod => None,
    }
}

/// Every condition type that we ever write.
pub(super) fn owned() -> Vec<&'static str> {
    condition::ALL.into_iter().chain([crate::policies::authorization::CONDITION]).collect()
}

/// A message as an Event's note can hold it.
pub(super) fn note(message: &str) -> &str {
    const { assert!(NOTE < MAX_MESSAGE) }
    if message.len() <= NOTE {
        return message;
    }
    let end = (0..=NOTE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    &message[..end]
}

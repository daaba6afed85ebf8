//! From what the world says to what is written.

use kube::api::ApiResource;
use kubernetes::status::{AllSaid, Condition, List, MAX_MESSAGE, Merge, Said, Target, Truth, Wanted};
use serde_json::json;

use crate::apply::Words;
use crate::object::route::CONTROLLER;
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
            parents: Vec::new(),
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
    let target = target(key, plural, merge);
    let conditions = status.conditions.iter().map(said);
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

fn target(key: &Key, plural: &str, merge: Merge) -> Target {
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
    Target { resource, namespace, name: key.name.to_string(), merge }
}

fn said(of: &crate::world::Condition) -> Condition {
    Condition {
        kind: of.kind.to_owned(),
        truth: if of.status { Truth::True } else { Truth::False },
        reason: of.reason.to_owned(),
        message: of.message.clone(),
    }
}

/// What is to be written on the object by parent, for the kinds of the Gateway API that have such a status.
pub(super) fn parents(key: &Key, status: &Status) -> Option<(Target, AllSaid)> {
    let (plural, list) = match key.kind {
        Kind::BackendTlsPolicy => ("backendtlspolicies", List::Ancestors),
        Kind::GrpcRoute => ("grpcroutes", List::Parents),
        Kind::HttpRoute => ("httproutes", List::Parents),
        Kind::TcpRoute => ("tcproutes", List::Parents),
        Kind::TlsRoute => ("tlsroutes", List::Parents),
        _ => return None,
    };
    if status.events.iter().any(|e| e.reason == "Unreadable") {
        return None;
    }
    let one = |p: &crate::world::ParentStatus| Said {
        reference: p.reference.clone(),
        conditions: p.conditions.iter().map(said).collect(),
    };
    let all = AllSaid {
        controller: CONTROLLER,
        list,
        owned: &["Accepted", "PartiallyInvalid", "ResolvedRefs", "ResolvedWaypoints"],
        uid: status.uid.to_string(),
        generation: status.generation,
        entries: status.parents.iter().map(one).collect(),
    };
    // The list is not merged by the API server, whatever is said here.
    Some((target(key, plural, Merge::Whole), all))
}

/// Kinds on which conditions are written: their plural, and how conditions are merged.
fn written(kind: Kind) -> Option<(&'static str, Merge)> {
    match kind {
        Kind::AuthorizationPolicy => Some(("authorizationpolicies", Merge::Whole)),
        Kind::DestinationRule => Some(("destinationrules", Merge::Whole)),
        Kind::PeerAuthentication => Some(("peerauthentications", Merge::Whole)),
        Kind::RequestAuthentication => Some(("requestauthentications", Merge::Whole)),
        Kind::RequestPolicy => Some(("requestpolicies", Merge::ByType)),
        Kind::Service => Some(("services", Merge::ByType)),
        Kind::ServiceEntry => Some(("serviceentries", Merge::Whole)),
        Kind::Telemetry => Some(("telemetries", Merge::Whole)),
        Kind::WorkloadEntry => Some(("workloadentries", Merge::Whole)),
        // Routes and policies of the Gateway API say what they say by parent; see `parents`.
        Kind::BackendTlsPolicy | Kind::GrpcRoute | Kind::HttpRoute | Kind::TcpRoute | Kind::TlsRoute => None,
        Kind::ConfigMap
        | Kind::EndpointSlice
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::Node
        | Kind::Pod
        | Kind::ReferenceGrant => None,
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

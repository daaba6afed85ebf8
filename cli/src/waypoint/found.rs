//! Waypoints as they are in a cluster.

use kube::ResourceExt;
use kubernetes::object::Gateway;
use serde::Serialize;
use serde_json::Value;

use super::{USE_NAMESPACE, USE_WAYPOINT, WAYPOINT_FOR};

/// The port by which a Gateway is known to be a waypoint (waypoint-api.md 1).
pub(crate) const HBONE_PORT: i64 = 15008;

/// Classes of Gateways that have this port and are no waypoints.
const EAST_WEST: &str = "istio-east-west";

/// Whether a Gateway is a waypoint.
pub(crate) fn is_waypoint(gateway: &Gateway) -> bool {
    let hbone = gateway.spec.listeners.iter().any(|l| l.port == HBONE_PORT && l.protocol == "HBONE");
    hbone && gateway.spec.gateway_class_name != EAST_WEST
}

/// Status and message of a condition.
pub(crate) fn condition<'a>(gateway: &'a Gateway, kind: &str) -> Option<(&'a str, &'a str)> {
    let conditions = gateway.status.as_ref()?.conditions.iter();
    conditions.filter(|c| c.type_ == kind).map(|c| (c.status.as_str(), c.message.as_str())).next()
}

/// A waypoint as it is shown.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waypoint {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) class: String,
    /// `service`, `workload`, `all` or `none`.
    pub(super) takes: String,
    /// `True`, `False` or `Unknown`.
    pub(super) programmed: String,
    /// Its first address.
    pub(super) address: String,
    /// What is wrong with it, with the remedy; empty when nothing is.
    pub(super) faults: Vec<String>,
    /// Who names it: `namespace shop`, `Service shop/cart`.
    pub(super) bound: Vec<String>,
}

impl Waypoint {
    pub(super) fn of(gateway: &Gateway) -> Self {
        let addresses = gateway.status.iter().flat_map(|s| &s.addresses);
        let programmed = condition(gateway, "Programmed").map_or("Unknown", |(status, _)| status);
        Self {
            namespace: gateway.namespace().unwrap_or_default(),
            name: gateway.name_any(),
            class: gateway.spec.gateway_class_name.clone(),
            takes: gateway.labels().get(WAYPOINT_FOR).cloned().unwrap_or_else(|| "service".to_owned()),
            programmed: programmed.to_owned(),
            address: addresses.map(|a| a.value.clone()).next().unwrap_or_default(),
            faults: faults(gateway),
            bound: Vec::new(),
        }
    }
}

fn faults(gateway: &Gateway) -> Vec<String> {
    let status = gateway.status.iter();
    let mut faults: Vec<String> = Vec::new();
    for condition in status.clone().flat_map(|s| &s.conditions) {
        let wanted = ["Accepted", "Programmed", "ResolvedRefs"].contains(&&*condition.type_);
        if wanted && condition.status != "True" {
            faults.push(format!("{} is {}: {}", condition.type_, condition.status, condition.message));
        }
    }
    for listener in status.flat_map(|s| &s.listeners) {
        let bad = listener.conditions.iter().filter(|c| c.type_ == "Accepted" && c.status != "True");
        faults.extend(bad.map(|c| format!("listener {}: {}", listener.name, c.message)));
    }
    if gateway.status.as_ref().is_none_or(|s| s.conditions.is_empty()) {
        let class = &gateway.spec.gateway_class_name;
        faults.push(format!(
            "no controller has seen it; is there a GatewayClass {class}, and does the control plane run (culvert check)?"
        ));
    }
    faults
}

/// An object that may name a waypoint.
#[derive(Clone, Debug)]
pub(crate) struct Bindable {
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

impl Bindable {
    /// Namespace and name of the waypoint that it names by itself.
    pub(crate) fn names(&self) -> Option<(String, String)> {
        let meta = &self.object["metadata"];
        let label = |key: &str| meta["labels"][key].as_str().filter(|v| !v.is_empty());
        let waypoint = label(USE_WAYPOINT).filter(|name| *name != "none")?;
        // A namespace has none and is one.
        let own = meta["namespace"].as_str().or(meta["name"].as_str()).unwrap_or_default();
        Some((label(USE_NAMESPACE).unwrap_or(own).to_owned(), waypoint.to_owned()))
    }

    /// `Service shop/cart`.
    pub(crate) fn text(&self) -> String {
        let meta = &self.object["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        match meta["namespace"].as_str() {
            Some(namespace) => format!("{} {namespace}/{name}", self.kind),
            None => format!("{} {name}", self.kind),
        }
    }
}

/// Who names a waypoint.
pub(super) fn bound<'a>(all: &'a [Bindable], namespace: &str, name: &str) -> impl Iterator<Item = &'a Bindable> {
    let wanted = (namespace.to_owned(), name.to_owned());
    all.iter().filter(move |b| b.names().as_ref() == Some(&wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gateway(status: Value) -> Gateway {
        let object = json!({
            "metadata": {"name": "waypoint", "namespace": "shop", "labels": {WAYPOINT_FOR: "all"}},
            "spec": {"gatewayClassName": "culvert-waypoint",
                     "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_waypoint_says_what_keeps_it_from_being_one() {
        let good = Waypoint::of(&gateway(json!({
            "addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}],
            "conditions": [{"type": "Accepted", "status": "True"}, {"type": "Programmed", "status": "True"}],
        })));
        assert_eq!((&*good.takes, &*good.programmed, good.faults.len()), ("all", "True", 0));
        assert_eq!(good.address, "waypoint.shop.svc.cluster.local");
        let bad = Waypoint::of(&gateway(json!({
            "conditions": [{"type": "Accepted", "status": "True"},
                           {"type": "Programmed", "status": "False", "message": "0 of 2 pods are ready"}],
            "listeners": [{"name": "web", "attachedRoutes": 0,
                           "conditions": [{"type": "Accepted", "status": "False", "message": "keep one listener"}]}],
        })));
        assert_eq!(bad.programmed, "False");
        assert_eq!(bad.faults, ["Programmed is False: 0 of 2 pods are ready", "listener web: keep one listener"]);
        assert!(Waypoint::of(&gateway(json!({}))).faults[0].contains("GatewayClass culvert-waypoint"));
        let mut edge = gateway(json!({}));
        assert!(is_waypoint(&edge));
        edge.spec.gateway_class_name = EAST_WEST.to_owned();
        assert!(!is_waypoint(&edge));
    }

    #[test]
    fn objects_name_their_waypoint_by_labels() {
        let of = |kind, metadata: Value| Bindable { kind, object: json!({ "metadata": metadata }) };
        let all = [
            of("namespace", json!({"name": "shop", "labels": {USE_WAYPOINT: "waypoint"}})),
            of(
                "Service",
                json!({"name": "a", "namespace": "other", "labels": {USE_WAYPOINT: "waypoint", USE_NAMESPACE: "shop"}}),
            ),
            of("Service", json!({"name": "b", "namespace": "shop", "labels": {USE_WAYPOINT: "none"}})),
            of("Service", json!({"name": "c", "namespace": "other", "labels": {USE_WAYPOINT: "waypoint"}})),
        ];
        let texts: Vec<String> = bound(&all, "shop", "waypoint").map(Bindable::text).collect();
        assert_eq!(texts, ["namespace shop", "Service other/a"]);
    }
}

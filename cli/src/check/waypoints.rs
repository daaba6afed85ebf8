//! The checks of waypoints: whether there is a class, whether those that are used serve, and whether routes have one.

use anyhow::Result;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use kubernetes::client::{CallError, call};
use kubernetes::object::{Gateway, GatewayClass};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Line;
use super::judge::{fail, ok, warn};
use crate::cluster::api_of;
use crate::waypoint::{Bindable, bindable, condition, is_waypoint};

/// The newest version of the Gateway API whose definitions we know.
const NEWEST: (u32, u32) = (1, 7);

/// The class that is always ours (design.md 7).
const CLASS: &str = "culvert-waypoint";

/// What is asked of the cluster.
#[derive(Debug, Default)]
pub(crate) struct WaypointFacts {
    /// Version that the definitions of the Gateway API say they have.
    pub(crate) bundle: Option<String>,
    classes: Vec<GatewayClass>,
    gateways: Vec<Gateway>,
    bindable: Vec<Bindable>,
    /// HTTPRoutes and GRPCRoutes.
    routes: Vec<Value>,
}

impl WaypointFacts {
    /// Asks, as far as there is a Gateway API.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) async fn gather(&mut self, client: &Client) -> Result<()> {
        self.classes = listed(Api::all(client.clone()), "classes").await?;
        self.gateways = listed(Api::all(client.clone()), "Gateways").await?;
        self.bindable = bindable(client).await?;
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let api = api_of(client, &json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind}))?;
            let routes: Vec<DynamicObject> = listed(api, kind).await?;
            for route in routes {
                let name = format!("{kind} {}/{}", route.namespace().unwrap_or_default(), route.name_any());
                self.routes.push(json!({ "name": name, "status": route.data["status"] }));
            }
        }
        Ok(())
    }
}

async fn listed<K: Clone + DeserializeOwned + std::fmt::Debug>(api: Api<K>, what: &str) -> Result<Vec<K>> {
    match call(&format!("list {what}"), api.list(&ListParams::default())).await {
        Ok(list) => Ok(list.items),
        // Not defined here.
        Err(CallError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The version of the Gateway API. Can be told before an installation.
pub(super) fn version(facts: &WaypointFacts) -> Option<Line> {
    let id = "waypoint.api";
    let bundle = facts.bundle.as_ref()?;
    let mut numbers = bundle.trim_start_matches('v').split(['.', '-']).map(|n| n.parse().unwrap_or(u32::MAX));
    let found = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0));
    let (major, minor) = NEWEST;
    Some(match found {
        (1, found) if found <= minor => ok(id, format!("Gateway API {bundle}")),
        _ => warn(
            id,
            format!("Gateway API {bundle} is not known; v{major}.0 to v{major}.{minor} are"),
            "what is new in it is not followed; update Culvert",
        ),
    })
}

/// What can be told of an installation.
pub(super) fn lines(facts: &WaypointFacts) -> Vec<Line> {
    let mut lines = vec![class(facts)];
    lines.extend(ready(facts));
    lines.extend(dangling(facts));
    lines.extend(routes(facts));
    lines
}

fn class(facts: &WaypointFacts) -> Line {
    let id = "waypoint.class";
    let Some(class) = facts.classes.iter().find(|c| c.name_any() == CLASS) else {
        let remedy = "the control plane makes it within seconds when waypoint.deploy is on; see its log";
        return warn(id, format!("there is no GatewayClass {CLASS}, so that no waypoint can be made"), remedy);
    };
    let conditions = class.status.iter().flat_map(|s| &s.conditions);
    match conditions.filter(|c| c.type_ == "Accepted").map(|c| (&*c.status, &*c.message)).next() {
        Some(("True", _)) => ok(id, format!("GatewayClass {CLASS} is accepted")),
        Some((_, why)) => fail(id, format!("GatewayClass {CLASS} is not accepted: {why}"), "correct its spec"),
        None => {
            fail(id, format!("nobody has looked at GatewayClass {CLASS}"), "see the log of culvert-control's leader")
        }
    }
}

/// Waypoints that do not serve: a failure when somebody is bound to one.
fn ready(facts: &WaypointFacts) -> Vec<Line> {
    let id = "waypoint.ready";
    let waypoints: Vec<&Gateway> = facts.gateways.iter().filter(|g| is_waypoint(g)).collect();
    let mut lines = Vec::new();
    for gateway in &waypoints {
        let (namespace, name) = (gateway.namespace().unwrap_or_default(), gateway.name_any());
        let why = match condition(gateway, "Programmed") {
            Some(("True", _)) => continue,
            Some((_, why)) => why,
            None => "no controller has looked at it",
        };
        let used = facts.bindable.iter().any(|b| b.names().is_some_and(|n| n == (namespace.clone(), name.clone())));
        let remedy = format!("culvert waypoint status -n {namespace} {name}");
        lines.push(match used {
            true => fail(id, format!("waypoint {namespace}/{name} is used and does not serve: {why}"), remedy),
            false => warn(id, format!("waypoint {namespace}/{name} does not serve: {why}"), remedy),
        });
    }
    if lines.is_empty() && !waypoints.is_empty() {
        lines.push(ok(id, format!("waypoints that serve: {}", waypoints.len())));
    }
    lines
}

/// Names of waypoints that are none.
fn dangling(facts: &WaypointFacts) -> Vec<Line> {
    let there = |namespace: &str, name: &str| {
        facts.gateways.iter().any(|g| g.namespace().as_deref() == Some(namespace) && g.name_any() == name)
    };
    let wrong = facts.bindable.iter().filter_map(|b| Some((b, b.names()?))).filter(|(_, (ns, name))| !there(ns, name));
    wrong
        .map(|(bindable, (namespace, name))| {
            let what = format!("{} names waypoint {namespace}/{name}, which is not there", bindable.text());
            let remedy = format!("culvert waypoint apply -n {namespace} --name {name}, or take the label off");
            warn("waypoint.bound", what, remedy)
        })
        .collect()
}

/// Routes that no waypoint follows, as the control plane says it on them.
fn routes(facts: &WaypointFacts) -> Vec<Line> {
    let id = "waypoint.routes";
    let mut lines = Vec::new();
    for route in &facts.routes {
        let parents = route["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
        let conditions = parents.iter().flat_map(|p| p["conditions"].as_array().map(Vec::as_slice).unwrap_or_default());
        let mut unserved = conditions.filter(|c| c["type"] == "ResolvedWaypoints" && c["status"] == "False");
        if let Some(condition) = unserved.next() {
            let (name, why) =
                (route["name"].as_str().unwrap_or_default(), condition["message"].as_str().unwrap_or_default());
            let remedy = "culvert waypoint apply -n NAMESPACE --enroll-namespace, with the namespace of its Service";
            lines.push(warn(id, format!("{name} has no effect: {why}"), remedy));
        }
    }
    if lines.is_empty() && !facts.routes.is_empty() {
        lines.push(ok(id, format!("every route is followed by a waypoint or not yet judged: {}", facts.routes.len())));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn of<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn gateway(programmed: Option<&str>) -> Gateway {
        let conditions: Vec<Value> =
            programmed.iter().map(|s| json!({"type": "Programmed", "status": s, "message": "why"})).collect();
        of(json!({"metadata": {"name": "waypoint", "namespace": "shop"}, "status": {"conditions": conditions},
            "spec": {"gatewayClassName": CLASS, "listeners": [{"name": "m", "port": 15008, "protocol": "HBONE"}]}}))
    }

    fn bound(waypoint: &str) -> Bindable {
        let labels = json!({"istio.io/use-waypoint": waypoint});
        Bindable { kind: "namespace", object: json!({"metadata": {"name": "shop", "labels": labels}}) }
    }

    fn states(facts: &WaypointFacts, id: &str) -> Vec<State> {
        lines(facts).into_iter().filter(|l| l.id == id).map(|l| l.state).collect()
    }

    #[test]
    fn a_waypoint_that_is_used_must_serve() {
        let facts = |programmed, users: Vec<Bindable>| WaypointFacts {
            gateways: vec![gateway(programmed)],
            bindable: users,
            ..WaypointFacts::default()
        };
        let id = "waypoint.ready";
        assert_eq!(states(&facts(Some("True"), vec![bound("waypoint")]), id), [State::Ok]);
        assert_eq!(states(&facts(Some("False"), vec![bound("waypoint")]), id), [State::Fail]);
        assert_eq!(states(&facts(Some("False"), vec![]), id), [State::Warn]);
        assert_eq!(states(&facts(None, vec![]), id), [State::Warn]);
        assert_eq!(states(&WaypointFacts::default(), id), []);
        assert_eq!(states(&facts(Some("True"), vec![bound("other")]), "waypoint.bound"), [State::Warn]);
        assert_eq!(states(&facts(Some("True"), vec![bound("none")]), "waypoint.bound"), []);
    }

    #[test]
    fn the_class_must_be_there_and_accepted() {
        let facts = |status: Option<&str>| WaypointFacts {
            classes: vec![of(json!({"metadata": {"name": CLASS}, "spec": {"controllerName": "c"}, "status": {
                "conditions": status.iter().map(|s| json!({"type": "Accepted", "status": s})).collect::<Vec<_>>()}}))],
            ..WaypointFacts::default()
        };
        let id = "waypoint.class";
        assert_eq!(states(&WaypointFacts::default(), id), [State::Warn]);
        assert_eq!(states(&facts(None), id), [State::Fail]);
        assert_eq!(states(&facts(Some("False")), id), [State::Fail]);
        assert_eq!(states(&facts(Some("True")), id), [State::Ok]);
    }

    #[test]
    fn a_route_without_a_waypoint_has_no_effect_and_is_named() {
        let route = |status: &str| {
            let condition =
                json!({"type": "ResolvedWaypoints", "status": status, "message": "Service shop/a has none"});
            json!({"name": "HTTPRoute shop/a", "status": {"parents": [{"conditions": [condition]}]}})
        };
        let facts = |status| WaypointFacts { routes: vec![route(status)], ..WaypointFacts::default() };
        assert_eq!(states(&facts("False"), "waypoint.routes"), [State::Warn]);
        assert_eq!(states(&facts("True"), "waypoint.routes"), [State::Ok]);
    }

    #[test]
    fn a_version_that_is_not_known_is_said() {
        let state = |bundle: &str| {
            version(&WaypointFacts { bundle: Some(bundle.to_owned()), ..WaypointFacts::default() }).map(|l| l.state)
        };
        assert_eq!((state("v1.7.0"), state("v1.2.0-rc1")), (Some(State::Ok), Some(State::Ok)));
        assert_eq!(
            (state("v1.8.0"), state("v2.0.0"), state("main")),
            (Some(State::Warn), Some(State::Warn), Some(State::Warn))
        );
        assert_eq!(version(&WaypointFacts::default()), None);
    }
}

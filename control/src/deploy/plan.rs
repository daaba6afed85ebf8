//! Which objects a Gateway of a waypoint class needs. Pure: [`plan`] takes a Gateway and settings, and gives documents for
//! server-side apply (waypoint-api.md 1, "Objects made").

use kubernetes::object::GATEWAY_NAME;
use std::collections::BTreeMap;

use kubernetes::object::gateway as api;
use serde_json::{Value, json};

use super::fault::Fault;
use super::listener::{self, HBONE_PORT};
use super::merge;
use super::overlay::{Overlay, Part};
use super::pod;
use crate::config::Mesh;
use crate::config::waypoint::Waypoint;

/// The label of what a gateway controller made, and Istio's name for the one of meshes: services with it are bound to no
/// waypoint, and pods with it may ask for certificates.
pub(crate) const MANAGED: (&str, &str) = ("gateway.istio.io/managed", "istio.io-mesh-controller");
/// The label by which we know what we made, among objects that Istio's control plane made for its own Gateways.
pub(crate) const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "culvert-control");

/// Annotation that names the objects otherwise than the Gateway.
const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
/// Annotation that names the service account.
const ACCOUNT_OVERRIDE: &str = "gateway.istio.io/service-account";
/// Annotation that sets the type of the Service.
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// What kubectl remembers of the Gateway is of no use on other objects.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What planning is told besides the Gateway.
pub(crate) struct Around<'a> {
    /// Settings.
    pub(crate) values: &'a Waypoint,
    /// Names of the mesh.
    pub(crate) mesh: &'a Mesh,
    /// Pods that the Deployment has now; a scaler's word is not ours to change.
    pub(crate) replicas: Option<i64>,
    /// What users lay over, the class's before the Gateway's.
    pub(crate) overlays: &'a [Overlay],
}

/// What a Gateway needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Name of Deployment and Service.
    pub(crate) name: String,
    /// In the order in which they are made.
    pub(crate) objects: Vec<Value>,
}

/// Plans. The listeners are judged elsewhere (`listener`); a Gateway without a usable one is not planned for.
///
/// # Errors
/// Every mistake in the Gateway and its overlays.
pub(crate) fn plan(gateway: &api::Gateway, around: &Around<'_>) -> Result<Plan, Vec<Fault>> {
    let mut faults = Vec::new();
    let names = Names::of(gateway, &mut faults);
    let service_type = service_type(gateway, &mut faults);
    let wanted = |part| around.overlays.iter().any(|o| o.part(part).is_some());
    let scaled = around.values.autoscaling.enabled || wanted(Part::Autoscaler);
    let least = if scaled { around.values.autoscaling.min_replicas } else { around.values.replicas };
    let maker = Maker { gateway, names: &names, around, scaled, least };

    let mut parts = vec![
        (Part::ServiceAccount, maker.account()),
        (Part::Deployment, maker.deployment()),
        (Part::Service, maker.service(service_type)),
    ];
    if scaled {
        parts.push((Part::Autoscaler, maker.autoscaler()));
    }
    // One that may not go away would keep nodes from being drained; with one pod there is nothing to keep.
    if least > 1 || wanted(Part::Budget) {
        parts.push((Part::Budget, maker.budget()));
    }
    let mut objects = Vec::new();
    for (part, mut object) in parts {
        for overlay in around.overlays {
            lay_over(&mut object, overlay, part, &mut faults);
        }
        objects.push(object);
    }
    if around.values.network_policy {
        objects.push(maker.network_policy());
    }
    if faults.is_empty() { Ok(Plan { name: names.workload, objects }) } else { Err(faults) }
}

/// What must stay as planned, or the object would be another one, or nobody's.
const KEPT: [&str; 6] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/ownerReferences",
    // Immutable, and what budget, Service and binding go by.
    "/spec/selector",
];

fn lay_over(object: &mut Value, overlay: &Overlay, part: Part, faults: &mut Vec<Fault>) {
    let Some(patch) = overlay.part(part) else { return };
    let place = format!("{}, key {}", overlay.name, part.key());
    let planned = object.clone();
    if let Err(fault) = merge::merge(object, patch, &place) {
        return faults.push(fault);
    }
    let labels = ["/metadata/labels", "/spec/template/metadata/labels"];
    for kept in labels.iter().filter(|at| planned.pointer(at).is_some_and(|p| !laid(object, at, p))) {
        let remedy = format!("leave {GATEWAY_NAME}, {} and {} as they are", MANAGED.0, MADE_BY.0);
        faults.push(Fault::new(
            format!("{place}{}", kept.replace('/', ".")),
            "a label is taken that must stay",
            remedy,
        ));
    }
    for kept in KEPT.iter().filter(|at| planned.pointer(at) != object.pointer(at)) {
        faults.push(Fault::new(
            format!("{place}{}", kept.replace('/', ".")),
            "it must stay as it is, by it the object is found",
            "take it out of the overlay",
        ));
    }
}

/// Whether the labels that must stay are as planned.
fn laid(object: &Value, at: &str, planned: &Value) -> bool {
    let keys = [GATEWAY_NAME, MANAGED.0, MADE_BY.0];
    keys.iter().all(|key| object.pointer(at).and_then(|labels| labels.get(key)) == planned.get(key))
}

/// Names of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) workload: String,
    pub(crate) account: String,
}

impl Names {
    fn of(gateway: &api::Gateway, faults: &mut Vec<Fault>) -> Self {
        let name = gateway.metadata.name.clone().unwrap_or_default();
        let named = annotation(gateway, NAME_OVERRIDE);
        let workload = named.unwrap_or(&name).to_owned();
        // RFC 1035 label, as Kubernetes wants it of a Service's name.
        let good = workload.len() <= 63
            && workload.starts_with(|c: char| c.is_ascii_lowercase())
            && workload.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && workload.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !good {
            let place =
                if named.is_some() { format!("metadata.annotations[{NAME_OVERRIDE}]") } else { META.to_owned() };
            let remedy = format!(
                "use at most 63 lower-case letters, digits and dashes, a letter first; annotation {NAME_OVERRIDE} names the \
                 objects otherwise"
            );
            faults.push(Fault::new(place, format!("{workload:?} cannot be the name of a Service"), remedy));
        }
        if name.len() > 63 {
            let what = "longer than a label's value can be, by which pods of the Gateway are known";
            faults.push(Fault::new(META, what, "use at most 63 characters"));
        }
        let account = annotation(gateway, ACCOUNT_OVERRIDE).unwrap_or(&workload).to_owned();
        Self { workload, account }
    }
}

const META: &str = "metadata.name";

fn service_type<'a>(gateway: &'a api::Gateway, faults: &mut Vec<Fault>) -> &'a str {
    match annotation(gateway, SERVICE_TYPE) {
        None => "ClusterIP",
        Some(known @ ("ClusterIP" | "LoadBalancer" | "NodePort")) => known,
        Some(other) => {
            faults.push(Fault::new(
                format!("metadata.annotations[{SERVICE_TYPE}]"),
                format!("{other:?} is no type of Service that a waypoint can have"),
                "use ClusterIP, NodePort or LoadBalancer",
            ));
            "ClusterIP"
        }
    }
}

/// An annotation of the Gateway, or one that it wants on its infrastructure.
fn annotation<'a>(gateway: &'a api::Gateway, key: &str) -> Option<&'a str> {
    let own = gateway.metadata.annotations.as_ref().and_then(|a| a.get(key));
    let wanted = gateway.spec.infrastructure.as_ref().and_then(|i| i.annotations.get(key));
    own.or(wanted).map(String::as_str).filter(|text| !text.is_empty())
}

/// Makes the documents.
pub(super) struct Maker<'a> {
    pub(super) gateway: &'a api::Gateway,
    pub(super) names: &'a Names,
    pub(super) around: &'a Around<'a>,
    scaled: bool,
    least: u32,
}

impl Maker<'_> {
    pub(super) fn gateway_name(&self) -> &str {
        self.gateway.metadata.name.as_deref().unwrap_or_default()
    }

    /// Labels that a user wants on everything that is made.
    pub(super) fn wanted_labels(&self) -> BTreeMap<String, String> {
        self.gateway.spec.infrastructure.as_ref().map(|i| i.labels.clone()).unwrap_or_default()
    }

    /// Annotations that a user wants on everything that is made.
    pub(super) fn wanted_annotations(&self) -> BTreeMap<String, String> {
        let mut all = self.gateway.spec.infrastructure.as_ref().map(|i| i.annotations.clone()).unwrap_or_default();
        all.retain(|key, _| ![NAME_OVERRIDE, ACCOUNT_OVERRIDE, LAST_APPLIED].contains(&&**key));
        all
    }

    /// Labels by which everybody finds the object; nobody takes them.
    pub(super) fn own_labels(&self) -> BTreeMap<String, String> {
        [
            (GATEWAY_NAME, self.gateway_name()),
            ("gateway.networking.k8s.io/gateway-class-name", &self.gateway.spec.gateway_class_name),
            MANAGED,
            MADE_BY,
            ("app.kubernetes.io/part-of", "culvert"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    pub(super) fn selector(&self) -> Value {
        json!({ GATEWAY_NAME: self.gateway_name() })
    }

    fn object(&self, api_version: &str, kind: &str, name: &str, more: &[(&str, &str)]) -> Value {
        let meta = &self.gateway.metadata;
        let mut labels = self.wanted_labels();
        labels.extend(self.own_labels());
        let mut annotations: BTreeMap<_, _> =
            more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        annotations.extend(self.wanted_annotations());
        // Without blockOwnerDeletion: setting it needs a right on the Gateway's finalizers.
        let owner = json!([{
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "controller": true,
            "name": self.gateway_name(), "uid": meta.uid,
        }]);
        let mut metadata =
            json!({ "name": name, "namespace": meta.namespace, "labels": labels, "ownerReferences": owner });
        if !annotations.is_empty() {
            metadata["annotations"] = json!(annotations);
        }
        json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata })
    }

    fn account(&self) -> Value {
        self.object("v1", "ServiceAccount", &self.names.account, &[])
    }

    fn deployment(&self) -> Value {
        let mut object = self.object("apps/v1", "Deployment", &self.names.workload, &[]);
        // A scaler's number is repeated and not set: whoever leaves out a field that was theirs resets it.
        let now = self.around.replicas.filter(|_| self.scaled);
        object["spec"] = json!({
            "replicas": now.unwrap_or(i64::from(self.least)),
            "selector": { "matchLabels": self.selector() },
            // A pod goes only after another one serves in its place.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": 0 } },
            "template": pod::template(self),
        });
        object
    }

    fn service(&self, service_type: &str) -> Value {
        let near = ("networking.istio.io/traffic-distribution", "PreferClose");
        let mut object = self.object("v1", "Service", &self.names.workload, &[near]);
        let port = |name: &str, port: u16, app: &str| json!({ "name": name, "port": port, "targetPort": port, "protocol": "TCP", "appProtocol": app });
        let mesh = listener::port_name(&self.gateway.spec.listeners);
        object["spec"] = json!({
            "type": service_type,
            "ipFamilyPolicy": "PreferDualStack",
            "selector": self.selector(),
            "ports": [port("status-port", pod::READY_PORT, "http"), port(&mesh, HBONE_PORT, "hbone")],
        });
        object
    }

    fn autoscaler(&self) -> Value {
        let name = &self.names.workload;
        let scaling = &self.around.values.autoscaling;
        let mut object = self.object("autoscaling/v2", "HorizontalPodAutoscaler", name, &[]);
        object["spec"] = json!({
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [{
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    "target": { "type": "Utilization", "averageUtilization": scaling.target_cpu },
                },
            }],
        });
        object
    }

    fn budget(&self) -> Value {
        let mut object = self.object("policy/v1", "PodDisruptionBudget", &self.names.workload, &[]);
        object["spec"] = json!({ "maxUnavailable": 1, "selector": { "matchLabels": self.selector() } });
        object
    }

    /// Tunnels come from the pods of every namespace, whose identity they prove; scrapes and probes from anywhere.
    fn network_policy(&self) -> Value {
        let mut object = self.object("networking.k8s.io/v1", "NetworkPolicy", &self.names.workload, &[]);
        let ports =
            [HBONE_PORT, pod::METRICS_PORT, pod::READY_PORT].map(|port| json!({ "port": port, "protocol": "TCP" }));
        object["spec"] = json!({
            "podSelector": { "matchLabels": self.selector() },
            "policyTypes": ["Ingress"],
            "ingress": [{ "ports": ports }],
        });
        object
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

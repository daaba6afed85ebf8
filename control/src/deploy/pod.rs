//! The pod of a waypoint.
//!
//! Its configuration travels as an annotation that the pod shows itself as a file (downward API). So a change of it is a
//! change of the Deployment, rolled out pod by pod; no ConfigMap can be changed under running pods, and control needs no
//! right to write ConfigMaps into users' namespaces.

use std::collections::BTreeMap;

use document::Span;
use serde_json::{Map, Value, json};

use super::plan::Maker;
use crate::config::Mesh;
use crate::config::waypoint::Waypoint;

/// Annotation of the pod with its configuration.
pub(crate) const CONFIG: &str = "culvert.dev/waypoint-config";

/// Readiness, on every program of Culvert.
pub(crate) const READY_PORT: u16 = 15021;
/// Metrics, where Istio's dashboards look for a proxy's.
pub(crate) const METRICS_PORT: u16 = 15020;

/// User and group: what Istio's proxies run as, so that rules of users about it hold for ours.
const USER: u32 = 1337;

/// What is left for the last words after the drain, during which the program itself takes leave of its callers.
const FAREWELL: u64 = 10;

/// Half a day: the kubelet renews a token after four fifths of its life.
const TOKEN_SECONDS: u32 = 43_200;

/// The template of the Deployment.
pub(super) fn template(maker: &Maker<'_>) -> Value {
    let values = maker.around.values;
    let mut labels: BTreeMap<String, String> = [
        // Neither captured nor injected: a waypoint ends tunnels itself.
        ("istio.io/dataplane-mode", "none"),
        ("sidecar.istio.io/inject", "false"),
        ("service.istio.io/canonical-name", &*maker.names.workload),
        ("service.istio.io/canonical-revision", "latest"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(values.pod_labels.clone());
    labels.extend(maker.wanted_labels());
    labels.extend(maker.own_labels());
    let mut annotations: BTreeMap<String, String> = [
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", METRICS_PORT.to_string()),
        ("prometheus.io/path", "/stats/prometheus".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    annotations.extend(values.pod_annotations.clone());
    annotations.extend(maker.wanted_annotations());
    annotations.insert(CONFIG.to_owned(), config(values, maker.around.mesh, maker.gateway_name()));
    json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": spec(maker) })
}

fn spec(maker: &Maker<'_>) -> Value {
    let values = maker.around.values;
    let mut spec = json!({
        "serviceAccountName": maker.names.account,
        // It never asks the API server; the token for control and CA is a volume of its own.
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": values.drain.get().as_secs() + FAREWELL,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "nodeSelector": node_selector(values),
        "topologySpreadConstraints": spread(maker),
        "containers": [container(values)],
        "volumes": volumes(),
    });
    let placement = &values.placement;
    let more = [
        ("affinity", json!(placement.affinity)),
        ("tolerations", json!(placement.tolerations)),
        ("priorityClassName", json!(placement.priority_class)),
        ("imagePullSecrets", json!(values.pull_secrets.iter().map(|n| json!({ "name": n })).collect::<Vec<_>>())),
    ];
    for (field, value) in more.into_iter().filter(|(_, value)| !is_empty(value)) {
        spec[field] = value;
    }
    spec
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => value.is_null(),
    }
}

fn node_selector(values: &Waypoint) -> BTreeMap<String, String> {
    let mut selector = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    selector.extend(values.placement.node_selector.clone());
    selector
}

/// Over the nodes where possible, or as the operator says; for the waypoint's own pods.
fn spread(maker: &Maker<'_>) -> Vec<Value> {
    let own = json!({ "matchLabels": maker.selector() });
    let mut given: Vec<Map<String, Value>> = maker.around.values.placement.topology_spread_constraints.clone();
    if given.is_empty() {
        let nodes = [
            ("maxSkew", json!(1)),
            ("topologyKey", json!("kubernetes.io/hostname")),
            ("whenUnsatisfiable", json!("ScheduleAnyway")),
        ];
        given.push(nodes.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
    }
    for one in &mut given {
        one.entry("labelSelector").or_insert_with(|| own.clone());
    }
    given.into_iter().map(Value::Object).collect()
}

fn container(values: &Waypoint) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let port = |name: &str, number: u16| json!({ "name": name, "containerPort": number, "protocol": "TCP" });
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let ready = json!({ "path": "/healthz/ready", "port": READY_PORT });
    let mut container = json!({
        // As Istio's, so that dashboards and `kubectl logs -c istio-proxy` find it.
        "name": "istio-proxy",
        "image": values.image,
        "args": ["--config", "/etc/culvert/waypoint.yaml"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IP", "status.podIP"),
            field("NODE_NAME", "spec.nodeName"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ],
        "ports": [
            port("mesh", super::listener::HBONE_PORT),
            port("metrics", METRICS_PORT),
            port("status-port", READY_PORT),
        ],
        "readinessProbe": { "httpGet": ready, "periodSeconds": 2 },
        "securityContext": {
            "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            mount("config", "/etc/culvert"),
            mount("token", "/var/run/secrets/tokens"),
            mount("root", "/var/run/secrets/istio"),
        ],
    });
    if let Some(policy) = &values.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if !values.resources.is_empty() {
        container["resources"] = json!(values.resources);
    }
    container
}

fn volumes() -> Value {
    let path = format!("metadata.annotations['{CONFIG}']");
    json!([
        {
            "name": "config",
            "downwardAPI": { "items": [{ "path": "waypoint.yaml", "fieldRef": { "fieldPath": path } }] },
        },
        {
            "name": "token",
            "projected": { "sources": [{ "serviceAccountToken": {
                "audience": kubernetes::review::AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "istio-token",
            } }] },
        },
        { "name": "root", "configMap": { "name": "culvert-ca-root-cert" } },
    ])
}

/// `waypoint.yaml`. `${…}` is filled in by the program from its environment.
fn config(values: &Waypoint, mesh: &Mesh, gateway: &str) -> String {
    // A JSON text is a YAML text.
    let text = |text: &str| Value::from(text).to_string();
    let seconds = |span: Span| format!("{}s", span.get().as_secs());
    let files = "  rootFile: /var/run/secrets/istio/root-cert.pem\n  tokenFile: /var/run/secrets/tokens/istio-token\n";
    let mut yaml = format!(
        "node: ${{NODE_NAME}}\n\
         ownPod: {{name: \"${{POD_NAME}}\", namespace: \"${{POD_NAMESPACE}}\", address: \"${{POD_IP}}\"}}\n\
         serviceAccount: ${{SERVICE_ACCOUNT}}\n\
         trustDomain: {}\n\
         cluster: {}\n\
         network: {}\n\
         gateway: {}\n\
         xds:\n  address: {}\n{files}\
         ca:\n  address: {}\n{files}  certificateLifetime: {}\n\
         drain: {}\n\
         log: {{level: {}}}\n",
        text(&mesh.trust_domain),
        text(&mesh.cluster_id),
        text(&mesh.network),
        text(gateway),
        text(&values.control_address),
        text(&values.ca_address),
        seconds(values.certificate_lifetime),
        seconds(values.drain),
        text(&values.log_level),
    );
    if values.workers > 0 {
        yaml.push_str(&format!("workers: {}\n", values.workers));
    }
    if let Some(otlp) = &values.otlp {
        let (endpoint, sampling, access_log) = (text(&otlp.endpoint), otlp.sampling, otlp.access_log);
        yaml.push_str(&format!("otlp: {{endpoint: {endpoint}, sampling: {sampling}, accessLog: {access_log}}}\n"));
    }
    yaml
}

//! What control makes for a Gateway of a waypoint class: section `waypoint` of `control.yaml`.

use std::collections::BTreeMap;

use document::{Check, Report, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A piece of a Kubernetes object, as a user writes it; the API server checks it.
pub type Piece = Map<String, Value>;

/// Deploying waypoints. Absent: Gateways are left to others, and only bound to.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Waypoint {
    /// Whether Gateways of Istio's class `istio-waypoint` are ours too.
    #[serde(default)]
    pub own_istio_names: OwnIstioNames,
    /// The program, with its tag.
    pub image: String,
    /// When the kubelet pulls it; Kubernetes' default when absent.
    #[serde(default)]
    pub pull_policy: Option<String>,
    /// Names of Secrets for the registry. They must be in the waypoint's namespace.
    #[serde(default)]
    pub pull_secrets: Vec<String>,
    /// Where waypoints find discovery, `https://host:port`.
    #[serde(default = "defaults::control_address")]
    pub control_address: String,
    /// Where waypoints find the CA, `https://host:port`.
    #[serde(default = "defaults::ca_address")]
    pub ca_address: String,
    /// Life of a waypoint's certificate that is asked for.
    #[serde(default = "defaults::lifetime")]
    pub certificate_lifetime: Span,
    /// Pods of a waypoint that is not scaled by load.
    #[serde(default = "defaults::replicas")]
    pub replicas: u32,
    /// Scaling by load.
    #[serde(default)]
    pub autoscaling: Autoscaling,
    /// CPU and memory, as in a container.
    #[serde(default)]
    pub resources: Piece,
    /// How long open connections and requests may go on after a pod is told to end. 60 s: longer than all but long-lived
    /// streams, which are told to reconnect (GOAWAY), and short enough for a rollout or a node's drain.
    #[serde(default = "defaults::drain")]
    pub drain: Span,
    /// Threads that carry connections; as many as CPUs, at most 4, when 0.
    #[serde(default)]
    pub workers: u32,
    /// Placement, as in a pod.
    #[serde(default)]
    pub placement: Placement,
    /// Further annotations of the pods.
    #[serde(default)]
    pub pod_annotations: BTreeMap<String, String>,
    /// Further labels of the pods.
    #[serde(default)]
    pub pod_labels: BTreeMap<String, String>,
    /// Whether every namespace is treated as if it had the label `culvert.dev/auto-waypoint: enabled`.
    #[serde(default)]
    pub automatic: bool,
    /// Whether each waypoint gets a NetworkPolicy that lets in tunnels, scrapes and probes, and nothing else.
    #[serde(default)]
    pub network_policy: bool,
    /// Level of messages.
    #[serde(default = "defaults::log_level")]
    pub log_level: String,
    /// Where traces go.
    #[serde(default)]
    pub otlp: Option<Otlp>,
}

/// Whether Istio's names are ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OwnIstioNames {
    /// Whoever else is in the cluster.
    Always,
    /// While no Service `istiod` is in the cluster.
    #[default]
    Auto,
    /// They are not.
    Never,
}

/// Scaling by load (HorizontalPodAutoscaler, `autoscaling/v2`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Autoscaling {
    /// Whether there is any.
    pub enabled: bool,
    /// Fewest pods.
    pub min_replicas: u32,
    /// Most pods.
    pub max_replicas: u32,
    /// Percent of the requested CPU to hold. 70: leaves room for the seconds until a new pod serves.
    pub target_cpu: u32,
}

/// Where pods run, as in a pod's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Placement {
    /// `affinity`.
    pub affinity: Piece,
    /// `nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// `tolerations`.
    pub tolerations: Vec<Piece>,
    /// `topologySpreadConstraints`, each without `labelSelector` for the waypoint's own pods. Spread over nodes where
    /// possible when none is given.
    pub topology_spread_constraints: Vec<Piece>,
    /// `priorityClassName`; none when empty.
    pub priority_class: String,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Otlp {
    /// `http://host:4317`.
    pub endpoint: String,
    /// Share of requests, 0 to 1.
    pub sampling: f64,
    /// Records of the access log are sent there too.
    #[serde(default)]
    pub access_log: bool,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self { enabled: false, min_replicas: 2, max_replicas: 10, target_cpu: 70 }
    }
}

mod defaults {
    use super::Span;

    pub(super) fn control_address() -> String {
        "https://culvert-control.culvert-system.svc:15012".to_owned()
    }

    pub(super) fn ca_address() -> String {
        "https://culvert-ca.culvert-system.svc:15012".to_owned()
    }

    pub(super) fn lifetime() -> Span {
        Span::from_secs(24 * 3600)
    }

    /// One that may go away, by a node's end or an eviction.
    pub(super) fn replicas() -> u32 {
        2
    }

    pub(super) fn drain() -> Span {
        Span::from_secs(60)
    }

    pub(super) fn log_level() -> String {
        "info".to_owned()
    }
}

impl Check for Waypoint {
    fn check(&self, report: &mut Report) {
        if self.image.is_empty() {
            report.at("/image").mistake("there is no image", "name one, such as culvert.dev/waypoint:0.1.0");
        }
        for (field, address) in [("/controlAddress", &self.control_address), ("/caAddress", &self.ca_address)] {
            if !address.starts_with("https://") {
                let what = format!("{address:?} does not begin with https://, and nothing is asked in clear");
                report.at(field).mistake(what, "write it as https://host:15012");
            }
        }
        let scaling = &self.autoscaling;
        if scaling.enabled && (scaling.min_replicas == 0 || scaling.min_replicas > scaling.max_replicas) {
            let what = format!("from {} to {} pods is no range", scaling.min_replicas, scaling.max_replicas);
            let remedy = "let minReplicas be at least 1, and maxReplicas not less than that";
            report.at("/autoscaling").mistake(what, remedy);
        }
        if scaling.enabled && !(1..=100).contains(&scaling.target_cpu) {
            let what = format!("{} percent of the requested CPU cannot be held", scaling.target_cpu);
            report.at("/autoscaling/targetCpu").mistake(what, "use 1 to 100");
        }
    }
}

//! What a user can set: `values.yaml` of the chart `culvert`, and `--set` and `--values` of `culvert install`. The chart's
//! `values.schema.json` is made of these types, so a typo is refused by either.

use std::collections::BTreeMap;

use document::{Check, CidrText, Report};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::form;

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Values {
    /// Where images come from.
    pub(crate) image: Image,
    /// The mesh.
    pub(crate) mesh: Mesh,
    /// The certificate authority.
    pub(crate) ca: Authority,
    /// The control plane.
    pub(crate) control: Control,
    /// Waypoints, which the control plane makes of Gateways.
    pub(crate) waypoint: Waypoint,
    /// The node proxy.
    pub(crate) ztunnel: Ztunnel,
    /// The node agent.
    pub(crate) node: Node,
    /// Names that Istio uses too.
    pub(crate) compat: Compat,
    /// NetworkPolicies for Culvert's own pods.
    pub(crate) network_policies: Switch,
    /// Objects of the Prometheus operator.
    pub(crate) monitoring: Monitoring,
    /// OpenTelemetry.
    pub(crate) tracing: Tracing,
    /// Level of messages of all programs: `info`, or `info,hbone=debug`.
    pub(crate) log_level: String,
}

impl Check for Values {
    fn check(&self, report: &mut Report) {
        for (index, text) in self.mesh.pod_cidrs.iter().enumerate() {
            if let Err(error) = text.parse::<CidrText>() {
                report.at("/mesh/podCIDRs").at(index).mistake(error.to_string(), "");
            }
        }
    }
}

/// Where images come from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Image {
    /// What stands before `/ztunnel`, `/culvert-ca` and so on.
    #[schemars(regex(pattern = form::REPOSITORY))]
    pub(crate) repository: String,
    /// Tag; the chart's version when empty.
    #[schemars(regex(pattern = form::TAG))]
    pub(crate) tag: String,
    /// When the kubelet pulls.
    pub(crate) pull_policy: PullPolicy,
    /// Names of Secrets for the registry.
    #[schemars(inner(regex(pattern = form::NAME)))]
    pub(crate) pull_secrets: Vec<String>,
}

/// When the kubelet pulls an image.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The mesh.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Mesh {
    /// Trust domain of all identities. It cannot be changed later without new certificates for everybody.
    #[schemars(regex(pattern = form::TRUST_DOMAIN))]
    pub(crate) trust_domain: String,
    /// Id of the cluster.
    #[schemars(regex(pattern = form::ID))]
    pub(crate) cluster_id: String,
    /// DNS domain of the cluster.
    #[schemars(regex(pattern = form::DOMAIN))]
    pub(crate) cluster_domain: String,
    /// Network that the pods are in; empty for the default one.
    #[schemars(regex(pattern = form::ID_OR_NONE))]
    pub(crate) network: String,
    /// Namespace of policies for the whole mesh; the release's namespace when empty.
    #[schemars(regex(pattern = form::LABEL_OR_NONE))]
    pub(crate) root_namespace: String,
    /// Addresses of pods, such as `10.244.0.0/16`. A destination in here that discovery does not know is refused rather than
    /// reached in clear. Empty: what nodes say, if the next key says so.
    #[serde(rename = "podCIDRs")]
    #[schemars(inner(regex(pattern = form::CIDR)))]
    pub(crate) pod_cidrs: Vec<String>,
    /// While `podCIDRs` is empty, take `spec.podCIDRs` of the Nodes for it. Not every network plug-in gives pods addresses of
    /// these blocks; without any block an unknown address is reached in clear, as Istio does (`culvert check` warns).
    #[serde(rename = "podCIDRsFromNodes")]
    pub(crate) pod_cidrs_from_nodes: bool,
    /// How two pods of one node talk: by mutual TLS, or directly after both certificates and policy were checked.
    pub(crate) same_node: SameNode,
    /// Names of the mesh are answered on the node; others are forwarded.
    pub(crate) dns: Switch,
    /// Labelling a namespace never enrols the pods of these.
    #[schemars(inner(regex(pattern = form::LABEL)))]
    pub(crate) excluded_namespaces: Vec<String>,
}

/// How two pods of one node talk.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum SameNode {
    Direct,
    Mtls,
}

/// On or off.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Switch {
    pub(crate) enabled: bool,
}

/// The certificate authority.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Authority {
    /// How many pods.
    pub(crate) replicas: u32,
    /// CPU and memory, as in a container.
    pub(crate) resources: serde_json::Map<String, serde_json::Value>,
    /// Secret with the signing key; made at first start when it is not there.
    #[schemars(regex(pattern = form::NAME))]
    pub(crate) secret_name: String,
    /// Keep that Secret when Culvert is removed, so that a later installation has the same root. One that you made is always
    /// kept.
    pub(crate) keep_secret: bool,
    /// Life of a certificate when the request names none, and the longest: `24h`.
    #[schemars(regex(pattern = form::SPAN))]
    pub(crate) certificate_lifetime: String,
    /// Further service accounts, `namespace/name`, that may impersonate pods of their node, as Istio's `istio-system/ztunnel`.
    #[schemars(inner(regex(pattern = form::ACCOUNT)))]
    pub(crate) trusted_node_accounts: Vec<String>,
}

/// The control plane.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Control {
    /// How many pods.
    pub(crate) replicas: u32,
    /// CPU and memory, as in a container.
    pub(crate) resources: serde_json::Map<String, serde_json::Value>,
    /// Who is asked by AuthorizationPolicies with action CUSTOM, as in `extensionProviders` of Istio's MeshConfig.
    pub(crate) extension_providers: Vec<ExtensionProvider>,
    /// PEM of the roots to trust when keys of token issuers (`jwksUri`) are fetched, in place of the public ones; empty: the
    /// public ones. `--set-file control.issuerRoots=roots.pem`.
    pub(crate) issuer_roots: String,
}

/// An authorizer: exactly one of the two ways to ask it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ExtensionProvider {
    /// Name that policies use.
    pub(crate) name: String,
    /// Asked by Envoy's ext_authz v3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) envoy_ext_authz_grpc: Option<Authorizer>,
    /// Asked by a copy of the request's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) envoy_ext_authz_http: Option<Authorizer>,
}

/// How an authorizer is asked.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Authorizer {
    /// Host name of its service, or `namespace/hostname`.
    pub(crate) service: String,
    /// Port of the service.
    pub(crate) port: u16,
    /// How long an answer may take, such as `500ms`; a second when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = form::SPAN))]
    pub(crate) timeout: Option<String>,
    /// Whether requests pass while it does not answer. No when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fail_open: Option<bool>,
    /// The answer to a client while it does not answer; 403 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status_on_error: Option<u16>,
    /// What stands before the request's path when it is asked by HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_prefix: Option<String>,
    /// Headers of the request that it sees, beside those that it always sees, when it is asked by HTTP.
    #[serde(default)]
    pub(crate) include_request_headers_in_check: Vec<String>,
    /// Headers of its answer that the backend sees, when it is asked by HTTP.
    #[serde(default)]
    pub(crate) headers_to_upstream_on_allow: Vec<String>,
    /// What it sees of the request's body. Nothing when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) include_request_body_in_check: Option<ShownBody>,
}

/// What an authorizer sees of a body.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ShownBody {
    /// Bytes; a larger body is refused.
    pub(crate) max_request_bytes: u32,
}

/// Waypoints. What is said here holds for all; a Gateway's `infrastructure.parametersRef` lays its own pieces over it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Waypoint {
    /// Make a Deployment, a Service and a service account for each Gateway of a waypoint class. Off: the control plane may
    /// make nothing in users' namespaces, and waypoints are deployed by others.
    pub(crate) deploy: bool,
    /// Make a Gateway `waypoint` in a namespace when a route or an L7 policy there needs one; without this, only in namespaces
    /// with the label `culvert.dev/auto-waypoint: enabled`.
    pub(crate) automatic: bool,
    /// Image with its tag; `waypoint` beside the others when empty.
    pub(crate) image: String,
    /// How many pods.
    pub(crate) replicas: u32,
    /// More pods under load, in place of `replicas`.
    pub(crate) autoscaling: Autoscaling,
    /// CPU and memory, as in a container.
    pub(crate) resources: serde_json::Map<String, serde_json::Value>,
    /// Seconds that requests and connections may go on after a pod is told to end; its grace period is 10 s more.
    pub(crate) drain_seconds: u32,
    /// Threads that carry connections; 0 = one per CPU.
    pub(crate) workers: u32,
    /// `affinity` of the pods.
    pub(crate) affinity: serde_json::Map<String, serde_json::Value>,
    /// `nodeSelector` of the pods.
    pub(crate) node_selector: BTreeMap<String, String>,
    /// `tolerations` of the pods.
    pub(crate) tolerations: Vec<serde_json::Map<String, serde_json::Value>>,
    /// `topologySpreadConstraints` of the pods; a constraint without `labelSelector` is about the waypoint's own. Empty:
    /// spread over nodes where possible.
    pub(crate) topology_spread_constraints: Vec<serde_json::Map<String, serde_json::Value>>,
    /// `priorityClassName` of the pods; none when empty.
    pub(crate) priority_class_name: String,
    /// Further annotations of the pods.
    pub(crate) pod_annotations: BTreeMap<String, String>,
    /// Further labels of the pods.
    pub(crate) pod_labels: BTreeMap<String, String>,
}

/// More pods under load.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Autoscaling {
    /// A HorizontalPodAutoscaler for each waypoint.
    pub(crate) enabled: bool,
    /// Fewest pods.
    pub(crate) min_replicas: u32,
    /// Most pods.
    pub(crate) max_replicas: u32,
    /// Percent of the requested CPU to hold.
    pub(crate) target_cpu: u32,
}

/// The node proxy.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Ztunnel {
    /// CPU and memory, as in a container.
    pub(crate) resources: serde_json::Map<String, serde_json::Value>,
    /// Threads that carry connections; 0 = one per CPU, at most 4.
    pub(crate) workers: u32,
    /// Seconds that open connections may go on after an update; the pod's grace period is 10 s more.
    pub(crate) drain_seconds: u32,
    /// Further annotations of its pods.
    pub(crate) pod_annotations: BTreeMap<String, String>,
    /// `nodeSelector` of its pods; where the agent runs, a proxy must.
    pub(crate) node_selector: BTreeMap<String, String>,
}

/// The node agent.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Node {
    /// CPU and memory, as in a container.
    pub(crate) resources: serde_json::Map<String, serde_json::Value>,
    /// The node's cgroup v2 folder at or above those of its pods, or the folder whose `unified` that is. `${NODE_NAME}` stands
    /// for the node's name.
    #[schemars(regex(pattern = form::PATH))]
    pub(crate) cgroup_root: String,
    /// Where the node mounts its BPF file system.
    #[schemars(regex(pattern = form::PATH))]
    pub(crate) bpffs: String,
    /// Folder of CNI configuration on the node.
    #[schemars(regex(pattern = form::PATH))]
    pub(crate) cni_conf_dir: String,
    /// Folder of CNI plug-ins on the node.
    #[schemars(regex(pattern = form::PATH))]
    pub(crate) cni_bin_dir: String,
    /// How long connections that are older than their pod's enrolment may go on in clear, as `10m`; empty: until they end.
    #[schemars(regex(pattern = form::SPAN_OR_NONE))]
    pub(crate) clear_deadline: String,
    /// How long captured connections of a pod that leaves the mesh may go on, as `10m`; empty: until they end.
    #[schemars(regex(pattern = form::SPAN_OR_NONE))]
    pub(crate) leave_deadline: String,
    /// Port that the node's kubelet listens on; by it the agent finds the kubelet, whose probes pass.
    #[schemars(range(min = 1))]
    pub(crate) kubelet_port: u16,
    /// Service accounts, `namespace/name`, whose pods may be the node's proxy beside Culvert's own, as Istio's
    /// `istio-system/ztunnel`.
    #[schemars(inner(regex(pattern = form::ACCOUNT)))]
    pub(crate) proxy_accounts: Vec<String>,
    /// `nodeSelector` of its pods: nodes that others do not match are outside the mesh.
    pub(crate) node_selector: BTreeMap<String, String>,
}

/// Names that Istio uses too.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Compat {
    /// Whether objects named as Istio's (`istio-ca-root-cert`) are written: `auto` = when no istiod is in the cluster.
    pub(crate) own_istio_names: OwnIstioNames,
}

/// Whether objects named as Istio's are written.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum OwnIstioNames {
    Always,
    Auto,
    Never,
}

/// Objects of the Prometheus operator.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Monitoring {
    /// A PodMonitor for every program.
    pub(crate) pod_monitor: Switch,
    /// Alerts.
    pub(crate) prometheus_rule: Switch,
}

/// OpenTelemetry.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Tracing {
    /// `http://host:4317` (OTLP over gRPC); empty = no traces.
    #[schemars(regex(pattern = form::SERVER))]
    pub(crate) endpoint: String,
    /// Share of connections that are traced, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(crate) sampling: f64,
    /// Send records of the access log there, too. They are written to standard output all the same.
    pub(crate) access_log: bool,
}

/// Everything that can be set in the chart `culvert-crds`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct DefinitionValues {
    /// Where the image of the command line comes from, which removes the definitions at `helm uninstall`.
    pub(crate) image: Image,
}

//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use mesh::addr::canonical;
use mesh::workload::WorkloadType;

use super::{Faults, Meta, Pool, annotation, shown, text};

/// A pod, as far as discovery is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Names and labels.
    pub meta: Meta,
    /// Node it runs on; empty before it is placed.
    pub node: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Its addresses, the first one first.
    pub addresses: Box<[IpAddr]>,
    /// It shares the node's network.
    pub host_network: bool,
    /// It has run to its end (phase Succeeded or Failed).
    pub finished: bool,
    /// Its condition Ready is True.
    pub ready: bool,
    /// It has been told to go.
    pub deleting: bool,
    /// The node agent says that its traffic is captured (annotation `ambient.istio.io/redirection: enabled`).
    pub enrolled: bool,
    /// Kind of the owner.
    pub workload_type: WorkloadType,
    /// Name of the owner.
    pub workload_name: Arc<str>,
    /// TCP ports of containers that have a name.
    pub ports: Arc<[NamedPort]>,
    /// Annotation `culvert.dev/waypoint: always`.
    pub waypoint_always: bool,
    /// What is wrong with it.
    pub faults: Option<Box<Faults>>,
}

/// A port of a container that services may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// Name.
    pub name: Arc<str>,
    /// Number, never 0.
    pub port: u16,
}

impl From<&v1::Pod> for Pod {
    fn from(pod: &v1::Pod) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&pod.metadata);
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let (workload_type, workload_name) = workload(pod, &meta);
        let ready = |s: &v1::PodStatus| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        Self {
            node: text(spec.and_then(|s| s.node_name.as_deref())),
            service_account: text(spec.and_then(|s| s.service_account_name.as_deref())),
            addresses: addresses(status, &mut faults),
            host_network: spec.and_then(|s| s.host_network).unwrap_or_default(),
            finished: status.and_then(|s| s.phase.as_deref()).is_some_and(|p| matches!(p, "Failed" | "Succeeded")),
            ready: status.is_some_and(ready),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            enrolled: annotation(&pod.metadata, "ambient.istio.io/redirection") == Some("enabled"),
            workload_type,
            workload_name,
            ports: ports(spec, &mut faults),
            waypoint_always: annotation(&pod.metadata, super::WAYPOINT_ANNOTATION) == Some("always"),
            faults: (!faults.is_empty()).then(|| Box::new(faults)),
            meta,
        }
    }
}

impl Pod {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
        pool.text(&mut self.node);
        pool.text(&mut self.service_account);
        pool.text(&mut self.workload_name);
        pool.ports(&mut self.ports);
    }
}

/// `status.podIPs`, or `status.podIP` where the list is empty.
fn addresses(status: Option<&v1::PodStatus>, faults: &mut Faults) -> Box<[IpAddr]> {
    let Some(status) = status else { return Box::default() };
    let listed: Vec<&str> = status.pod_ips.iter().flatten().map(|p| p.ip.as_str()).collect();
    let texts = if listed.is_empty() { status.pod_ip.as_deref().into_iter().collect() } else { listed };
    let mut found = Vec::with_capacity(texts.len());
    for (i, text) in texts.into_iter().enumerate().filter(|(_, t)| !t.is_empty()) {
        match text.parse() {
            Ok(ip) => found.push(canonical(ip)),
            Err(_) => faults.add(
                format!("status.podIPs[{i}].ip"),
                format!("{} is not an address, so the pod is not found by it", shown(text)),
                "repair the network plug-in that reported it",
            ),
        }
    }
    found.into()
}

/// Named TCP ports of containers and of init containers that keep running (native sidecars).
fn ports(spec: Option<&v1::PodSpec>, faults: &mut Faults) -> Arc<[NamedPort]> {
    let Some(spec) = spec else { return Arc::from([]) };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mut found: Vec<NamedPort> = Vec::new();
    for p in ports.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP") {
        let Some(name) = p.name.as_deref().filter(|n| !n.is_empty()) else { continue };
        // The first container that has the name wins, as endpoints of Kubernetes do.
        if found.iter().any(|x| &*x.name == name) {
            continue;
        }
        match super::port(i64::from(p.container_port)) {
            Some(port) => found.push(NamedPort { name: name.into(), port }),
            None => faults.push(super::bad_port(
                format!("spec.containers[].ports[{name}].containerPort"),
                i64::from(p.container_port),
            )),
        }
    }
    found.into()
}

/// Who owns the pod, by name and kind, for telemetry. The same heuristics as Istio's `GetWorkloadMetaFromPod`: only pods
/// with a generated name are attributed to their controller, and the label `service.istio.io/workload-name` overrides
/// the name.
fn workload(pod: &v1::Pod, meta: &Meta) -> (WorkloadType, Arc<str>) {
    let generated = pod.metadata.generate_name.as_deref().is_some_and(|n| !n.is_empty());
    let controller =
        pod.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true)).filter(|_| generated);
    let (kind, name) = controller.map_or((WorkloadType::Pod, None), |c| owner(c, meta));
    let label = meta.labels.get("service.istio.io/workload-name").cloned();
    (kind, label.or(name).filter(|n| !n.is_empty()).unwrap_or_else(|| meta.name.clone()))
}

fn owner(controller: &OwnerReference, meta: &Meta) -> (WorkloadType, Option<Arc<str>>) {
    let name = controller.name.as_str();
    let template = |label: &str| {
        let hash = meta.labels.get(label).filter(|h| !h.is_empty())?;
        name.strip_suffix(&**hash)?.strip_suffix('-').map(Arc::from)
    };
    match controller.kind.as_str() {
        "ReplicaSet" => match template("pod-template-hash") {
            Some(deployment) => (WorkloadType::Deployment, Some(deployment)),
            // Argo's Rollout stands where a Deployment would.
            None => (WorkloadType::Pod, template("rollouts-pod-template-hash").or_else(|| Some(name.into()))),
        },
        // OpenShift's DeploymentConfig.
        "ReplicationController" => {
            (WorkloadType::Pod, meta.labels.get("deploymentconfig").cloned().or_else(|| Some(name.into())))
        }
        "Job" => match cron_job(name) {
            Some(cron) => (WorkloadType::CronJob, Some(cron.into())),
            None => (WorkloadType::Job, Some(name.into())),
        },
        _ => (WorkloadType::Pod, Some(name.into())),
    }
}

/// The CronJob of a Job called `<name>-<8 to 10 digits>`: CronJobs append the minute (formerly second) of the schedule.
fn cron_job(job: &str) -> Option<&str> {
    let (name, digits) = job.rsplit_once('-')?;
    let stamp = (8..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (stamp && !name.is_empty()).then_some(name)
}

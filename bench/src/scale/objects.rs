//! The scripted cluster: what its objects say.
//!
//! Pods have the size of real ones (two containers' worth of fields, conditions, owners, managed fields), since reading
//! them is a good part of the work. One namespace a ten services, one service a `pods / services` pods, one node a
//! hundred pods, and on each node a node proxy, as whom its client calls.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

/// Pods of a node: Kubernetes' own bound is 110.
const NODE: usize = 100;
/// Services of a namespace.
const NAMESPACE: usize = 10;

/// Namespace and service account of node proxies.
pub(crate) const SYSTEM: &str = "culvert-system";
pub(crate) const PROXY: &str = "ztunnel";

/// Conditions that every pod has.
const CONDITIONS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// How large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) pods: usize,
    pub(crate) services: usize,
}

impl Size {
    pub(crate) fn nodes(self) -> usize {
        self.pods.div_ceil(NODE)
    }

    pub(crate) fn namespaces(self) -> usize {
        self.services.div_ceil(NAMESPACE)
    }

    /// Workloads that discovery makes of it: the pods, and a proxy on each node.
    pub(crate) fn workloads(self) -> usize {
        self.pods + self.nodes()
    }
}

/// One pod: the place that it fills, and the how-manieth to fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) slot: usize,
    pub(crate) turn: usize,
}

impl Pod {
    pub(crate) fn name(self, size: Size) -> String {
        format!("svc-{}-7d4b9c8f6d-{:05}-{}", self.service(size), self.slot, self.turn)
    }

    pub(crate) fn service(self, size: Size) -> usize {
        self.slot % size.services
    }

    /// Key among workloads, as discovery makes it.
    pub(crate) fn uid(self, size: Size) -> String {
        format!("Kubernetes//Pod/{}/{}", namespace(self.service(size)), self.name(size))
    }

    /// Never that of an earlier pod: addresses are told apart by turn.
    fn address(self, size: Size) -> Ipv4Addr {
        // 10.128.0.0/9 has room for eight million.
        let number = (self.slot + self.turn * size.pods) as u32;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)).wrapping_add(number))
    }

    /// The object. Without an address it was placed and not started yet.
    pub(crate) fn object(self, size: Size, running: bool) -> Value {
        let (service, name) = (self.service(size), self.name(size));
        let app = format!("svc-{service}");
        let template = json!({"app": app, "version": "v1", "pod-template-hash": "7d4b9c8f6d",
            "app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "scale"});
        let flag = if running { "True" } else { "False" };
        let at = "2026-01-01T00:00:00Z";
        let condition =
            |kind: &str| json!({"type": kind, "status": flag, "lastProbeTime": null, "lastTransitionTime": at});
        let mut status = json!({
            "phase": if running { "Running" } else { "Pending" }, "qosClass": "Burstable", "startTime": at,
            "conditions": CONDITIONS.map(condition),
        });
        if running {
            let ip = self.address(size).to_string();
            status["podIP"] = json!(ip);
            status["podIPs"] = json!([{"ip": ip}]);
            status["hostIP"] = json!("192.0.2.1");
            status["containerStatuses"] = json!([{
                "name": "app", "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": at}},
                "image": "registry.example/shop/app:1.2.3", "lastState": {},
                "imageID": "registry.example/shop/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "containerID": "containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            }]);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace(service), "uid": uid("pod", self.slot + self.turn * size.pods),
                "generateName": format!("{app}-7d4b9c8f6d-"), "creationTimestamp": at, "labels": template,
                "annotations": {"ambient.istio.io/redirection": "enabled"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7d4b9c8f6d"),
                    "uid": uid("set", service), "controller": true, "blockOwnerDeletion": true}],
                "managedFields": managed(at),
            },
            "spec": spec(&app, &node(self.slot / NODE)),
            "status": status,
        })
    }
}

/// What a Deployment's pod looks like after admission.
fn spec(app: &str, node: &str) -> Value {
    json!({
        "nodeName": node, "serviceAccountName": app, "serviceAccount": app, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true, "terminationGracePeriodSeconds": 30,
        "preemptionPolicy": "PreemptLowerPriority", "securityContext": {},
        "containers": [{
            "name": "app", "image": "registry.example/shop/app:1.2.3", "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                {"name": "LOG_LEVEL", "value": "info"}, {"name": "DATABASE", "value": "postgres.shop.svc.cluster.local:5432"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10,
                "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": [{"name": "token", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        }],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
    })
}

/// Who wrote which field: nobody reads it, and every real object has it.
fn managed(at: &str) -> Value {
    json!([
        {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}, "f:version": {}}, "f:ownerReferences": {}},
                "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:ports": {}, "f:resources": {}}}}}},
        {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1", "subresource": "status",
            "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}}}, "f:phase": {}, "f:podIP": {}}}},
    ])
}

/// The pod of a node's proxy.
pub(crate) fn proxy(number: usize) -> Value {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number as u32).into();
    let name = proxy_name(number);
    let pod = Plain { namespace: SYSTEM, name: &name, uid: &uid("proxy", number), account: PROXY, node: &node(number) };
    pod.object(&[ip], false)
}

/// A pod of which only this matters.
pub(crate) struct Plain<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) account: &'a str,
    pub(crate) node: &'a str,
}

impl Plain<'_> {
    /// The object; `enrolled` = its traffic is captured.
    pub(crate) fn object(&self, addresses: &[IpAddr], enrolled: bool) -> Value {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "uid": self.uid, "labels": {"app": self.name}},
            "spec": {"nodeName": self.node, "serviceAccountName": self.account, "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": addresses.first(), "podIPs": ips,
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        if enrolled {
            pod["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
        }
        pod
    }
}

pub(crate) fn proxy_name(number: usize) -> String {
    format!("{PROXY}-{number}")
}

pub(crate) fn node(number: usize) -> String {
    format!("node-{number}")
}

/// A node. Another zone makes all of its workloads different.
pub(crate) fn node_object(name: &str, zone: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": format!("zone-{zone}")}},
        "spec": {}, "status": {},
    })
}

pub(crate) fn namespace(service: usize) -> String {
    format!("team-{}", service / NAMESPACE)
}

pub(crate) fn namespace_object(name: &str, number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": uid("namespace", number),
        "labels": {"kubernetes.io/metadata.name": name, "istio.io/dataplane-mode": "ambient"}}})
}

pub(crate) fn service_object(number: usize) -> Value {
    let app = format!("svc-{number}");
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number as u32).to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": app, "namespace": namespace(number), "uid": uid("service", number), "labels": {"app": app}},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
    })
}

/// The slice of a service; `pods` are those behind it.
pub(crate) fn slice_object(number: usize, pods: &[Pod], size: Size) -> Value {
    let app = format!("svc-{number}");
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({"addresses": [pod.address(size).to_string()], "nodeName": node(pod.slot / NODE),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": namespace(number), "name": pod.name(size),
                "uid": uid("pod", pod.slot + pod.turn * size.pods)}})
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("{app}-x7k2p"), "namespace": namespace(number), "uid": uid("slice", number),
            "labels": {"kubernetes.io/service-name": app, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// Long as a real one, and the same for the same thing.
pub(crate) fn uid(kind: &str, number: usize) -> String {
    let mut text = format!("{number:08x}-0000-4000-8000-");
    for byte in kind.bytes().cycle().take(6) {
        // Writing into a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { pods: 250, services: 20 };

    #[test]
    fn a_place_is_filled_by_another_pod_each_turn() {
        let (first, next) = (Pod { slot: 7, turn: 0 }, Pod { slot: 7, turn: 1 });
        let other = Pod { slot: 8, turn: 0 };
        assert_eq!(first.service(SMALL), next.service(SMALL));
        for (a, b) in [(first, next), (first, other), (next, other)] {
            assert_ne!(a.name(SMALL), b.name(SMALL));
            assert_ne!(a.address(SMALL), b.address(SMALL));
        }
        assert_eq!((SMALL.nodes(), SMALL.namespaces(), SMALL.workloads()), (3, 2, 253));
    }

    #[test]
    fn pods_have_the_size_of_real_ones() {
        let pod = Pod { slot: 7, turn: 0 };
        let bytes = pod.object(SMALL, true).to_string().len();
        assert!((3000..8000).contains(&bytes), "{bytes}");
        assert!(pod.object(SMALL, false)["status"].get("podIP").is_none());
    }
}

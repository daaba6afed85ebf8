//! The files that foreign programs are configured by.

use serde_json::json;

use crate::node::Node;
use crate::options::{Cni, ProxyMode};
use crate::paths::{Paths, within};
use crate::plan::{DNS_SERVICE, DOMAIN, HUB, POD_NETWORK};

/// containerd, one for each node. `restrict_oom_score_adj`: a root without CAP_SYS_RESOURCE (a container's) may not lower a
/// process's score, and runc would end with "can't get final child's PID from pipe".
pub(crate) fn containerd() -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let socket = within::CONTAINERD_SOCKET;
    format!(
        "version = 2\n\
         root = \"/var/lib/containerd\"\n\
         state = \"/run/containerd\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.tracing.processor.v1.otlp\"]\n\
         [grpc]\naddress = \"{socket}\"\n\
         [{cri}]\nsandbox_image = \"culvert.dev/pause:1\"\nrestrict_oom_score_adj = true\n\
         [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{cri}.cni]\nbin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.d\"\n"
    )
}

/// A kubelet. Its pods' control groups lie below its node's own; without `cgroupsPerQOS` containerd would put those of all
/// nodes into one folder at the root. Nothing is limited for all pods together: nodes share this machine's memory.
pub(crate) fn kubelet(node: &Node) -> String {
    let name = &node.name;
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": within::CLIENT_CA},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [HUB],
        "clusterDomain": DOMAIN,
        "resolvConf": within::RESOLV_CONF,
        "containerRuntimeEndpoint": format!("unix://{}", within::CONTAINERD_SOCKET),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{name}"),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "oomScoreAdj": 0,
        // A full disk is this machine's trouble: evicting test pods would only hide it.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
        // A failure is explained by what proxies wrote of its connection: the line must still be there at the end.
        "containerLogMaxSize": "200Mi",
        "serializeImagePulls": false,
        "staticPodPath": "",
    })
    .to_string()
}

/// A kube-proxy. Limits of the connection table belong to the machine, not to a namespace: it must not touch them.
pub(crate) fn proxy(node: &Node, mode: ProxyMode) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": within::PROXY_KUBECONFIG},
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": node.name,
        "mode": mode,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        // Of a second (the default) tests would wait most.
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    })
    .to_string()
}

/// How pods of a node are joined to it.
pub(crate) fn cni(pod_cidr: &str, kind: Cni, masquerade: bool) -> String {
    let ipam = json!({
        "type": "host-local",
        "dataDir": "/run/cni/networks",
        "ranges": [[{"subnet": pod_cidr}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let join = match kind {
        Cni::Ptp => json!({"type": "ptp", "ipMasq": masquerade, "ipam": ipam}),
        Cni::Bridge => json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": masquerade, "ipam": ipam,
        }),
    };
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [join, ports]}).to_string()
}

/// DNS on the hub's address. Answers live for a second, so that a test sees what it has just changed; what is neither the
/// cluster's nor in the hosts file does not exist, since nothing leads out of these namespaces.
pub(crate) fn corefile(paths: &Paths) -> String {
    let (kubeconfig, hosts) = (paths.kubeconfig(), paths.hosts());
    format!(
        ".:53 {{\n    bind {HUB}\n    errors\n    health 127.0.0.1:8080\n    ready 127.0.0.1:8181\n    \
         cache 1 {{\n        success 9984 1 0\n        denial 9984 1 0\n    }}\n    \
         hosts {hosts} {{\n        reload 1s\n        fallthrough\n    }}\n    \
         kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{\n        kubeconfig {kubeconfig}\n        pods insecure\n        \
         ttl 1\n        fallthrough in-addr.arpa ip6.arpa\n    }}\n    \
         template ANY ANY . {{\n        rcode NXDOMAIN\n    }}\n}}\n",
        hosts = hosts.display(),
        kubeconfig = kubeconfig.display(),
    )
}

/// DNS under the name and number that charts and tests look for. No selector: it is no pod.
pub(crate) fn dns_service() -> String {
    let labels = json!({"k8s-app": "kube-dns"});
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    let ports = json!([port("dns", "UDP"), port("dns-tcp", "TCP")]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "culvert.dev"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [HUB], "conditions": {"ready": true}}],
        "ports": ports,
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]}).to_string()
}

/// The nodes, before their kubelets say who they are: the controller manager gives them their pod networks meanwhile.
pub(crate) fn nodes(names: &[&str]) -> String {
    let node = |name: &&str| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": names.iter().map(node).collect::<Vec<_>>()}).to_string()
}

//! The control plane, in the hub: etcd, API server, controller manager, scheduler, DNS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::config;
use crate::error::ClusterError;
use crate::parts::Parts;
use crate::pki::{self, Identities};
use crate::plan::{API_PORT, DOMAIN, HUB, POD_NETWORK, SERVICE_NETWORK};
use crate::process::{Inside, Launch, Process};

/// On two cores that build something else at the same time the API server has taken 20 seconds.
const API_WITHIN: Duration = Duration::from_secs(90);

/// Starts etcd, and the API server, which waits for it.
pub(crate) fn start_api(cluster: &Cluster, parts: &Parts, hub: u32, group: &Path) -> Result<Process, ClusterError> {
    let pki = |file: &str| cluster.paths.pki(file).display().to_string();
    let etcd = format!(
        "/usr/bin/etcd --data-dir={}/data --log-level=warn --listen-client-urls=http://127.0.0.1:2379 \
         --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380",
        cluster.paths.hub().join("etcd").display()
    );
    cluster.adopt(start(cluster, "hub/etcd", hub, group, &etcd)?)?;
    let api = format!(
        "{program} --advertise-address={HUB} --bind-address=0.0.0.0 --secure-port={API_PORT} \
         --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range={SERVICE_NETWORK} \
         --client-ca-file={ca} --tls-cert-file={cert} --tls-private-key-file={key} --cert-dir={certs} \
         --token-auth-file={tokens} --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
         --service-account-issuer=https://kubernetes.default.svc.{DOMAIN} \
         --service-account-key-file={accounts} --service-account-signing-key-file={signing} \
         --kubelet-client-certificate={kubelet_cert} --kubelet-client-key={kubelet_key} \
         --kubelet-preferred-address-types=InternalIP --allow-privileged=true --profiling=false",
        program = parts.program("kube-apiserver"),
        ca = pki("ca.pem"),
        cert = pki("apiserver.pem"),
        key = pki("apiserver.key"),
        certs = cluster.paths.hub().display(),
        tokens = pki("tokens.csv"),
        accounts = pki("accounts.pub"),
        signing = pki("accounts.key"),
        kubelet_cert = pki("kubelet-client.pem"),
        kubelet_key = pki("kubelet-client.key"),
    );
    start(cluster, "hub/kube-apiserver", hub, group, &api)
}

/// Waits until the API server answers, and its own set-up (roles, namespaces) is done.
pub(crate) fn until_api(cluster: &Cluster, mut api: Process) -> Result<(), ClusterError> {
    let ready = || Ok(cluster.kubectl(&["get", "--raw=/readyz", "--request-timeout=2s"]).is_ok_and(|t| t == "ok"));
    let waited = api.until_ready(&cluster.paths, API_WITHIN, &cluster.options.cancel, ready);
    cluster.adopt(api)?;
    waited
}

/// Starts the controllers and the scheduler. There is one of each, so none has to be elected.
pub(crate) fn start_controllers(
    cluster: &Cluster,
    parts: &Parts,
    identities: &Identities,
    (hub, group): (u32, &Path),
) -> Result<(), ClusterError> {
    let pki = |file: &str| cluster.paths.pki(file).display().to_string();
    let pod_cidr_bits = cluster.options.pod_cidr_bits;
    let ca = pki("ca.pem");
    let controllers = format!(
        "{program} --kubeconfig={config} --leader-elect=false --bind-address=127.0.0.1 --use-service-account-credentials \
         --allocate-node-cidrs --cluster-cidr={POD_NETWORK} --node-cidr-mask-size={pod_cidr_bits} \
         --service-cluster-ip-range={SERVICE_NETWORK} --root-ca-file={ca} \
         --service-account-private-key-file={signing} --cluster-signing-cert-file={ca} --cluster-signing-key-file={ca_key} \
         --profiling=false",
        program = parts.program("kube-controller-manager"),
        config = kubeconfig(cluster, identities, "system:kube-controller-manager")?.display(),
        signing = pki("accounts.key"),
        ca_key = pki("ca.key"),
    );
    cluster.adopt(start(cluster, "hub/kube-controller-manager", hub, group, &controllers)?)?;
    let scheduler = format!(
        "{program} --kubeconfig={config} --leader-elect=false --bind-address=127.0.0.1 --profiling=false",
        program = parts.program("kube-scheduler"),
        config = kubeconfig(cluster, identities, "system:kube-scheduler")?.display(),
    );
    cluster.adopt(start(cluster, "hub/kube-scheduler", hub, group, &scheduler)?)
}

/// Starts DNS.
pub(crate) fn start_dns(cluster: &Cluster, parts: &Parts, hub: u32, group: &Path) -> Result<Process, ClusterError> {
    let corefile = cluster.paths.hub().join("Corefile");
    pki::write(&corefile, &config::corefile(&cluster.paths))?;
    pki::write(&cluster.paths.hosts(), "")?;
    let line = format!("{} -conf {}", parts.coredns.display(), corefile.display());
    start(cluster, "hub/coredns", hub, group, &line)
}

fn kubeconfig(cluster: &Cluster, identities: &Identities, user: &str) -> Result<PathBuf, ClusterError> {
    let path = cluster.paths.hub().join(format!("{}.conf", user.replace(':', "-")));
    pki::write(&path, &identities.kubeconfig(user, &cluster.paths.pki("ca.pem"))?)?;
    Ok(path)
}

fn start(cluster: &Cluster, name: &str, hub: u32, group: &Path, line: &str) -> Result<Process, ClusterError> {
    // No argument of ours holds a space: names of clusters are checked, and paths are made of them.
    let argv = line.split_ascii_whitespace().map(str::to_owned).collect();
    Launch { name, group, inside: Inside::All(hub), argv }.start(&cluster.paths)
}

//! Judged by others: our proxy in Istio's own DaemonSet, beside Istio's own node agent (istio-cni in ambient mode, with its
//! iptables rules in the pods), under a real istiod, on a real Kubernetes. Nothing of Culvert's but the proxy. Root, the images of
//! `cargo xtask image`, and Istio's programs from its Go module: `make test-interop`.

mod common;
#[allow(dead_code, reason = "the shop is made for more than this")]
#[path = "mesh"]
mod mesh {
    pub(crate) mod blame;
    pub(crate) mod calls;
    pub(crate) mod scenes;
    pub(crate) mod shop;
    pub(crate) mod ways;
    pub(crate) mod wire;
}
#[path = "istiod"]
mod istiod {
    pub(crate) mod checks;
    pub(crate) mod dump;
    pub(crate) mod tools;
    pub(crate) mod world;
}
mod istio_cni {
    pub(crate) mod agent;
    pub(crate) mod image;
    pub(crate) mod names;
}

use anyhow::{Result, ensure};
use common::SOON;
use e2e_cluster::eventually;
use istio_cni::agent::{self, Rules};
use istio_cni::names;
use istiod::checks::{Check, Mesh, identities, istiod_runs, newborn, policy, policy_cuts};
use istiod::{dump, world};
use mesh::scenes::{self, NEW};
use mesh::{shop, ways};

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[Check] = &[
    ("istiod runs, and is reached as istiod.istio-system.svc", istiod_runs),
    ("Istio's chart of istio-cni: ready on both nodes", |m| agent::install(&m.cluster, &m.tools, Rules::Iptables)),
    ("Istio's chart with our image: ready on both nodes", |m| world::proxy(&m.cluster, &m.tools)),
    ("a shop outside the mesh works", |m| shop::open(&m.cluster)),
    ("labelling a namespace: running pods are enrolled", |m| label(m, Rules::Iptables)),
    ("istioctl ztunnel-config workloads: both proxies know the pods with HBONE", |m| {
        dump::workloads(&m.cluster, &m.tools)
    }),
    ("between nodes: 0 bytes in clear", |m| scenes::encrypted(&m.cluster)),
    ("by Service, headless, pod address, same node and other node", |m| scenes::matrix(&m.cluster)),
    ("identities are those that istiod signed", identities),
    ("a new pod is captured from birth, and istiod's policy finds it", newborn),
    ("a pod that is gone is gone from the proxy", let_go),
    ("a policy by identity denies and allows", policy),
    ("a policy's change is in force within seconds, and cuts", policy_cuts),
    ("STRICT refuses who is outside of the mesh, and probes pass by Istio's probe address", |m| {
        scenes::strict_and_probes_by_address(&m.cluster)
    }),
    ("names of a ServiceEntry, which the proxy answers; others it sends on", |m| {
        names::answered_and_sent_on(&m.cluster)
    }),
    ("pods of a StatefulSet by their names, which it sends on", |m| ways::stateful_set(&m.cluster)),
    ("ports of nodes: hostPort and NodePort", |m| ways::node_ports(&m.cluster)),
    ("istio-cni has had nothing to complain of", |m| agent::is_content(&m.cluster)),
    ("istio-cni replaced: no call fails, and pods are enrolled again", agent_replaced),
    // The proxies are not replaced under load here: docs/beside-istio.md says which call may fail.
    ("un-labelling: no rule stays", |m| unlabel(m, Rules::Iptables)),
];

/// What could differ where the agent writes its rules with nftables.
const NFTABLES: &[Check] = &[
    ("istiod runs, and is reached as istiod.istio-system.svc", istiod_runs),
    ("Istio's chart of istio-cni, with nftables: ready on both nodes", |m| {
        agent::install(&m.cluster, &m.tools, Rules::Nftables)
    }),
    ("Istio's chart with our image: ready on both nodes", |m| world::proxy(&m.cluster, &m.tools)),
    ("a shop outside the mesh works", |m| shop::open(&m.cluster)),
    ("labelling a namespace: running pods are enrolled", |m| label(m, Rules::Nftables)),
    ("between nodes: 0 bytes in clear", |m| scenes::encrypted(&m.cluster)),
    ("by Service, headless, pod address, same node and other node", |m| scenes::matrix(&m.cluster)),
    ("a new pod is captured from birth, and istiod's policy finds it", newborn),
    ("STRICT refuses who is outside of the mesh, and probes pass by Istio's probe address", |m| {
        scenes::strict_and_probes_by_address(&m.cluster)
    }),
    ("names of a ServiceEntry, which the proxy answers; others it sends on", |m| {
        names::answered_and_sent_on(&m.cluster)
    }),
    ("istio-cni has had nothing to complain of", |m| agent::is_content(&m.cluster)),
    ("un-labelling: no rule stays", |m| unlabel(m, Rules::Nftables)),
];

#[test]
#[ignore = "raises a cluster as root: make test-interop"]
fn the_proxy_holds_beside_istio_cni() -> Result<(), common::Told> {
    let _alone = common::alone();
    Ok(Mesh::raise(&["ztunnel"])?.hold(CHECKS)?)
}

#[test]
#[ignore = "raises a cluster as root: make test-interop"]
fn the_proxy_holds_beside_istio_cni_with_nftables() -> Result<(), common::Told> {
    let _alone = common::alone();
    Ok(Mesh::raise(&["ztunnel"])?.hold(NFTABLES)?)
}

/// Without load: istio-cni's rules find what is connected already, too (the kernel has tracked no connection of the pod until then, and
/// takes each for a new one), and they are there a moment before the proxy is told of the pod. Neither is the proxy's to mend.
fn label(mesh: &Mesh, rules: Rules) -> Result<()> {
    mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"])?;
    shop::until_enrolled(&mesh.cluster, SOON)?;
    agent::rules_are_in(&mesh.cluster, rules, true)
}

fn agent_replaced(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || agent::replace(&mesh.cluster))?;
    let pod = scenes::newborn(&mesh.cluster)?;
    mesh.cluster.delete(&pod.to_string())?;
    let_go(mesh)?;
    agent::is_content(&mesh.cluster)
}

/// A new pod that is gone again is gone from the proxy too: nobody else on its node has the default account.
fn let_go(mesh: &Mesh) -> Result<()> {
    eventually("the proxy lets a pod go that is gone", SOON, || {
        ensure!(!dump::has_certificate(&mesh.cluster, &mesh.tools, "node1", "default")?, "it has its certificate");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Without load: istio-cni takes the rules away first, and what they redirected hangs: the kernel translates no answer any more.
fn unlabel(mesh: &Mesh, rules: Rules) -> Result<()> {
    mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?;
    shop::until_left(&mesh.cluster, SOON)?;
    // A pod that was deleted keeps its rules: they go with its network, when the kubelet has ended it.
    eventually("no network has a rule of Istio's", SOON, || agent::rules_are_in(&mesh.cluster, rules, false))?;
    scenes::matrix(&mesh.cluster)
}

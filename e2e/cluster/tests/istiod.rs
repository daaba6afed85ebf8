//! Judged by others: our proxy in Istio's own DaemonSet, under a real istiod, on a real Kubernetes; our agent enrols. Root, the
//! images of `cargo xtask image`, and Istio's programs from its Go module: `make test-interop`.

mod common;
#[allow(dead_code, reason = "the shop is made for more than this")]
#[path = "mesh"]
mod mesh {
    pub(crate) mod blame;
    pub(crate) mod calls;
    pub(crate) mod scenes;
    pub(crate) mod shop;
    pub(crate) mod wire;
}
mod istiod {
    pub(crate) mod checks;
    pub(crate) mod dump;
    pub(crate) mod tools;
    pub(crate) mod world;
}

use anyhow::Result;
use common::SOON;
use istiod::checks::{Check, Mesh, identities, istiod_away, istiod_runs, newborn, policy, policy_cuts, replaced};
use istiod::{dump, world};
use mesh::scenes::{self, NEW};
use mesh::shop;

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[Check] = &[
    ("istiod runs, and is reached as istiod.istio-system.svc", istiod_runs),
    ("our agent alone, which lets Istio's service account in", |m| world::agent(&m.cluster)),
    ("Istio's chart with our image: ready on both nodes", |m| world::proxy(&m.cluster, &m.tools)),
    ("a shop outside the mesh works", |m| shop::open(&m.cluster)),
    ("labelling a namespace: running pods are enrolled, 0 failed", label),
    ("istioctl ztunnel-config workloads: both proxies know the pods with HBONE", |m| {
        dump::workloads(&m.cluster, &m.tools)
    }),
    ("between nodes: 0 bytes in clear", |m| scenes::encrypted(&m.cluster)),
    ("by Service, headless, pod address, same node and other node", |m| scenes::matrix(&m.cluster)),
    ("identities are those that istiod signed", identities),
    ("a new pod is captured from birth, and istiod's policy finds it", newborn),
    ("a policy by identity denies and allows", policy),
    ("a policy's change is in force within seconds, and cuts", policy_cuts),
    ("STRICT refuses who is outside of the mesh, and probes pass", |m| scenes::strict_and_probes(&m.cluster)),
    ("istioctl ztunnel-config services", |m| dump::services(&m.cluster, &m.tools)),
    ("istioctl ztunnel-config certificates", |m| dump::certificates(&m.cluster, &m.tools)),
    ("istioctl ztunnel-config connections, all, log", |m| dump::more(&m.cluster, &m.tools)),
    ("istiod away and back: calls go on, and policy arrives again", istiod_away),
    ("the DaemonSet's own update replaces the proxies: no call fails", replaced),
    ("un-labelling: 0 failed", unlabel),
];

#[test]
#[ignore = "raises a cluster as root: make test-interop"]
fn the_proxy_holds_under_a_real_istiod() -> Result<(), common::Told> {
    let _alone = common::alone();
    Ok(Mesh::raise(&["ztunnel", "culvert-node"])?.hold(CHECKS)?)
}

fn label(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || {
        mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"])?;
        shop::until_enrolled(&mesh.cluster, SOON)
    })
}

fn unlabel(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || {
        mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?;
        shop::until_left(&mesh.cluster, SOON)
    })
}

//! Judged by others: our proxy in Istio's own DaemonSet, under a real istiod, on a real Kubernetes. Root, the images of
//! `cargo xtask image`, and Istio's programs from its Go module: `make test-interop`.

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
    pub(crate) mod dump;
    pub(crate) mod tools;
    pub(crate) mod world;
}

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{SOON, list};
use e2e_cluster::{Cluster, Options, eventually};
use istiod::dump;
use istiod::tools::Tools;
use istiod::world::{self, Istiod};
use mesh::calls::{Calls, Kind};
use mesh::scenes::{self, NEW};
use mesh::shop;

/// From a policy's change until it is in force on the other node, with istiod's own delay (it waits up to 100 ms for more
/// changes) and two busy CPUs.
const IN_FORCE: Duration = Duration::from_secs(10);

/// What this does not show, and why (docs/beside-istio.md says the same).
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "istio-cni",
        "its image is iptables and ipset around a Go program, and none can be pulled; Culvert's agent enrols instead",
    ),
    ("stock proxies on other nodes", "tests/fleet.rs has them beside ours, under Culvert's control plane"),
    (
        "answered look-ups (DNS_CAPTURE)",
        "with Istio's variables they are expected by istio-cni's redirection; names are left to the cluster's DNS",
    ),
    ("waypoints", "Istio's are Envoy, which is no Go module and whose image cannot be pulled"),
    ("NetworkPolicy on inner addresses", "istiod does not tell proxies of them"),
    (
        "destinations in the pod network that discovery does not know",
        "Istio has no variable for it: they are reached in clear, as by Istio",
    ),
    ("several clusters and networks", "one machine holds one cluster"),
];

/// What checks share.
struct Mesh {
    cluster: Cluster,
    tools: Tools,
    istiod: RefCell<Option<Istiod>>,
}

type Check = fn(&Mesh) -> Result<()>;

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[(&str, Check)] = &[
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
    Ok(holds()?)
}

fn holds() -> Result<()> {
    let _alone = common::alone();
    let tools = Tools::find()?;
    let cluster = common::up(Options::default())?;
    for name in ["ztunnel", "culvert-node"] {
        cluster.load_image(&common::workspace().join(format!("target/images/{name}.tar")))?;
    }
    world::objects(&cluster, &tools)?;
    let mesh = Mesh { cluster, tools, istiod: RefCell::new(None) };
    for (name, check) in CHECKS {
        let begun = Instant::now();
        if let Err(error) = check(&mesh).with_context(|| (*name).to_owned()) {
            world::tell_all(&mesh.cluster);
            return Err(error);
        }
        println!("  ok  {name} ({} ms)", begun.elapsed().as_millis());
    }
    for (what, why) in LEFT_OUT {
        println!("  left out  {what}: {why}");
    }
    drop(mesh.istiod);
    mesh.cluster.down()?;
    Ok(())
}

fn istiod_runs(mesh: &Mesh) -> Result<()> {
    mesh.istiod.replace(Some(Istiod::start(&mesh.cluster, &mesh.tools)?));
    // What proxies know istiod by; it writes it into every namespace.
    eventually("ConfigMap istio-ca-root-cert", SOON, || {
        mesh.cluster.kubectl(&["get", "configmap", "-n", "istio-system", "istio-ca-root-cert"])
    })?;
    Ok(())
}

fn label(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || {
        mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"])?;
        shop::until_enrolled(&mesh.cluster, SOON)
    })
}

fn identities(mesh: &Mesh) -> Result<()> {
    scenes::identities(&mesh.cluster, "node2", |node| world::proxy_log(&mesh.cluster, node))
}

fn newborn(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let pod = scenes::newborn(cluster)?;
    // It is the default account's, and may not when only another's may.
    let policy = scenes::only("newborn-not", "server-two", "client-one");
    cluster.apply(&policy.to_string())?;
    scenes::until_refused(cluster, "newborn", "server-two")?;
    cluster.delete(&list(vec![policy, pod]))?;
    scenes::until_answered(cluster, "client-two", "server-two")
}

fn policy(mesh: &Mesh) -> Result<()> {
    let (cluster, tools) = (&mesh.cluster, &mesh.tools);
    scenes::policy(cluster, "server-two", || dump::policy(cluster, tools, "only-one", true))?;
    dump::policy(cluster, tools, "only-one", false)
}

fn policy_cuts(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let (address, url) = (shop::address(cluster, "server-two")?, "http://server-two.shop:8080/");
    // From the other node and from the same one.
    let one = Calls::start(cluster, "client-one", Kind::Hold, &address)?;
    let two = Calls::start(cluster, "client-two", Kind::Hold, &address)?;
    cluster.apply(&scenes::only("changing", "server-two", "client-one").to_string())?;
    scenes::until_cut(&two, IN_FORCE)?;
    ensure!(shop::curl(cluster, "client-two", url).is_err(), "client-two is cut and then answered");
    one.wait_for_good().context("client-one may call")?;
    cluster.apply(&scenes::only("changing", "server-two", "client-two").to_string())?;
    scenes::until_cut(&one, IN_FORCE)?;
    ensure!(shop::curl(cluster, "client-one", url).is_err(), "client-one is cut and then answered");
    ensure!(shop::curl(cluster, "client-two", url)? == "server-two", "client-two is denied");
    cluster.delete(&scenes::only("changing", "server-two", "client-two").to_string())?;
    scenes::until_answered(cluster, "client-one", "server-two")
}

fn istiod_away(mesh: &Mesh) -> Result<()> {
    // Long enough for anything that asks every few seconds.
    const AWAY: Duration = Duration::from_secs(10);
    scenes::undisturbed(&mesh.cluster, &NEW, || {
        mesh.istiod.take().context("istiod does not run")?.kill()?;
        std::thread::sleep(AWAY);
        mesh.istiod.replace(Some(Istiod::start(&mesh.cluster, &mesh.tools)?));
        Ok(())
    })?;
    policy(mesh)
}

fn replaced(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || world::replace_proxies(&mesh.cluster))?;
    dump::workloads(&mesh.cluster, &mesh.tools)?;
    scenes::encrypted(&mesh.cluster)
}

fn unlabel(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || {
        mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?;
        shop::until_left(&mesh.cluster, SOON)
    })
}

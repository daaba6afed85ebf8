//! What must hold under a real istiod, whoever enrols the pods.
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, Options, eventually};

use super::dump;
use super::tools::Tools;
use super::world::{self, Istiod};
use crate::common::{self, SOON, list};
use crate::mesh::calls::{Calls, Kind};
use crate::mesh::scenes::{self, NEW};
use crate::mesh::shop;

/// From a policy's change until it is in force on the other node, with istiod's own delay (it waits up to 100 ms for more
/// changes) and two busy CPUs.
const IN_FORCE: Duration = Duration::from_secs(10);

/// What these tests do not show, and why (docs/beside-istio.md says the same).
const LEFT_OUT: &[(&str, &str)] = &[
    ("stock proxies on other nodes", "tests/fleet.rs has them beside ours, under Culvert's control plane"),
    ("waypoints", "Istio's are Envoy, which is no Go module and whose image cannot be pulled"),
    ("NetworkPolicy on inner addresses", "istiod does not tell proxies of them"),
    (
        "destinations in the pod network that discovery does not know",
        "Istio has no variable for it: they are reached in clear, as by Istio",
    ),
    ("several clusters and networks", "one machine holds one cluster"),
];

/// What checks share.
pub(crate) struct Mesh {
    pub(crate) cluster: Cluster,
    pub(crate) tools: Tools,
    istiod: RefCell<Option<Istiod>>,
}

pub(crate) type Check = common::Check<Mesh>;

impl Mesh {
    /// Raises a cluster with Istio's own objects and some of our images.
    pub(crate) fn raise(images: &[&str]) -> Result<Self> {
        let tools = Tools::find()?;
        let cluster = common::up(Options::default())?;
        for name in images {
            cluster.load_image(&common::workspace().join(format!("target/images/{name}.tar")))?;
        }
        world::objects(&cluster, &tools)?;
        Ok(Self { cluster, tools, istiod: RefCell::new(None) })
    }

    /// Makes the checks in their order, each from where the one before left the cluster, and takes it down.
    pub(crate) fn hold(self, checks: &[Check]) -> Result<()> {
        common::in_order(&self, checks, |mesh| world::tell_all(&mesh.cluster))?;
        for (what, why) in LEFT_OUT {
            println!("  left out  {what}: {why}");
        }
        drop(self.istiod);
        self.cluster.down()?;
        Ok(())
    }
}

pub(crate) fn istiod_runs(mesh: &Mesh) -> Result<()> {
    mesh.istiod.replace(Some(Istiod::start(&mesh.cluster, &mesh.tools)?));
    // What proxies know istiod by; it writes it into every namespace.
    eventually("ConfigMap istio-ca-root-cert", SOON, || {
        mesh.cluster.kubectl(&["get", "configmap", "-n", "istio-system", "istio-ca-root-cert"])
    })?;
    Ok(())
}

pub(crate) fn identities(mesh: &Mesh) -> Result<()> {
    scenes::identities(&mesh.cluster, "node2", |node| world::proxy_log(&mesh.cluster, node))
}

pub(crate) fn newborn(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let pod = scenes::newborn(cluster)?;
    // It is the default account's, and may not when only another's may.
    let policy = scenes::only("newborn-not", "server-two", "client-one");
    cluster.apply(&policy.to_string())?;
    scenes::until_refused(cluster, "newborn", "server-two")?;
    cluster.delete(&list(vec![policy, pod]))?;
    scenes::until_answered(cluster, "client-two", "server-two")
}

pub(crate) fn policy(mesh: &Mesh) -> Result<()> {
    let (cluster, tools) = (&mesh.cluster, &mesh.tools);
    scenes::policy(cluster, "server-two", || dump::policy(cluster, tools, "only-one", true))?;
    dump::policy(cluster, tools, "only-one", false)
}

pub(crate) fn policy_cuts(mesh: &Mesh) -> Result<()> {
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

pub(crate) fn istiod_away(mesh: &Mesh) -> Result<()> {
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

pub(crate) fn replaced(mesh: &Mesh) -> Result<()> {
    scenes::undisturbed(&mesh.cluster, &NEW, || world::replace_proxies(&mesh.cluster))?;
    dump::workloads(&mesh.cluster, &mesh.tools)?;
    scenes::encrypted(&mesh.cluster)
}

//! What waypoints promise on a real Kubernetes: a security policy is kept whatever happens to the waypoint, a mere route takes
//! nothing away, and what dies comes back. Root, and the images of `cargo xtask image`: `make test-cluster`.

mod common;
mod mesh {
    pub(crate) mod culvert;
    pub(crate) mod shop;
}
mod promises {
    pub(crate) mod closed;
    pub(crate) mod deaths;
    pub(crate) mod load;
    pub(crate) mod objects;
    pub(crate) mod order;
    pub(crate) mod routes;
    pub(crate) mod shots;
    pub(crate) mod vault;
}

use anyhow::Result;
use common::{Check, SOON};
use e2e_cluster::{Cluster, Options};
use mesh::culvert::{VALUES, culvert};
use mesh::shop;
use promises::{closed, deaths, objects, order, routes, vault};

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[Check<Cluster>] = &[
    ("install, a shop in the mesh, and a vault that counts who comes", open),
    ("every way leads to the vault while nobody guards it", closed::open_ways),
    ("a policy whose waypoint is not there: nobody comes through", closed::absent),
    ("nor to a pod that starts meanwhile", closed::newborn),
    ("a policy whose waypoint was never ready: nobody comes through", closed::never_ready),
    ("a waypoint that is ready: who may comes through, and nobody past it", closed::ready),
    ("a rollout of the waypoint: nobody slips through, and who may is served", closed::rolled),
    ("a waypoint's process is killed: refused meanwhile, the other one takes over", deaths::process),
    ("the control plane is away for a minute: nobody notices", deaths::control),
    ("a waypoint that was ready and has no pod any more: nobody comes through", closed::emptied),
    ("a waypoint that is deleted while it is asked: nobody comes through", closed::deleted),
    ("so it was with 10 000 requests", closed::enough),
    ("bound, and nothing of L7: the waypoint is not passed", routes::unused),
    ("a mere route takes nothing from callers of pods", routes::mere),
    ("enabled in order: waypoint, nodes, and only then the rule", order::in_order),
    ("ports that an ungoverned service shares are reported, and stay open", order::shared),
    ("TCPRoute and TLSRoute of a Service", routes::streams),
    ("TLS to one port of a Service, and none to the other", routes::one_port),
    ("a route asks an external service", routes::external),
    ("Services say how they are bound", objects::bound),
    ("scaling by load makes a HorizontalPodAutoscaler, and takes it away", objects::scaled),
    ("with network policies a waypoint lets tunnels in", objects::network_policy),
];

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn what_waypoints_promise_holds_on_a_real_cluster() -> Result<(), common::Told> {
    Ok(holds()?)
}

fn holds() -> Result<()> {
    let _alone = common::alone();
    let cluster = common::up(Options::default())?;
    cluster.load_images(&common::workspace().join("target/images"))?;
    common::in_order(&cluster, CHECKS, vault::tell)?;
    cluster.down()?;
    Ok(())
}

fn open(cluster: &Cluster) -> Result<()> {
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    culvert(cluster, &arguments)?;
    shop::open(cluster)?;
    culvert(cluster, &["enroll", "ns/shop"])?;
    vault::open(cluster)?;
    shop::until_enrolled(cluster, SOON)
}

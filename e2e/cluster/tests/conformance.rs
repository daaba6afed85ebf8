//! The Gateway API's own conformance suite, stock, for a mesh: Culvert on a real Kubernetes, a waypoint, every test of the
//! profiles MESH-HTTP and MESH-GRPC. Then what that suite does not look at. Root, the images of `cargo xtask image`, and the
//! suite and its image from Go modules: `make conformance`.

mod common;
#[allow(dead_code, reason = "made for more than this")]
#[path = "mesh"]
mod mesh {
    pub(crate) mod culvert;
}
mod conformance {
    pub(crate) mod ask;
    pub(crate) mod bodies;
    pub(crate) mod case;
    pub(crate) mod peers;
    pub(crate) mod routes;
    pub(crate) mod smuggling;
    pub(crate) mod statuses;
    pub(crate) mod suite;
    pub(crate) mod tables;
    pub(crate) mod world;
}

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use conformance::suite::{self, Suite};
use conformance::{bodies, peers, routes, smuggling, statuses, world};
use e2e_cluster::{Cluster, Options};

type Check = fn(&Cluster, &Suite) -> Result<()>;

/// Without these there is nothing to judge.
const FIRST: &[(&str, Check)] = &[
    ("the API's definitions, Culvert", world::install),
    ("a waypoint that others may use: Accepted, Programmed, with an address", |cluster, _| world::waypoint(cluster)),
    ("no test of a mesh would vanish", suite::nothing_undeclared),
];

/// In this order; all of them are made, whatever one of them finds. Only the first is the suite's.
const CHECKS: &[(&str, Check)] = &[
    ("the suite", suite::run),
    ("the world of our own tests", routes::objects),
    ("what every filter and every rule has to do", routes::run),
    ("the waypoint is passed only when it is needed", routes::passed_only_when_needed),
    ("mirrors, and a Service whose routes are gone", routes::mirror),
    ("a WebSocket", peers::websocket),
    ("a large and a slow body", bodies::run),
    ("requests that hide others", smuggling::run),
    ("gRPC's interoperability client and server", peers::grpc),
    ("h2spec", peers::h2spec),
    ("conditions of routes", statuses::routes),
    ("a changed route; another controller's entry", statuses::changes),
    ("two kinds of route on one port", statuses::conflict),
    ("conditions of the class and of Gateways", statuses::gateways),
];

#[test]
#[ignore = "raises a cluster as root: make conformance"]
fn the_gateway_api_conformance_suite_passes() -> Result<()> {
    let _alone = common::alone();
    let suite = Suite::find()?;
    // To look for a fault one keeps a cluster up, and runs this on it many times.
    let (cluster, kept) = match std::env::var("CLUSTER") {
        Ok(name) => (Cluster::open(&name)?, true),
        Err(_) => (common::up(Options::default())?, false),
    };
    cluster.load_images(&common::workspace().join("target/images"))?;
    for image in &suite.images {
        cluster.load_image(image)?;
    }
    let mut failed = Vec::new();
    for (name, check) in FIRST {
        made(&cluster, &suite, name, *check).inspect_err(|_| world::tell_all(&cluster))?;
    }
    // Parts of names, to look at some of them.
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, check) in CHECKS.iter().filter(|(name, _)| only.split(',').any(|part| name.contains(part))) {
        failed.extend(made(&cluster, &suite, name, *check).err());
    }
    if !failed.is_empty() {
        world::tell_all(&cluster);
        failed.iter().for_each(|error| println!("  FAILED  {error:#}"));
    }
    ensure!(failed.is_empty(), "{} of {} checks failed", failed.len(), CHECKS.len());
    if !kept {
        cluster.down()?;
    }
    Ok(())
}

fn made(cluster: &Cluster, suite: &Suite, name: &str, check: Check) -> Result<()> {
    let begun = Instant::now();
    let done = check(cluster, suite).with_context(|| name.to_owned());
    let verdict = if done.is_ok() { "ok " } else { "BAD" };
    println!("  {verdict} {name} ({:.1} s)", begun.elapsed().as_secs_f64());
    done
}

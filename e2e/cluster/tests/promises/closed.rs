//! A security policy is kept whatever its waypoint does (design: "When a waypoint is used").

use anyhow::{Result, ensure};
use e2e_cluster::Cluster;

use super::load::Load;
use super::shots::{all_open, fire, fire_while, fired, status, until_shut, until_status};
use super::vault::{self, PODS, PORT, WELCOME};
use crate::common::list;
use crate::mesh::shop;

/// Requests by each way in each of the states that hold still: 12 ways, four states.
const EACH: u32 = 200;
/// What one of the shop may have.
const OK: &str = "http://vault.shop:8080/ok/it";
const GATEWAY: [&str; 2] = ["gateway", "waypoint"];

/// Without this the zeros below would prove nothing.
pub(crate) fn open_ways(cluster: &Cluster) -> Result<()> {
    all_open(cluster)?;
    let seen = vault::reached(cluster, PODS[0].0, "/ok/open")? + vault::reached(cluster, PODS[1].0, "/ok/open")?;
    ensure!(seen >= 12, "the vault counted {seen}");
    Ok(())
}

/// The namespace names a waypoint that nobody made.
pub(crate) fn absent(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["label", "namespace", "shop", "istio.io/use-waypoint=waypoint"])?;
    // Nothing needs it yet, so nobody is cut off.
    all_open(cluster)?;
    cluster.apply(&vault::policies())?;
    for service in ["vault", "vault-headless"] {
        let what = ["service", service];
        vault::until_says(cluster, &what, "culvert.dev/WaypointEnforced", "True Refused", "traffic is refused")?;
        vault::until_says(cluster, &what, "istio.io/WaypointBound", "False WaypointIsNotReady", "no such Gateway")?;
    }
    let policy = ["authorizationpolicy.security.istio.io", "vault"];
    vault::until_says(cluster, &policy, "WaypointAccepted", "False AncestorNotBound", "are refused")?;
    until_shut(cluster)?;
    fire(cluster, EACH, "absent")?;
    // Who may, may not either: nobody is there who could tell.
    ensure!(status(cluster, WELCOME, OK)? == "000");
    Ok(())
}

/// A pod of it is made again while it is asked, also by its new address.
pub(crate) fn newborn(cluster: &Cluster) -> Result<()> {
    let (name, node) = PODS[1];
    fire_while(cluster, "newborn", || {
        for _ in 0..3 {
            cluster.kubectl(&["delete", "pod", "-n", "shop", name, "--wait", "--grace-period=0", "--force"])?;
            cluster.apply(&vault::pod(name, "vault", node).to_string())?;
            shop::until_ready(cluster, &[name])?;
            // It has lived through some rounds before its notes go with it.
            fire(cluster, 5, "newborn")?;
        }
        Ok(())
    })
}

/// Its pods never become ready: an image that there is not.
pub(crate) fn never_ready(cluster: &Cluster) -> Result<()> {
    let broken = "spec: {template: {spec: {containers: [{name: istio-proxy, image: culvert.dev/nowhere:1}]}}}\n";
    fire_while(cluster, "coming", || {
        cluster.apply(&list(vec![vault::options(broken), vault::gateway()]))?;
        vault::until_says(cluster, &GATEWAY, "Programmed", "False Pending", "0 of 2 pods are ready")?;
        vault::until_says(
            cluster,
            &["service", "vault"],
            "istio.io/WaypointBound",
            "False WaypointIsNotReady",
            "no address in its status",
        )
    })?;
    fire(cluster, EACH, "never-ready")
}

/// It comes up while it is asked; then those who may are served, by its Service, and nobody by another way.
pub(crate) fn ready(cluster: &Cluster) -> Result<()> {
    fire_while(cluster, "coming-up", || {
        cluster.apply(&vault::options("spec: {}\n").to_string())?;
        vault::until_programmed(cluster)?;
        for service in ["vault", "vault-headless"] {
            let what = ["service", service];
            vault::until_says(
                cluster,
                &what,
                "culvert.dev/WaypointEnforced",
                "True Enforced",
                "nobody but the waypoint",
            )?;
            vault::until_says(cluster, &what, "istio.io/WaypointBound", "True WaypointAccepted", "")?;
        }
        until_status(cluster, WELCOME, OK, "200")
    })?;
    fire(cluster, EACH, "ready")?;
    let (one, two) = (shop::pod_ip(cluster, PODS[0].0)?, shop::pod_ip(cluster, PODS[1].0)?);
    for (from, url, wanted) in [
        (WELCOME, OK.to_owned(), "200"),
        (WELCOME, "http://vault.shop:8080/secret/s".to_owned(), "403"),
        ("client-two", OK.to_owned(), "403"),
        // Past the waypoint nobody comes, whoever it is and whatever is asked for.
        (WELCOME, format!("http://{one}:{PORT}/ok/it"), "000"),
        (WELCOME, format!("http://{two}:{PORT}/ok/it"), "000"),
        (WELCOME, format!("http://vault-headless.shop:{PORT}/ok/it"), "000"),
        ("outside/outside", OK.to_owned(), "000"),
        ("outside/outside", format!("http://{one}:{PORT}/ok/it"), "000"),
    ] {
        let said = status(cluster, from, &url)?;
        ensure!(said == wanted, "{from} gets {said} and not {wanted} from {url}");
    }
    Ok(())
}

/// All pods are replaced.
pub(crate) fn rolled(cluster: &Cluster) -> Result<()> {
    let load = Load::start(cluster, WELCOME, OK)?;
    fire_while(cluster, "rolled", || {
        cluster.kubectl(&["rollout", "restart", "-n", "shop", "deploy/waypoint"])?;
        cluster.kubectl(&["rollout", "status", "-n", "shop", "deploy/waypoint", "--timeout=120s"])?;
        Ok(())
    })?;
    let answers = load.finish()?;
    let failed: Vec<_> = answers.iter().filter(|a| a.status != "200").collect();
    println!("      {} of {} requests that may pass failed", failed.len(), answers.len());
    ensure!(!answers.is_empty() && failed.is_empty(), "{failed:?}");
    Ok(())
}

/// It was ready, has an address, and has no pod any more.
pub(crate) fn emptied(cluster: &Cluster) -> Result<()> {
    fire_while(cluster, "emptying", || {
        cluster.apply(&vault::options("spec: {replicas: 0}\n").to_string())?;
        vault::until_says(cluster, &GATEWAY, "Programmed", "False NoResources", "the addresses stay")?;
        until_status(cluster, WELCOME, OK, "000")
    })?;
    fire(cluster, EACH, "emptied")?;
    cluster.apply(&vault::options("spec: {}\n").to_string())?;
    vault::until_programmed(cluster)?;
    until_status(cluster, WELCOME, OK, "200")
}

/// The Gateway goes, with all that it had.
pub(crate) fn deleted(cluster: &Cluster) -> Result<()> {
    fire_while(cluster, "deleting", || {
        cluster.kubectl(&["delete", "gateway", "-n", "shop", "waypoint"])?;
        vault::until_says(
            cluster,
            &["service", "vault"],
            "culvert.dev/WaypointEnforced",
            "True Refused",
            "traffic is refused",
        )?;
        until_status(cluster, WELCOME, OK, "000")
    })?;
    fire(cluster, EACH, "deleted")?;
    // When nothing guards it any more, everybody may come again.
    cluster.delete(&vault::policies())?;
    all_open(cluster)
}

pub(crate) fn enough(_: &Cluster) -> Result<()> {
    println!("      {} requests, and none came through", fired());
    ensure!(fired() >= 10_000, "{} requests", fired());
    Ok(())
}

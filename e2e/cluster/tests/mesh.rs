//! Culvert on a real Kubernetes, from the first install to the last trace gone. Root, and the images of `cargo xtask image`:
//! `make test-cluster`.

mod common;
mod mesh {
    pub(crate) mod blame;
    pub(crate) mod calls;
    pub(crate) mod culvert;
    pub(crate) mod egress;
    pub(crate) mod helm;
    pub(crate) mod manners;
    pub(crate) mod scenes;
    pub(crate) mod shop;
    pub(crate) mod ways;
    pub(crate) mod wire;
}

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use common::{Check, SOON};
use e2e_cluster::{Cluster, Cni, Options, ProxyMode, eventually};
use mesh::calls::{Calls, Kind};
use mesh::culvert::{VALUES, culvert, culvert_tells, fails};
use mesh::scenes::{self, ALL};
use mesh::shop::{self, PORT};
use mesh::ways;
use mesh::wire::{Capture, Clear};
use serde_json::Value;

/// New connections of a labelled namespace are encrypted within 2 s on a quiet machine; this one runs everything on two CPUs
/// under 200 calls a second, so that only an order of magnitude is asserted, and the time is printed.
const ENROLLED: Duration = Duration::from_secs(20);

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[Check<Cluster>] = &[
    ("check --pre has nothing against the cluster", pre_check),
    ("install makes everything ready", install),
    ("a second install changes nothing", second_install),
    ("a shop outside the mesh works", shop::open),
    ("enroll --dry-run names what would break", dry_run),
    ("labelling a namespace under load: 0 failed, 0 cut, then 0 bytes in clear", label_under_load),
    ("status and check say that all is well", says_well),
    ("control and every proxy agree", config_agrees),
    ("the mesh answers by Service, headless, pod address, same node and other node", scenes::matrix),
    ("every manner of talking, between nodes and on one, from outside too", manners),
    ("identities are those of the service accounts", identities),
    ("a new pod is captured from its first init container on", from_birth),
    ("a policy by identity denies and allows", policy),
    ("STRICT refuses who is outside of the mesh, and probes pass", scenes::strict_and_probes),
    ("NetworkPolicy keeps its meaning", network_policy),
    ("and so it does for what leaves", mesh::egress::keeps_its_meaning),
    ("names of a ServiceEntry", ways::service_entry),
    ("pods of a StatefulSet by their names", ways::stateful_set),
    ("ports of nodes: hostPort and NodePort", ways::node_ports),
    ("control and ca away for a minute: calls go on", control_and_ca_away),
    ("the agent restarted on both nodes: nothing is cut", agents_restarted),
    ("the proxies replaced by surge: nothing fails", proxies_replaced),
    ("agent and proxies replaced at once, as by an upgrade: nothing fails", all_replaced),
    ("replaced proxies that are told to end do, and what they carry is reset", drained_now),
    ("un-labelling under load: 0 failed, 0 cut", unlabel_under_load),
    ("uninstall leaves nothing", uninstall),
];

/// By Helm, in place of the command line.
const BY_HELM: &[Check<Cluster>] = &[
    ("helm install makes everything ready", mesh::helm::install),
    ("helm test passes", mesh::helm::test),
    ("helm upgrade to the same changes nothing", mesh::helm::upgrade_to_the_same),
];
const OFF_BY_HELM: &[Check<Cluster>] = &[("helm uninstall leaves nothing", uninstall_by_helm)];

/// What the shape of the pods' network could break: all ways to a pod, and the proxies' replacement. Not NetworkPolicies that
/// name pods: where nodes masquerade, nobody but the caller's own node knows which pod an address of a node stands for. Nor what
/// concerns the control plane and the agents alone, which do not see that network.
const ELSEWHERE: &[&str] = &[
    "a shop outside the mesh works",
    "labelling a namespace under load: 0 failed, 0 cut, then 0 bytes in clear",
    "control and every proxy agree",
    "the mesh answers by Service, headless, pod address, same node and other node",
    "every manner of talking, between nodes and on one, from outside too",
    "a new pod is captured from its first init container on",
    "a policy by identity denies and allows",
    "STRICT refuses who is outside of the mesh, and probes pass",
    "names of a ServiceEntry",
    "pods of a StatefulSet by their names",
    "ports of nodes: hostPort and NodePort",
    "the proxies replaced by surge: nothing fails",
    "un-labelling under load: 0 failed, 0 cut",
];

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn the_mesh_holds_on_a_real_cluster() -> Result<(), common::Told> {
    Ok(holds(Options::default(), CHECKS.iter())?)
}

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn the_mesh_holds_on_bridges_with_nftables_and_masquerade() -> Result<(), common::Told> {
    let options = Options { cni: Cni::Bridge, proxy_mode: ProxyMode::Nftables, masquerade: true, ..Options::default() };
    let checks = CHECKS.iter().filter(|(name, _)| ELSEWHERE.contains(name));
    Ok(holds(options, BY_HELM.iter().chain(checks).chain(OFF_BY_HELM))?)
}

fn holds<'a>(options: Options, checks: impl Iterator<Item = &'a Check<Cluster>>) -> Result<()> {
    let _alone = common::alone();
    let cluster = common::up(options)?;
    cluster.load_images(&common::workspace().join("target/images"))?;
    common::in_order(&cluster, checks, shop::tell_all)?;
    cluster.down()?;
    Ok(())
}

fn pre_check(cluster: &Cluster) -> Result<()> {
    let lines: Vec<Value> = serde_json::from_str(&culvert(cluster, &["check", "--pre", "-o", "json"])?)?;
    let told: Vec<&Value> = lines.iter().filter(|l| l["state"] != "ok").collect();
    // Nobody has made the definitions yet.
    ensure!(told.len() == 1 && told[0]["id"] == "cluster.crds" && told[0]["state"] == "warn", "{told:?}");
    Ok(())
}

fn install(cluster: &Cluster) -> Result<()> {
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    culvert(cluster, &arguments)?;
    Ok(())
}

fn second_install(cluster: &Cluster) -> Result<()> {
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    let (_, told) = culvert_tells(cluster, &arguments)?;
    ensure!(told.lines().any(|line| line.starts_with("0 of ") && line.ends_with(" objects changed")), "{told}");
    Ok(())
}

fn dry_run(cluster: &Cluster) -> Result<()> {
    let said = culvert(cluster, &["enroll", "ns/shop", "--dry-run"])?;
    ensure!(said.contains("0 findings that would break"), "{said}");
    let policy = shop::allow_only("blocker", "server-two", "client-one", PORT);
    let out = mesh::egress::only("out", "client-one", "server-two", PORT);
    cluster.apply(&common::list(vec![policy.clone(), out.clone()]))?;
    let said = fails(cluster, &["enroll", "ns/shop", "--dry-run"])?;
    ensure!(said.contains("NetworkPolicy shop/blocker") && said.contains("spec.ingress[0]"), "{said}");
    ensure!(said.contains("NetworkPolicy shop/out") && said.contains("/spec/egress/0/ports/-"), "{said}");
    cluster.delete(&common::list(vec![policy, out]))?;
    Ok(())
}

fn label_under_load(cluster: &Cluster) -> Result<()> {
    let capture = Capture::start(cluster)?;
    let (mut begun, mut reported) = (0.0, 0.0);
    scenes::undisturbed(cluster, &ALL, || {
        begun = unix_ms();
        culvert(cluster, &["enroll", "ns/shop"])?;
        shop::until_enrolled(cluster, ENROLLED)?;
        reported = unix_ms();
        println!("      enrolled after {:.0} ms", reported - begun);
        // Some hundred calls more, which are to be in tunnels.
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    let seen = capture.finish_frames()?;
    let (bytes, clear) = (seen.bytes(), seen.clear(begun, reported));
    println!("      {bytes:?}; once enrolment was reported: {clear:?}");
    // Held connections are older than the enrolment and stay in clear; one of the two is between the nodes. New ones are not.
    ensure!(bytes.markers > 100, "nothing was in clear before: {bytes:?}");
    ensure!(clear == Clear { older: 1, newer: 0 }, "{clear:?}");
    Ok(())
}

fn says_well(cluster: &Cluster) -> Result<()> {
    eventually("culvert check", SOON, || culvert(cluster, &["check"]))?;
    let status: Value = serde_json::from_str(&culvert(cluster, &["status", "-n", "shop", "-o", "json"])?)?;
    let pods = status["pods"].as_array().context("no pods")?;
    ensure!(pods.len() == shop::PODS.len(), "{status}");
    ensure!(pods.iter().all(|p| p["state"] == "captured"), "{status}");
    Ok(())
}

fn config_agrees(cluster: &Cluster) -> Result<()> {
    let said = eventually("culvert config diff", SOON, || culvert(cluster, &["config", "diff"]))?;
    ensure!(said.matches("as wanted").count() == 2, "{said}");
    Ok(())
}

fn manners(cluster: &Cluster) -> Result<()> {
    for client in ["client-one", "outside/outside"] {
        for server in ["server-one", "server-two"] {
            mesh::manners::all(cluster, client, server)?;
        }
    }
    Ok(())
}

fn identities(cluster: &Cluster) -> Result<()> {
    scenes::identities(cluster, "node2", |node| shop::proxy_log(cluster, node))
}

fn from_birth(cluster: &Cluster) -> Result<()> {
    let pod = scenes::newborn(cluster)?;
    cluster.delete(&pod.to_string())?;
    Ok(())
}

fn policy(cluster: &Cluster) -> Result<()> {
    scenes::policy(cluster, "server-two", || {
        let accepted = "jsonpath={.status.conditions[?(@.type==\"ZtunnelAccepted\")].status}";
        eventually("the policy's condition", SOON, || {
            let said = cluster.kubectl(&["get", "authorizationpolicy", "-n", "shop", "only-one", "-o", accepted])?;
            ensure!(said == "True", "{said:?}");
            anyhow::Ok(())
        })?;
        Ok(())
    })
}

fn network_policy(cluster: &Cluster) -> Result<()> {
    let policy = shop::allow_only("port", "server-two", "client-one", PORT);
    ways::network_policy(cluster, &policy)?;
    let address = shop::address(cluster, "server-two")?;
    let load = Calls::start(cluster, "client-one", Kind::Calls, &address)?;
    load.wait_for_good()?;
    load.finish()?.must_be_good(cluster).context("the port that is allowed")?;
    cluster.delete(&policy.to_string())?;
    scenes::until_answered(cluster, "client-two", "server-two")
}

fn control_and_ca_away(cluster: &Cluster) -> Result<()> {
    // Both at once: neither can be asked for anything. Longer than whatever asks every few seconds.
    const AWAY: Duration = Duration::from_secs(60);
    let scale = |count: &str| {
        let names = ["deploy/culvert-control", "deploy/culvert-ca"];
        cluster.kubectl(&[&["scale", "-n", "culvert-system", count][..], &names].concat())
    };
    scenes::undisturbed(cluster, &ALL, || {
        scale("--replicas=0")?;
        // Killed, not told to end.
        let of_both = "app.kubernetes.io/name in (culvert-control, culvert-ca)";
        let killed = ["--grace-period=0", "--force", "--ignore-not-found", "-l", of_both];
        cluster.kubectl(&[&["delete", "pod", "-n", "culvert-system"][..], &killed].concat())?;
        std::thread::sleep(AWAY);
        scale("--replicas=2")?;
        for name in ["culvert-ca", "culvert-control"] {
            let deployment = format!("deploy/{name}");
            cluster.kubectl(&["rollout", "status", "-n", "culvert-system", &deployment, "--timeout=120s"])?;
        }
        Ok(())
    })?;
    // What has changed meanwhile arrives.
    scenes::policy(cluster, "server-one", || Ok(()))
}

fn agents_restarted(cluster: &Cluster) -> Result<()> {
    scenes::undisturbed(cluster, &ALL, || shop::restart(cluster, "culvert-node"))
}

fn proxies_replaced(cluster: &Cluster) -> Result<()> {
    scenes::undisturbed(cluster, &ALL, || {
        shop::restart(cluster, "ztunnel")?;
        shop::until_handed_over(cluster)
    })
}

/// A proxy that has lost its agent serves on; called not ready for it, it would be ended before the next one is.
fn all_replaced(cluster: &Cluster) -> Result<()> {
    scenes::undisturbed(cluster, &ALL, || {
        shop::begin_restart(cluster, "culvert-node")?;
        shop::restart(cluster, "ztunnel")?;
        shop::until_restarted(cluster, "culvert-node")?;
        shop::until_handed_over(cluster)
    })
}

fn drained_now(cluster: &Cluster) -> Result<()> {
    let held = Calls::start(cluster, "client-one", Kind::Hold, &shop::address(cluster, "server-two")?)?;
    held.wait_for_good()?;
    shop::restart(cluster, "ztunnel")?;
    let mut arguments = vec!["install", "--drain-now"];
    arguments.extend(VALUES);
    culvert(cluster, &arguments)?;
    let seen = held.wait_for_end(SOON)?;
    println!("      {seen}");
    ensure!(seen.to_string().contains("ConnectionReset"), "{seen}");
    let pods = cluster.kubectl(&["get", "pods", "-n", "culvert-system", "-l", "app=ztunnel", "-o", "name"])?;
    ensure!(pods.lines().count() == cluster.nodes().len(), "{pods}");
    Ok(())
}

fn unlabel_under_load(cluster: &Cluster) -> Result<()> {
    scenes::undisturbed(cluster, &ALL, || {
        culvert(cluster, &["unenroll", "ns/shop"])?;
        // Held connections go on through the proxies, and nothing else does.
        eventually("only held connections are left", SOON, || {
            let status: Value = serde_json::from_str(&culvert(cluster, &["status", "-n", "shop", "-o", "json"])?)?;
            let pods = status["pods"].as_array().context("no pods")?;
            let left: Vec<_> = pods.iter().map(|p| [&p["name"], &p["state"], &p["note"]]).collect();
            let held = |pod: &[&Value; 3]| {
                // One of the application, one of the proxy.
                let note = pod[2].as_str().unwrap_or_default();
                let sockets = if pod[0] == "server-two" { "(4 sockets)" } else { "(2 sockets)" };
                pod[1] == "leaving" && note.contains(sockets)
            };
            // Both clients, and the server of both.
            ensure!(left.len() == 3 && left.iter().all(held), "{left:?}");
            anyhow::Ok(())
        })?;
        Ok(())
    })?;
    shop::until_left(cluster, SOON)?;
    Ok(())
}

fn uninstall(cluster: &Cluster) -> Result<()> {
    removed(cluster, |cluster| culvert(cluster, &["uninstall"]).map(drop))
}

fn uninstall_by_helm(cluster: &Cluster) -> Result<()> {
    removed(cluster, mesh::helm::uninstall)
}

fn removed(cluster: &Cluster, by: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    // With pods in the mesh: they leave, and nothing of them stays.
    culvert(cluster, &["enroll", "ns/shop"])?;
    shop::until_enrolled(cluster, SOON)?;
    by(cluster)?;
    // The proxies' pods end when nobody is connected any more.
    eventually("nothing is left", SOON, || shop::nothing_left(cluster))?;
    ensure!(shop::curl(cluster, "client-one", "http://server-two.shop:8080/")? == "server-two", "in clear again");
    Ok(())
}

fn unix_ms() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

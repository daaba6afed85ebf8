//! Culvert on a real Kubernetes, from the first install to the last trace gone. Root, and the images of `cargo xtask image`:
//! `make test-cluster`.

mod common;
mod mesh {
    pub(crate) mod calls;
    pub(crate) mod culvert;
    pub(crate) mod shop;
    pub(crate) mod wire;
}

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{SOON, list};
use e2e_cluster::{Cluster, Options, eventually};
use mesh::calls::{Calls, Kind};
use mesh::culvert::{VALUES, culvert, fails};
use mesh::shop::{self, MARKER, PORT};
use mesh::wire::Capture;
use serde_json::{Value, json};

/// New connections of a labelled namespace are encrypted within 2 s on a quiet machine; this one builds and runs everything
/// on two CPUs, so that only an order of magnitude is asserted. `make bench` measures.
const ENROLLED: Duration = Duration::from_secs(20);

type Check = fn(&Cluster) -> Result<()>;

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[(&str, Check)] = &[
    ("check --pre has nothing against the cluster", pre_check),
    ("install makes everything ready", install),
    ("a second install changes nothing", second_install),
    ("a shop outside the mesh works", shop::open),
    ("enroll --dry-run names what would break", dry_run),
    ("labelling a namespace under load: 0 failed, 0 cut, then 0 bytes in clear", label_under_load),
    ("status and check say that all is well", says_well),
    ("control and every proxy agree", config_agrees),
    ("the mesh answers by Service, headless, pod address, same node and other node", matrix),
    ("identities are those of the service accounts", identities),
    ("a new pod is captured from its first init container on", from_birth),
    ("a policy by identity denies and allows", policy),
    ("STRICT refuses who is outside of the mesh, and probes pass", strict_and_probes),
    ("NetworkPolicy keeps its meaning", network_policy),
    ("control away, ca away: calls go on", control_and_ca_away),
    ("the agent restarted on both nodes: nothing is cut", agents_restarted),
    ("the proxies replaced by surge: nothing fails", proxies_replaced),
    ("un-labelling under load: 0 failed, 0 cut", unlabel_under_load),
    ("uninstall leaves nothing", uninstall),
];

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn the_mesh_holds_on_a_real_cluster() -> Result<()> {
    let _alone = common::alone();
    let cluster = common::up(Options::default())?;
    cluster.load_images(&common::workspace().join("target/images"))?;
    for (name, check) in CHECKS {
        let begun = Instant::now();
        let done = check(&cluster).with_context(|| (*name).to_owned());
        if let Err(error) = done {
            shop::tell_all(&cluster);
            return Err(error);
        }
        println!("  ok  {name} ({} ms)", begun.elapsed().as_millis());
    }
    cluster.down()?;
    Ok(())
}

fn pre_check(cluster: &Cluster) -> Result<()> {
    let lines: Vec<Value> = serde_json::from_str(&fails(cluster, &["check", "--pre", "-o", "json"])?)?;
    let failed: Vec<&Value> = lines.iter().filter(|l| l["state"] == "fail").collect();
    // Nobody has made the definitions yet.
    ensure!(failed.len() == 1 && failed[0]["id"] == "cluster.crds", "{failed:?}");
    Ok(())
}

fn install(cluster: &Cluster) -> Result<()> {
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    culvert(cluster, &arguments)?;
    Ok(())
}

fn second_install(cluster: &Cluster) -> Result<()> {
    let versions = || {
        let kinds = "deployments,daemonsets,configmaps,services,serviceaccounts,roles,rolebindings";
        cluster.kubectl(&[
            "get",
            kinds,
            "-n",
            "culvert-system",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.metadata.generation}{\"\\n\"}{end}",
        ])
    };
    let before = versions()?;
    install(cluster)?;
    ensure!(versions()? == before, "before:\n{before}\nafter:\n{}", versions()?);
    Ok(())
}

fn dry_run(cluster: &Cluster) -> Result<()> {
    let said = culvert(cluster, &["enroll", "ns/shop", "--dry-run"])?;
    ensure!(said.contains("0 findings that would break"), "{said}");
    let policy = shop::allow_only("blocker", "server-two", "client-one", PORT);
    cluster.apply(&policy.to_string())?;
    let said = fails(cluster, &["enroll", "ns/shop", "--dry-run"])?;
    ensure!(said.contains("NetworkPolicy shop/blocker") && said.contains("15008"), "{said}");
    cluster.delete(&policy.to_string())?;
    Ok(())
}

/// Loads that go on while something happens, and must not notice.
fn undisturbed(cluster: &Cluster, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let two = shop::address(cluster, "server-two")?;
    let one = shop::address(cluster, "server-one")?;
    let loads = [
        Calls::start(cluster, "client-one", Kind::Calls, &two)?,
        Calls::start(cluster, "client-one", Kind::Hold, &two)?,
        Calls::start(cluster, "client-one", Kind::Calls, &one)?,
        Calls::start(cluster, "client-two", Kind::Calls, &two)?,
    ];
    what()?;
    for load in loads {
        let seen = load.finish()?;
        ensure!(seen.is_good(), "{seen:?}");
        println!("      {seen}");
    }
    Ok(())
}

fn label_under_load(cluster: &Cluster) -> Result<()> {
    undisturbed(cluster, || {
        let begun = Instant::now();
        culvert(cluster, &["enroll", "ns/shop"])?;
        shop::until_enrolled(cluster, ENROLLED)?;
        println!("      enrolled after {} ms", begun.elapsed().as_millis());
        // The held connection is older than the enrolment and stays in clear; new ones are not.
        Ok(())
    })?;
    let capture = Capture::start(cluster)?;
    let address = shop::address(cluster, "server-two")?;
    let load = Calls::start(cluster, "client-one", Kind::Calls, &address)?;
    load.wait_for_good()?;
    let seen = load.finish()?;
    ensure!(seen.is_good() && seen.good > 10, "{seen}");
    let bytes = capture.finish()?;
    ensure!(bytes.frames > 10, "the wire between the nodes was not seen: {bytes:?}");
    ensure!(bytes.markers == 0, "the marker was on the wire in clear: {bytes:?}");
    println!("      {bytes:?}");
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

fn matrix(cluster: &Cluster) -> Result<()> {
    let pod_ip = |pod: &str| cluster.kubectl(&["get", "pod", "-n", "shop", pod, "-o", "jsonpath={.status.podIP}"]);
    for client in ["client-one", "client-two", "outside/outside"] {
        for server in ["server-one", "server-two"] {
            let targets = [
                format!("{server}.shop"),
                format!("{server}.shop.svc.cluster.local"),
                format!("{server}-headless.shop.svc.cluster.local"),
                format!("alias-{server}.shop.svc.cluster.local"),
                pod_ip(server)?,
            ];
            for target in targets {
                let said = shop::curl(cluster, client, &format!("http://{target}:8080/"))?;
                ensure!(said == server, "{client} -> {target}: {said:?}");
            }
        }
    }
    Ok(())
}

fn identities(cluster: &Cluster) -> Result<()> {
    shop::curl(cluster, "client-one", "http://server-two.shop:8080/")?;
    eventually("an access line with both identities", SOON, || {
        let log = shop::proxy_log(cluster, "node2")?;
        let line = log.lines().rev().find(|l| l.contains("direction=\"inbound\"") && l.contains("server-two"));
        let line = line.with_context(|| format!("no line in:\n{log}"))?;
        ensure!(line.contains("src.identity=\"spiffe://cluster.local/ns/shop/sa/client-one\""), "{line}");
        ensure!(line.contains("dst.identity=\"spiffe://cluster.local/ns/shop/sa/server-two\""), "{line}");
        anyhow::Ok(())
    })?;
    Ok(())
}

fn from_birth(cluster: &Cluster) -> Result<()> {
    let capture = Capture::start(cluster)?;
    let address = shop::address(cluster, "server-two")?;
    let (ip, port) = address.rsplit_once(':').context("an address")?;
    let call =
        format!("for i in 1 2 3 4 5; do echo {MARKER} | nc -w 2 {ip} {port} | grep -q server-two || exit 1; done");
    let mut pod = shop::pod("newborn", "node1", &["sleep", "inf"], json!({}));
    pod["spec"]["initContainers"] =
        json!([{"name": "first", "image": "culvert.dev/echo:test", "command": ["sh", "-c", call]}]);
    cluster.apply(&pod.to_string())?;
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s", "pod/newborn"])?;
    let bytes = capture.finish()?;
    ensure!(bytes.frames > 10 && bytes.markers == 0, "{bytes:?}");
    cluster.delete(&pod.to_string())?;
    Ok(())
}

fn policy(cluster: &Cluster) -> Result<()> {
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "only-one", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "server-two"}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/client-one"]}}]}]}});
    cluster.apply(&policy.to_string())?;
    let url = "http://server-two.shop:8080/";
    eventually("the policy denies client-two", SOON, || {
        ensure!(shop::curl(cluster, "client-two", url).is_err(), "client-two still gets an answer");
        anyhow::Ok(())
    })?;
    ensure!(shop::curl(cluster, "client-one", url)? == "server-two", "client-one is denied");
    ensure!(shop::curl(cluster, "outside/outside", url).is_err(), "who has no identity gets an answer");
    let accepted = "jsonpath={.status.conditions[?(@.type==\"ZtunnelAccepted\")].status}";
    eventually("the policy's condition", SOON, || {
        let said = cluster.kubectl(&["get", "authorizationpolicy", "-n", "shop", "only-one", "-o", accepted])?;
        ensure!(said == "True", "{said:?}");
        anyhow::Ok(())
    })?;
    cluster.delete(&policy.to_string())?;
    eventually("the policy is gone", SOON, || shop::curl(cluster, "client-two", url))?;
    Ok(())
}

fn strict_and_probes(cluster: &Cluster) -> Result<()> {
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
    let nobody = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "probed"}}}});
    cluster.apply(&list(vec![strict.clone(), nobody.clone()]))?;
    eventually("STRICT refuses clear text", SOON, || {
        ensure!(shop::curl(cluster, "outside/outside", "http://server-one.shop:8080/").is_err(), "answered");
        anyhow::Ok(())
    })?;
    ensure!(shop::curl(cluster, "client-two", "http://server-one.shop:8080/")? == "server-one", "the mesh is refused");
    let probe = |kind: Value| {
        let mut probe = kind;
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(3);
        probe
    };
    let pod = shop::pod(
        "probed",
        "node2",
        &["nginx", "-g", "daemon off;"],
        json!({
            "startupProbe": probe(json!({"tcpSocket": {"port": 8080}})),
            "readinessProbe": probe(json!({"httpGet": {"port": 8080, "path": "/"}})),
            "livenessProbe": probe(json!({"exec": {"command": ["true"]}})),
        }),
    );
    cluster.apply(&pod.to_string())?;
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s", "pod/probed"])?;
    // Somebody else on the node's network is not the kubelet.
    let ip = cluster.kubectl(&["get", "pod", "-n", "shop", "probed", "-o", "jsonpath={.status.podIP}"])?;
    let output =
        cluster.node("node2")?.command("curl").args(["-sS", "-m", "5", &format!("http://{ip}:8080/")]).output()?;
    ensure!(!output.status.success(), "a process of the node got an answer past a policy that allows nobody");
    cluster.delete(&list(vec![pod, strict, nobody]))?;
    eventually("clear text is answered again", SOON, || {
        shop::curl(cluster, "outside/outside", "http://server-one.shop:8080/")
    })?;
    Ok(())
}

fn network_policy(cluster: &Cluster) -> Result<()> {
    let policy = shop::allow_only("port", "server-two", "client-one", PORT);
    cluster.apply(&policy.to_string())?;
    eventually("the port that no rule allows is closed", SOON, || {
        ensure!(shop::curl(cluster, "client-one", "http://server-two.shop:8080/").is_err(), "8080 answers");
        anyhow::Ok(())
    })?;
    let address = shop::address(cluster, "server-two")?;
    let load = Calls::start(cluster, "client-one", Kind::Calls, &address)?;
    load.wait_for_good()?;
    let seen = load.finish()?;
    ensure!(seen.is_good(), "the port that is allowed: {seen}");
    ensure!(
        shop::curl(cluster, "client-two", "http://server-two.shop:8080/").is_err(),
        "client-two is not allowed at all"
    );
    cluster.delete(&policy.to_string())?;
    eventually("the policy is gone", SOON, || shop::curl(cluster, "client-two", "http://server-two.shop:8080/"))?;
    Ok(())
}

fn control_and_ca_away(cluster: &Cluster) -> Result<()> {
    // Long enough for anything that asks every few seconds; the suite's budget does not allow the minute of a manual run.
    const AWAY: Duration = Duration::from_secs(20);
    for name in ["culvert-control", "culvert-ca"] {
        undisturbed(cluster, || {
            let scale =
                |count: &str| cluster.kubectl(&["scale", "-n", "culvert-system", &format!("deploy/{name}"), count]);
            scale("--replicas=0")?;
            cluster.kubectl(&[
                "wait",
                "-n",
                "culvert-system",
                "--for=delete",
                "--timeout=60s",
                "pod",
                "-l",
                &format!("app.kubernetes.io/name={name}"),
            ])?;
            std::thread::sleep(AWAY);
            scale("--replicas=2")?;
            cluster.kubectl(&[
                "rollout",
                "status",
                "-n",
                "culvert-system",
                &format!("deploy/{name}"),
                "--timeout=120s",
            ])?;
            Ok(())
        })?;
    }
    Ok(())
}

fn agents_restarted(cluster: &Cluster) -> Result<()> {
    undisturbed(cluster, || shop::restart(cluster, "culvert-node"))
}

fn proxies_replaced(cluster: &Cluster) -> Result<()> {
    undisturbed(cluster, || shop::restart(cluster, "ztunnel"))
}

fn unlabel_under_load(cluster: &Cluster) -> Result<()> {
    let two = shop::address(cluster, "server-two")?;
    let loads = [
        Calls::start(cluster, "client-one", Kind::Calls, &two)?,
        Calls::start(cluster, "client-two", Kind::Calls, &two)?,
    ];
    culvert(cluster, &["unenroll", "ns/shop"])?;
    shop::until_left(cluster, SOON)?;
    for load in loads {
        let seen = load.finish()?;
        ensure!(seen.is_good(), "{seen:?}");
        println!("      {seen}");
    }
    let rules = shop::in_pod(cluster, "client-one", "ip rule")?;
    ensure!(!rules.contains("lookup 100"), "{rules}");
    Ok(())
}

fn uninstall(cluster: &Cluster) -> Result<()> {
    // With a pod in the mesh: it leaves, and nothing of it stays.
    culvert(cluster, &["enroll", "ns/shop"])?;
    shop::until_enrolled(cluster, SOON)?;
    culvert(cluster, &["uninstall"])?;
    // The proxies' pods end when nobody is connected any more.
    eventually("nothing is left", SOON, || shop::nothing_left(cluster))?;
    ensure!(shop::curl(cluster, "client-one", "http://server-two.shop:8080/")? == "server-two", "in clear again");
    Ok(())
}

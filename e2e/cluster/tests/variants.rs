//! The other ways to raise a cluster, and ends that nobody planned: `make test-cluster`.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use common::{list, nothing_there, pod, service, until_ready, until_says};
use e2e_cluster::{Cluster, ClusterError, Cni, Options, ProxyMode};
use serde_json::json;

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn pods_on_a_bridge_with_nftables_and_masquerade_reach_each_other_and_themselves() -> Result<()> {
    let _alone = common::alone();
    let options = Options {
        cni: Cni::Bridge,
        proxy_mode: ProxyMode::Nftables,
        masquerade: true,
        pod_cidr_bits: 26,
        ..Options::default()
    };
    let cluster = common::up(options)?;
    let bits = cluster.node("node2")?.pod_cidr().context("no pod network")?.to_owned();
    ensure!(bits.ends_with("/26"), "{bits}");
    let line = "e2e-peer serve & exec nginx -g 'daemon off;'";
    let peer = |name: &str, node: &str| pod(name, node, &["sh", "-c", line], json!({}));
    cluster.apply(&list(vec![
        peer("one", "node1"),
        peer("beside", "node1"),
        peer("two", "node2"),
        service("one", 80, 8080),
        service("beside", 80, 8080),
        service("two", 80, 8080),
    ]))?;
    until_ready(&cluster, &["one", "beside", "two"])?;
    // Not by the bare name: in its own pod that is the pod.
    for server in ["one", "beside", "two"] {
        until_says(&cluster, "one", &format!("curl -sS -m 5 http://{server}.default/"), server)?;
    }
    // The address that the other node's pod sees is the node's.
    let ip = cluster.kubectl(&["get", "pod", "two", "--output=jsonpath={.status.podIP}"])?;
    let seen = common::sh(&cluster, "one", &format!("e2e-peer call who {ip}"))?;
    ensure!(seen.contains(&cluster.node("node1")?.address().to_string()), "{seen}");
    cluster.down()?;
    nothing_there()
}

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn a_signal_in_the_middle_leaves_nothing() -> Result<()> {
    let _alone = common::alone();
    for step in ["containerd", "waiting for the API server", "waiting for the nodes"] {
        let mut child = up_until(step)?;
        signal(&child, "-INT")?;
        ensure!(!child.wait()?.success(), "called off at {step:?}, and said nothing of it");
        nothing_there().with_context(|| format!("called off at {step:?}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn down_removes_what_a_crash_left_and_so_does_the_next_up() -> Result<()> {
    let _alone = common::alone();
    let mut child = up_until("controllers")?;
    signal(&child, "-KILL")?;
    child.wait()?;
    ensure!(Path::new("/run/culvert/cluster/culvert").exists(), "something was left");
    ensure!(program().arg("down").status()?.success(), "down failed");
    nothing_there()?;

    let mut child = up_until("controllers")?;
    signal(&child, "-KILL")?;
    child.wait()?;
    let cluster = Cluster::up(&Options::default())?;
    // While it is up, nobody else's is.
    let refused = Cluster::up(&Options { name: "other".to_owned(), ..Options::default() });
    ensure!(matches!(refused, Err(ClusterError::Exists(_))), "{refused:?}");
    drop(cluster);
    nothing_there()
}

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn a_test_that_is_killed_leaves_nothing() -> Result<()> {
    let _alone = common::alone();
    // Again as a process of its own, which raises a cluster that it owns.
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "--nocapture", "owner_that_waits_to_be_killed"])
        .env(OWNER, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let up = lines.find(|l| l.as_ref().is_ok_and(|l| l.contains("it is up")));
    ensure!(up.is_some(), "the owner did not raise its cluster");
    signal(&child, "-KILL")?;
    child.wait()?;
    e2e_cluster::eventually("nothing left", common::SOON, nothing_there)?;
    Ok(())
}

const OWNER: &str = "CULVERT_TEST_OWNER";

#[test]
#[ignore = "a part of a_test_that_is_killed_leaves_nothing"]
fn owner_that_waits_to_be_killed() -> Result<()> {
    if std::env::var_os(OWNER).is_none() {
        return Ok(());
    }
    let _cluster = Cluster::up(&Options::default())?;
    println!("it is up");
    loop {
        std::thread::park();
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_e2e-cluster"))
}

// Raises a cluster by the program until it tells of a step.
fn up_until(step: &str) -> Result<Child> {
    let mut child = program().arg("up").stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let stderr = BufReader::new(child.stderr.take().context("no stderr")?);
    let mut lines = stderr.lines();
    for line in lines.by_ref() {
        let line = line?;
        println!("{line}");
        if line.contains(step) {
            // Somebody has to listen, or its next word ends it.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(child);
        }
    }
    anyhow::bail!("it ended ({}) before {step:?}", child.wait()?)
}

fn signal(child: &Child, signal: &str) -> Result<()> {
    ensure!(Command::new("kill").args([signal, &child.id().to_string()]).status()?.success(), "kill failed");
    Ok(())
}

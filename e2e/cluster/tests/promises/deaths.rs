//! What dies in the middle, as a user sees it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::Value;

use super::load::{Answer, Load, now};
use super::shots::{fire_while, until_status};
use super::vault::{self, WELCOME};

const OK: &str = "http://vault.shop:8080/ok/it";
/// For how long requests may fail when one of two waypoint pods dies, in seconds: the kubelet has to see it and to tell, and
/// the word has to reach the nodes.
const ONE_DIES: f64 = 3.0;
/// From the readiness of the first pod to the first request that passes, in seconds, when all have died.
const AGAIN: f64 = 1.0;
/// How long the control plane is away.
const AWAY: Duration = Duration::from_secs(60);

/// Processes of a program in the pods of a node; of all nodes when none is named.
pub(crate) fn processes(cluster: &Cluster, program: &str, node: Option<&str>) -> Result<Vec<u32>> {
    let nodes: Vec<String> = cluster.nodes().iter().map(|n| n.name().to_owned()).collect();
    let wanted: Vec<&String> = nodes.iter().filter(|n| node.is_none_or(|w| w == *n)).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // One that has ended meanwhile is none.
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let group = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let on = |node: &&String| group.contains(&format!("/{node}/kubepods"));
        if name.trim() == program && wanted.iter().any(on) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Sends a signal, named as kill(1) does.
pub(crate) fn signal(name: &str, pids: &[u32]) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let status = std::process::Command::new("kill").arg(format!("-{name}")).args(&pids).status()?;
    ensure!(status.success(), "kill -{name} {pids:?}: {status}");
    Ok(())
}

/// First and last of the requests that failed after a moment, in seconds from it, and how many they were.
fn failures(answers: &[Answer], since: f64) -> (f64, f64, usize) {
    let failed: Vec<f64> = answers.iter().filter(|a| a.status != "200").map(|a| a.at - since).collect();
    let (first, last) = (failed.first().copied().unwrap_or_default(), failed.last().copied().unwrap_or_default());
    (first, last, failed.len())
}

fn ready(cluster: &Cluster) -> Result<usize> {
    let is = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    Ok(vault::waypoint_pods(cluster)?.iter().filter(|p| is(p)).count())
}

/// One of two, then both.
pub(crate) fn process(cluster: &Cluster) -> Result<()> {
    // Those of before a rollout serve what they have until it ends.
    let all = eventually("two processes", Duration::from_secs(120), || {
        let all = processes(cluster, "waypoint", None)?;
        ensure!(all.len() == 2, "processes {all:?}");
        anyhow::Ok(all)
    })?;
    fire_while(cluster, "killed", || {
        let load = Load::start(cluster, WELCOME, OK)?;
        let killed = now()?;
        signal("KILL", all.get(..1).context("a process")?)?;
        until_restarts(cluster, 1)?;
        let answers = load.finish()?;
        let (_, last, count) = failures(&answers, killed);
        println!("      one of two killed: {count} of {} failed, the last one after {last:.2} s", answers.len());
        ensure!(last < ONE_DIES, "requests failed until {last} s after the kill");
        ensure!(answers.iter().all(|a| ["200", "000", "503"].contains(&a.status.as_str())), "{answers:?}");

        let load = Load::start(cluster, WELCOME, OK)?;
        until_status(cluster, WELCOME, OK, "200")?;
        let killed = now()?;
        signal("KILL", &processes(cluster, "waypoint", None)?)?;
        until_restarts(cluster, 3)?;
        until_status(cluster, WELCOME, OK, "200")?;
        let answers = load.finish()?;
        let (first, last, count) = failures(&answers, killed);
        println!("      both killed: {count} of {} failed, from {first:.2} to {last:.2} s", answers.len());
        ensure!(count > 0, "nobody noticed that both were killed");
        let again = first_ready(cluster)? - killed;
        println!("      the first pod was ready again after {again:.2} s");
        ensure!(last < again.max(0.0) + AGAIN + SECOND, "requests failed until {last} s, ready was {again} s");
        Ok(())
    })
}

/// What Kubernetes writes is cut to whole seconds.
const SECOND: f64 = 1.0;

/// When the first pod of the waypoint became ready, by our clock.
fn first_ready(cluster: &Cluster) -> Result<f64> {
    let mut first: Option<f64> = None;
    for pod in vault::waypoint_pods(cluster)? {
        let conditions = pod["status"]["conditions"].as_array().context("no conditions")?;
        let ready = conditions.iter().find(|c| c["type"] == "Ready").context("no condition Ready")?;
        let at = ready["lastTransitionTime"].as_str().context("no time")?;
        let text = std::process::Command::new("date").args(["-d", at, "+%s"]).output()?.stdout;
        let then: f64 = String::from_utf8_lossy(&text).trim().parse()?;
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
        let at = now()? - (wall - then);
        first = Some(first.map_or(at, |f| f.min(at)));
    }
    first.context("no pod")
}

/// Waits until the pods of the waypoint have been started again so often, together, and are ready.
fn until_restarts(cluster: &Cluster, wanted: u64) -> Result<()> {
    eventually("the kubelet has started it again", Duration::from_secs(60), || {
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
        let count: u64 = vault::waypoint_pods(cluster)?.iter().map(restarts).sum();
        let ready = ready(cluster)?;
        ensure!(count >= wanted && ready == 2, "{count} restarts, {ready} ready");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// It is not there for as long as a bad upgrade takes: waypoints and node proxies go on with what they know.
pub(crate) fn control(cluster: &Cluster) -> Result<()> {
    let scale = |count: &str| {
        cluster.kubectl(&["scale", "-n", "culvert-system", "deploy/culvert-control", &format!("--replicas={count}")])
    };
    let deployment = cluster.kubectl(&[
        "get",
        "deploy",
        "-n",
        "culvert-system",
        "culvert-control",
        "-o",
        "jsonpath={.spec.replicas}",
    ])?;
    let load = Load::start(cluster, WELCOME, OK)?;
    signal("KILL", &processes(cluster, "culvert-control", None)?)?;
    scale("0")?;
    let gone = ["wait", "-n", "culvert-system", "--for=delete", "pod", "-l", "app.kubernetes.io/name=culvert-control"];
    cluster.kubectl(&[&gone[..], &["--timeout=60s"]].concat())?;
    // Time itself is what is tested here.
    fire_while(cluster, "unruled", || {
        std::thread::sleep(AWAY);
        Ok(())
    })?;
    scale(&deployment)?;
    let ready = ["rollout", "status", "-n", "culvert-system", "deploy/culvert-control", "--timeout=120s"];
    cluster.kubectl(&ready)?;
    let answers = load.finish()?;
    let failed: Vec<_> = answers.iter().filter(|a| a.status != "200").collect();
    println!("      {} of {} requests failed", failed.len(), answers.len());
    ensure!(answers.len() > 100 && failed.is_empty(), "{failed:?}");
    Ok(())
}

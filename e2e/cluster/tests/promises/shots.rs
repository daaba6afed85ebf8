//! Requests by every way that leads to the vault, of which none may arrive.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};

use super::vault::{PODS, PORT, reached};
use crate::common::SOON;
use crate::mesh::shop;

/// Whence: a pod of the mesh on each node, and one outside of it.
const CALLERS: [&str; 3] = ["shop/client-one", "shop/client-two", "outside/outside"];

/// How many ask at one time, of each caller.
const LANES: u32 = 5;

/// All requests of all checks.
static FIRED: AtomicU64 = AtomicU64::new(0);

/// How many there were.
pub(crate) fn fired() -> u64 {
    FIRED.load(Ordering::Relaxed)
}

/// Where the vault is: by its Service, by the headless one, and by the address of each pod that is there.
fn targets(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all = vec![format!("http://vault.shop:{PORT}"), format!("http://vault-headless.shop:{PORT}")];
    for (pod, _) in PODS {
        // One that is being made again has none for a moment.
        let ip = cluster.kubectl(&[
            "get",
            "pod",
            "-n",
            "shop",
            pod,
            "--ignore-not-found",
            "-o",
            "jsonpath={.status.podIP}",
        ])?;
        all.extend(Some(ip).filter(|ip| !ip.is_empty()).map(|ip| format!("http://{ip}:{PORT}")));
    }
    Ok(all)
}

/// Answers by status; 000 is none at all.
type Answers = BTreeMap<String, u64>;

/// Asks so often by each way for what nobody may have, all callers at once. What they were answered, and how many they were.
fn ask(cluster: &Cluster, each: u32, path: &str) -> Result<(Answers, u64)> {
    let targets = targets(cluster)?;
    let (lanes, in_lane) = if each.is_multiple_of(LANES) { (LANES, each / LANES) } else { (1, each) };
    let urls: Vec<String> = targets.iter().map(|to| format!("'{to}{path}?[1-{in_lane}]'")).collect();
    // curl's own `-Z` loses transfers that fail at once (7.88), and waits for them for ever.
    let line = format!(
        "for u in {}; do for lane in $(seq {lanes}); do \
         curl -s -m 15 -o /dev/null -w '%{{http_code}}\\n' \"$u\" & done; wait; done | sort | uniq -c",
        urls.join(" ")
    );
    let mut running = Vec::new();
    for caller in CALLERS {
        let (namespace, pod) = caller.split_once('/').context("a namespace")?;
        let mut command = cluster.kubectl_command();
        command.args(["exec", "-n", namespace, pod, "--", "sh", "-c", &line]);
        running.push((caller, command.stdout(Stdio::piped()).spawn()?));
    }
    let mut answers = Answers::new();
    let expected = u64::from(each) * urls.len() as u64;
    for (caller, child) in running {
        let said = String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned();
        let counted = said.lines().filter_map(|l| l.trim().split_once(' '));
        let counted: Vec<(u64, &str)> = counted.filter_map(|(n, code)| Some((n.parse().ok()?, code.trim()))).collect();
        let sum: u64 = counted.iter().map(|(n, _)| n).sum();
        ensure!(sum == expected, "{caller} asked {sum} times and not {expected}: {said}");
        counted.into_iter().for_each(|(n, code)| *answers.entry(code.to_owned()).or_default() += n);
    }
    let all = expected * CALLERS.len() as u64;
    Ok((answers, all))
}

/// Every way is open: the vault says its name.
pub(crate) fn all_open(cluster: &Cluster) -> Result<()> {
    eventually("every way is open", SOON, || {
        let (answers, all) = ask(cluster, 1, "/ok/open")?;
        ensure!(answers.get("200") == Some(&all), "{answers:?} of {all}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Waits until what was changed holds everywhere: nodes hear of it one after the other.
pub(crate) fn until_shut(cluster: &Cluster) -> Result<()> {
    eventually("every way is shut", SOON, || {
        let (answers, _) = ask(cluster, 1, "/secret/settling")?;
        ensure!(!answers.contains_key("200"), "{answers:?}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Asks so often by each way, and looks at the vault itself whether anybody came through.
pub(crate) fn fire(cluster: &Cluster, each: u32, tag: &str) -> Result<()> {
    let (answers, all) = ask(cluster, each, &format!("/secret/{tag}"))?;
    FIRED.fetch_add(all, Ordering::Relaxed);
    println!("      {tag}: {all} requests, answers {answers:?}");
    ensure!(answers.keys().all(|code| ["000", "403", "503"].contains(&code.as_str())), "{answers:?}");
    none_reached(cluster, tag)
}

fn none_reached(cluster: &Cluster, tag: &str) -> Result<()> {
    for (pod, _) in PODS {
        let count = reached(cluster, pod, &format!("/secret/{tag}"))?;
        ensure!(count == 0, "{count} requests of {tag} reached {pod}");
    }
    Ok(())
}

/// Goes on asking by each way while something else is done.
pub(crate) fn fire_while<T>(cluster: &Cluster, tag: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    let (asked, done) = std::thread::scope(|scope| {
        let shots = scope.spawn(|| -> Result<(Answers, u64)> {
            let (mut answers, mut all) = (Answers::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let (these, count) = ask(cluster, 10, &format!("/secret/{tag}"))?;
                these.into_iter().for_each(|(code, n)| *answers.entry(code).or_default() += n);
                all += count;
            }
            Ok((answers, all))
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (shots.join(), done)
    });
    let (answers, all) = asked.map_err(|_| anyhow::anyhow!("whoever asked has panicked"))??;
    let done = done?;
    FIRED.fetch_add(all, Ordering::Relaxed);
    println!("      {tag}: {all} requests, answers {answers:?}");
    ensure!(all > 0 && !answers.contains_key("200"), "{answers:?}");
    none_reached(cluster, tag)?;
    Ok(done)
}

/// What one request by one caller is answered with: its status, 000 for none.
pub(crate) fn status(cluster: &Cluster, from: &str, url: &str) -> Result<String> {
    shop::in_pod(cluster, from, &format!("curl -s -m 8 -o /dev/null -w '%{{http_code}}' '{url}' || true"))
}

/// Waits for this status.
pub(crate) fn until_status(cluster: &Cluster, from: &str, url: &str, wanted: &str) -> Result<()> {
    eventually(&format!("{from} gets {wanted} from {url}"), SOON, || {
        let said = status(cluster, from, url)?;
        ensure!(said == wanted, "{said}");
        anyhow::Ok(())
    })?;
    Ok(())
}

//! Who is who: addresses that change hands, and policies that cannot be read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::attack::folder;
use e2e_lab::load::{Load, call};
use e2e_lab::{eventually, flows, pause, program, unix_ms};
use lab::{Lab, Pod};

pub(crate) fn pod(name: &str, node: &str, serves: bool) -> Result<Pod> {
    let load = program("e2e-load")?.display().to_string();
    let command = if serves {
        format!(", command: [{load}, serve, {name}, '7000'], ready: {{tcp: 7000}}")
    } else {
        String::new()
    };
    let text = format!(
        "{{name: x, nodes: [{{name: {node}}}], pods: [{{name: {name}, namespace: a, node: {node}{command}}}]}}"
    );
    let mut spec = lab::Spec::parse("pod.yaml", &text)?;
    spec.pods.pop().context("a pod")
}

pub(crate) fn destination_replaced(lab: &Lab) -> Result<()> {
    lab.add_pod(pod("old", "n2", true)?)?;
    let address = lab.plan().pod("old")?.addresses[0];
    let mut load = Load::calls_to(lab, "client", address, "whose-address", 2)?;
    load.works(true, Duration::from_secs(5))?;
    pause(Duration::from_millis(300));
    let mut rounds = 0;
    let mut name = "old".to_owned();
    for next in ["new", "newer"] {
        let since = unix_ms();
        lab.remove_pod(&name)?;
        lab.add_pod(pod(next, "n2", true)?)?;
        ensure!(lab.plan().pod(next)?.addresses[0] == address, "{next} has another address: the check checks nothing");
        load.works_again(since, Duration::from_secs(10)).with_context(|| format!("{next} is not reached"))?;
        // Time for calls on the tunnel that has just been made.
        pause(Duration::from_millis(300));
        name = next.to_owned();
        rounds += 1;
    }
    let seen = load.finish()?;
    println!("          {rounds} changes of hands; {seen}; answers by name: {:?}", seen.names);
    for name in ["old", "new", "newer"] {
        ensure!(seen.names.contains_key(name), "{name} never answered: {seen:?}");
    }
    // What the caller's proxy believed of each connection that was opened to the address: who it was proven to be.
    let mut by_identity = std::collections::BTreeMap::<String, usize>::new();
    for flow in flows(lab, "n1")? {
        let (pod, identity) = (&flow["destination"]["pod"], &flow["destination"]["identity"]);
        if let (Some(pod @ ("old" | "new" | "newer")), Some(identity)) = (pod.as_str(), identity.as_str()) {
            ensure!(identity.ends_with(&format!("/sa/{pod}")), "{pod} was {identity}: {flow}");
            *by_identity.entry(identity.to_owned()).or_default() += 1;
        }
    }
    println!("          flows by proven identity: {by_identity:?}");
    ensure!(by_identity.len() == 3, "not all of them are in the flows: {by_identity:?}");
    lab.remove_pod(&name)?;
    Ok(())
}

pub(crate) fn source_replaced(lab: &Lab) -> Result<()> {
    // The client may call `guarded`; whoever gets its address may not.
    let address = lab.plan().pod("client")?.addresses[0];
    ensure!(call(lab, "client", "guarded", "the-client")?, "the client itself may not");
    let client = lab.plan().pod("client")?.pod.clone();
    lab.remove_pod("client")?;
    lab.add_pod(pod("heir", "n1", false)?)?;
    let same = lab.plan().pod("heir")?.addresses[0] == address;
    let mut answers = 0;
    for _ in 0..200 {
        answers += usize::from(call(lab, "heir", "guarded", "the-heir")?);
    }
    let may = call(lab, "heir", "server", "the-heir")?;
    lab.remove_pod("heir")?;
    lab.add_pod(client)?;
    let again = call(lab, "client", "guarded", "the-client")?;
    println!("          200 calls of the heir: {answers} answered by the guarded pod; to another server: {may}");
    ensure!(same, "the heir has another address: the check checks nothing");
    ensure!(answers == 0, "the heir was taken for the client");
    ensure!(may && again, "unguarded: {may}, the client after its return: {again}");
    Ok(())
}

pub(crate) fn broken_file(lab: &Lab) -> Result<()> {
    let file = folder(lab)?.join("discovery.yaml");
    let good = std::fs::read_to_string(&file)?;
    lab.add_pod(pod("stranger", "n1", false)?)?;
    let good_now = std::fs::read_to_string(&file)?;
    let verdicts = || -> Result<(bool, bool)> {
        Ok((call(lab, "client", "guarded", "may")?, call(lab, "stranger", "guarded", "may-not")?))
    };
    ensure!(verdicts()? == (true, false), "before: {:?}", verdicts()?);
    let broken = [
        ("no YAML", "policies: [".to_owned()),
        ("empty", String::new()),
        ("a policy of an unknown action", good_now.replace("\"Allow\"", "\"Perhaps\"")),
        ("a rule with an unknown match", good_now.replace("principals:", "principles:")),
    ];
    for (what, text) in &broken {
        ensure!(*text != good_now, "{what}: nothing was broken");
        let log = lab.log_path("n2/ztunnel-1").or_else(|_| lab.log_path("n2/ztunnel-2"))?;
        let log = newest_log(&log)?;
        let before = std::fs::read_to_string(&log)?.len();
        replace(&file, text)?;
        let said = eventually(Duration::from_secs(5), || {
            let all = std::fs::read_to_string(&log)?;
            let new = all.get(before..).unwrap_or_default();
            let line = new.lines().find(|l| l.contains("discovery.yaml") || l.contains("localFile"));
            Ok(line.context("the proxy says nothing of it")?.to_owned())
        })
        .with_context(|| (*what).to_owned())?;
        let now = verdicts()?;
        ensure!(now == (true, false), "{what}: (client, stranger) = {now:?}");
        println!("          {what}: {}", said.chars().skip(25).take(150).collect::<String>());
    }
    replace(&file, &good_now)?;
    lab.remove_pod("stranger")?;
    drop(good);
    let after = call(lab, "client", "guarded", "may")?;
    ensure!(after, "after the file was mended the client may not");
    Ok(())
}

/// The log of the last generation: earlier checks may have begun a second one.
fn newest_log(of_first: &std::path::Path) -> Result<std::path::PathBuf> {
    let folder = of_first.parent().context("a folder")?;
    let logs = std::fs::read_dir(folder)?.filter_map(|e| e.ok().map(|e| e.path()));
    let of_node = logs.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("n2-ztunnel-")));
    of_node.max().context("a log of n2's proxy")
}

fn replace(file: &std::path::Path, text: &str) -> Result<()> {
    let beside = file.with_extension("next");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, file)?)
}

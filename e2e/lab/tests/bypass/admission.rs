//! Who may be a proxy: what is admitted at the node agent's hand-over socket gets the network namespaces of pods and is not
//! captured itself, so nobody who lives in a pod may be.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::attack::{Attack, Who, folder};
use e2e_lab::eventually;
use lab::Lab;
use serde_json::{Value, json};

use crate::doors::call;

/// The sockets of n1's agent: the proxy's own, and one that waits for a later generation.
fn sockets(lab: &Lab) -> Result<[PathBuf; 2]> {
    let node = folder(lab)?.join("node").join("n1");
    Ok(["zds-1.sock", "zds-2.sock"].map(|name| node.join(name)))
}

/// Says hello there; what the attacker got.
fn hello(lab: &Lab, who: Who, args: &[String]) -> Result<Value> {
    let attack = Attack { vector: "hand-over", pod: "vandal", who, marker: "proxy", targets: &[] };
    let done = attack.finished(lab, args)?;
    let line = done.text().lines().last().unwrap_or_default().to_owned();
    serde_json::from_str(&line).with_context(|| format!("{line} {}", done.errors()))
}

fn agent_log(lab: &Lab) -> Result<String> {
    Ok(std::fs::read_to_string(lab.log_path("n1/agent")?)?)
}

/// Tries all sockets; each time the agent has understood who it was, and nothing was given away.
fn refused(lab: &Lab, hidden: &[String]) -> Result<()> {
    let proxies = |lab: &Lab| -> Result<Value> { Ok(lab.agent_admin("n1", "/status")?.json()?["proxies"].clone()) };
    let before = proxies(lab)?;
    for socket in sockets(lab)? {
        let read = agent_log(lab)?.len();
        let mut args = vec![socket.display().to_string()];
        args.extend_from_slice(hidden);
        let got = hello(lab, Who::Root, &args)?;
        ensure!(got == json!({"bytes": 0, "descriptors": 0}), "{}: got {got}", socket.display());
        eventually(Duration::from_secs(2), || {
            let log = agent_log(lab)?;
            let new = log.get(read..).unwrap_or_default();
            let why = "a process of captured pod a/vandal lives in its cgroup";
            ensure!(new.contains("cannot be admitted") && new.contains(why), "the agent said: {new}");
            Ok(())
        })?;
    }
    ensure!(proxies(lab)? == before, "the proxies were {before} and are {}", proxies(lab)?);
    let still = call(lab, "vandal", "server", "still-captured")?;
    ensure!(still["works"] == true, "{still}");
    Ok(())
}

pub(crate) fn from_a_pod(lab: &Lab) -> Result<()> {
    refused(lab, &[])
}

pub(crate) fn hidden(lab: &Lab) -> Result<()> {
    // The pod's application, which stays where it is.
    let place = lab.pod("vandal")?;
    let application = place.command("sleep").args(["60"]).spawn()?;
    let cgroup = place.cgroup().join("hidden");
    let result = refused(lab, &[cgroup.display().to_string()]);
    application.kill();
    result
}

pub(crate) fn any_user(lab: &Lab) -> Result<()> {
    for socket in sockets(lab)? {
        let got = hello(lab, Who::Nobody, &[socket.display().to_string()])?;
        ensure!(got == json!({"error": "EACCES"}), "{}: got {got}", socket.display());
    }
    Ok(())
}

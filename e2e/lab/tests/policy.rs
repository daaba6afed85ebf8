//! L4 policy on real connections: allowed, denied and explained, withdrawn within a second.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, program, until_cut};
use lab::{Lab, Options, Spec};

const LAB: &str = "
name: policy
nodes: [{name: n1}, {name: n2}]
pods:
- {name: gateway, namespace: shop, node: n1}
- {name: web, namespace: shop, node: n1}
- {name: plain, namespace: shop, node: n1, mesh: false}
- {name: recommender, namespace: shop, node: n2, policies: [shop/only-gateway], command: [PEER, serve], ready: {tcp: 9001}}
- {name: open, namespace: shop, node: n2, command: [PEER, serve], ready: {tcp: 9001}}
services:
- {name: recommender, namespace: shop, ports: {9001: 9001, 9002: 9002}, pods: [recommender]}
- {name: open, namespace: shop, ports: {9001: 9001, 9002: 9002}, pods: [open]}
policies: POLICIES
";

const ONLY_GATEWAY: &str = "{name: only-gateway, namespace: shop, scope: WorkloadSelector, action: Allow, \
    rules: [[[{principals: [{Exact: cluster.local/ns/shop/sa/gateway}]}]]]}";
const DENY_GATEWAY: &str = "{name: no-gateway, namespace: shop, scope: Namespace, action: Deny, \
    rules: [[[{principals: [{Exact: cluster.local/ns/shop/sa/gateway}]}]]]}";

fn spec(policies: &str) -> Result<Spec> {
    let peer = program("e2e-peer")?.display().to_string();
    Ok(Spec::parse("policy.yaml", &LAB.replace("PEER", &peer).replace("POLICIES", policies))?)
}

fn allowed(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    let ip = if lab.plan().pod(from)?.pod.mesh {
        lab.plan().services.iter().find(|s| s.service.name == to).context("service")?.vips[0]
    } else {
        lab.plan().pod(to)?.addresses[0]
    };
    let done = lab
        .pod(from)?
        .command(&program("e2e-peer")?.display().to_string())
        .args(["call", "banner", &ip.to_string()])
        .output()?;
    ensure!(done.success(), "{}", done.errors());
    Ok(!done.text().contains("error"))
}

#[test]
fn identity_decides_and_says_why() {
    let mut checks = Checks::new();
    let lab = Lab::up(&spec(&format!("[{ONLY_GATEWAY}]")).unwrap(), &Options::default()).unwrap();
    checks.check("the gateway may", || {
        ensure!(allowed(&lab, "gateway", "recommender")?, "refused");
        Ok(())
    });
    checks.check("web may not", || {
        ensure!(!allowed(&lab, "web", "recommender")?, "let through");
        Ok(())
    });
    checks.check("a pod outside the mesh may not", || {
        ensure!(!allowed(&lab, "plain", "recommender")?, "let through");
        Ok(())
    });
    checks.check("without a policy everybody may", || {
        ensure!(allowed(&lab, "web", "open")? && allowed(&lab, "plain", "open")?, "refused");
        Ok(())
    });
    checks.check("the denial names the rule and the nearest miss", || {
        let all = e2e_lab::flows(&lab, "n2")?;
        let denied =
            all.iter().find(|f| f["outcome"] == "policy_denied" && f["source"]["identity"] != serde_json::Value::Null);
        let miss = denied.context("no denied flow")?["nearest_miss"].to_string();
        ensure!(miss.contains("only-gateway") && miss.contains("sa/gateway") && miss.contains("sa/web"), "{miss}");
        Ok(())
    });
    checks.check("a policy that forbids a live connection cuts it within 1 s, and no other", || withdrawal(&lab));
    lab.down().unwrap();
    checks.finish();
}

/// Holds two connections open, forbids one of them.
fn withdrawal(lab: &Lab) -> Result<()> {
    let hold = |from: &str, to: &str| -> Result<lab::Running> {
        let vip = lab.plan().services.iter().find(|s| s.service.name == to).context("service")?.vips[0];
        // Reads the banner, then waits for the end of the connection.
        let script = format!(
            "exec 3<>/dev/tcp/{vip}/9002; head -c 10 <&3 >/dev/null; echo open; cat <&3 >/dev/null; echo ended"
        );
        Ok(lab.pod(from)?.command("bash").args(["-c", &script]).timeout(Duration::from_secs(60)).spawn()?)
    };
    let mut victim = hold("gateway", "recommender")?;
    let mut other = hold("web", "open")?;
    for running in [&mut victim, &mut other] {
        let mut first = [0; 5];
        std::io::Read::read_exact(running.stdout().as_mut().context("stdout")?, &mut first)?;
    }
    lab.set_policies(spec(&format!("[{ONLY_GATEWAY}, {DENY_GATEWAY}]"))?.policies)?;
    until_cut(&victim)?;
    ensure!(other.alive(), "a connection that is allowed was cut");
    lab.set_policies(spec(&format!("[{ONLY_GATEWAY}]"))?.policies)?;
    Ok(())
}

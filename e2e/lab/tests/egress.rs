//! What a pod may dial (egress NetworkPolicies as control lowers them), on real connections: allowed, denied and explained at
//! the source, changed while connections live, on one node, to addresses outside and through a waypoint.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, eventually, program, until_cut};
use lab::{Lab, Options, Running, Spec};
use serde_json::Value;

/// `web` and `other` are alike, but only `web` is restricted. `infra` is no pod, and discovery does not know it.
const LAB: &str = "
name: egress-SAMENODE
sameNode: SAMENODE
nodes: [{name: n1}, {name: n2}]
waypoints: [{name: wp, namespace: shop, node: n2}]
pods:
- {name: web, namespace: shop, node: n1, egress: [shop/culvert_network_policy_egress__out], command: [PEER, serve], ready: {tcp: 9001}}
- {name: other, namespace: shop, node: n1}
- {name: near, namespace: shop, node: n1, command: [PEER, serve], ready: {tcp: 9001}}
- {name: db, namespace: shop, node: n2, command: [PEER, serve], ready: {tcp: 9001}}
- {name: db2, namespace: shop, node: n2, command: [PEER, serve], ready: {tcp: 9001}}
- {name: plain, namespace: shop, node: n2, mesh: false, command: [PEER, serve], ready: {tcp: 9001}}
services:
- {name: self, namespace: shop, ports: {9001: 9001, 9002: 9002}, pods: [web]}
- {name: near, namespace: shop, ports: {9001: 9001, 9002: 9002}, pods: [near]}
- {name: db, namespace: shop, ports: {80: 9001, 81: 9002}, pods: [db]}
- {name: db2, namespace: shop, ports: {80: 9001, 81: 9002}, pods: [db2]}
- {name: chosen, namespace: shop, ports: {81: 9002}, pods: [db, db2], waypoint: wp, protocol: tcp}
policies: POLICIES
";

/// Key of the policy.
const POLICY: &str = "culvert_network_policy_egress__out";
/// Port of `e2e-peer` that says which addresses it sees.
const WHO: u16 = 9001;
/// Port of `e2e-peer` that talks first and then repeats what it hears.
const BANNER: u16 = 9002;

/// A DENY of everything but these addresses on this port, as control writes it; none at all is "deny all".
fn only(lets: &[(IpAddr, u16)]) -> String {
    let clause =
        |(ip, port): &(IpAddr, u16)| format!("[{{notDestinationIps: ['{ip}']}}, {{notDestinationPorts: [{port}]}}]");
    let clauses: Vec<String> = lets.iter().map(clause).collect();
    format!(
        "[{{name: {POLICY}, namespace: shop, scope: WorkloadSelector, action: Deny, rules: [[{}]]}}]",
        clauses.join(", ")
    )
}

fn spec(same_node: &str, policies: &str) -> Result<Spec> {
    let peer = program("e2e-peer")?.display().to_string();
    let text = LAB.replace("SAMENODE", same_node).replace("PEER", &peer).replace("POLICIES", policies);
    Ok(Spec::parse("egress.yaml", &text)?)
}

/// A lab, and what is in it.
struct Scene {
    lab: Lab,
    same_node: &'static str,
}

impl Scene {
    fn pod(&self, name: &str) -> Result<IpAddr> {
        Ok(self.lab.plan().pod(name)?.addresses[0])
    }

    fn service(&self, name: &str) -> Result<IpAddr> {
        let plan = self.lab.plan();
        Ok(plan.services.iter().find(|s| s.service.name == name).context("service")?.vips[0])
    }

    /// Puts the policy in force.
    fn lets_out(&self, lets: &[(IpAddr, u16)]) -> Result<()> {
        Ok(self.lab.set_policies(spec(self.same_node, &only(lets))?.policies)?)
    }

    /// One call.
    fn call(&self, from: &str, mode: &str, to: IpAddr, port: u16) -> Result<Value> {
        let peer = program("e2e-peer")?.display().to_string();
        let (to, port) = (to.to_string(), port.to_string());
        let done = self.lab.pod(from)?.command(&peer).args(["call", mode, &to, "--port", &port]).output()?;
        ensure!(done.success(), "{}", done.errors());
        serde_json::from_str(&done.text()).with_context(|| format!("not JSON: {}", done.text()))
    }

    fn may(&self, from: &str, to: IpAddr, port: u16) -> Result<()> {
        let mode = if port == WHO || port == 80 { "who" } else { "banner" };
        let seen = self.call(from, mode, to, port)?;
        ensure!(seen.get("error").is_none(), "{from} to {to}:{port}: {}", seen["error"]);
        Ok(())
    }

    /// Refused, and at once.
    fn may_not(&self, from: &str, to: IpAddr, port: u16) -> Result<()> {
        let seen = self.call(from, "who", to, port)?;
        let kind = seen["kind"].as_str().unwrap_or("none").to_owned();
        ensure!(
            kind.contains("ConnectionReset") || kind.contains("ConnectionRefused"),
            "{from} to {to}:{port}: {seen}"
        );
        ensure!(seen["ms"].as_u64().unwrap_or(u64::MAX) < 1_000, "it took {} ms", seen["ms"]);
        Ok(())
    }

    /// After a change: what is asked holds within a second.
    fn soon(&self, ask: impl FnMut() -> Result<()>) -> Result<()> {
        eventually(Duration::from_secs(1), ask)
    }

    /// Opens a connection that waits for its end.
    fn hold(&self, from: &str, to: IpAddr, port: u16) -> Result<Running> {
        let script = format!(
            "exec 3<>/dev/tcp/{to}/{port}; head -c 10 <&3 >/dev/null; echo open; cat <&3 >/dev/null; echo ended"
        );
        let command = self.lab.pod(from)?.command("bash").args(["-c", &script]).timeout(Duration::from_secs(60));
        let mut running = command.spawn()?;
        let mut first = [0; 5];
        running.stdout().as_mut().context("stdout")?.read_exact(&mut first)?;
        Ok(running)
    }

    /// `change` cuts `victim` within a second, and not `others`.
    fn cuts(&self, victim: Running, others: Vec<Running>, change: &[(IpAddr, u16)]) -> Result<()> {
        self.lets_out(change)?;
        until_cut(&victim)?;
        for other in others {
            ensure!(other.alive(), "a connection that is allowed was cut");
        }
        Ok(())
    }

    /// The flows of `web` as its own node tells them.
    fn flows(&self) -> Result<Vec<Value>> {
        let all = e2e_lab::flows(&self.lab, "n1")?;
        Ok(all.into_iter().filter(|f| f["direction"] == "outbound" && f["source"]["workload"] == "web").collect())
    }
}

fn run(same_node: &'static str) {
    let lab = Lab::up(&spec(same_node, &only(&[])).unwrap(), &Options::default()).unwrap();
    let scene = Scene { lab, same_node };
    let mut checks = Checks::new();
    closed(&scene, &mut checks);
    open(&scene, &mut checks);
    live(&scene, &mut checks);
    outside(&scene, &mut checks);
    waypoint(&scene, &mut checks);
    if checks.failures() > 0 {
        println!("{:#?}", scene.flows());
    }
    scene.lab.down().unwrap();
    checks.finish();
}

/// Nothing is let out.
fn closed(scene: &Scene, checks: &mut Checks) {
    for (name, pod) in [("of another node", "db"), ("of its own node", "near"), ("outside the mesh", "plain")] {
        checks.check(&format!("deny all: not to a pod {name}"), || {
            scene.may_not("web", scene.pod(pod)?, WHO)?;
            scene.may("other", scene.pod(pod)?, WHO)
        });
    }
    checks.check("deny all: not to a service, not to a waypoint's either", || {
        scene.may_not("web", scene.service("db")?, 80)?;
        scene.may_not("web", scene.service("chosen")?, 81)
    });
    checks.check("deny all: a pod reaches itself by its service", || scene.may("web", scene.service("self")?, WHO));
    checks.check("deny all: who is let in is not asked", || scene.may("other", scene.pod("web")?, WHO));
    checks.check("the denial is a flow of the source that names the policy", || {
        let db = scene.pod("db")?;
        scene.soon(|| {
            let all = scene.flows()?;
            let denied = all.iter().find(|f| f["destination"]["workload"] == "db" && f["outcome"] == "policy_denied");
            let denied = denied.with_context(|| format!("no such flow in {all:#?}"))?;
            let said = format!("egress to {db}:{WHO} is not let out by shop/{POLICY}");
            ensure!(denied["error"] == said.as_str(), "{denied:#?}");
            ensure!(denied["rule"] == format!("shop/{POLICY}").as_str(), "{denied:#?}");
            Ok(())
        })
    });
    checks.check("it is a metric of the source, and nobody else has seen anything", || {
        let metrics = scene.lab.ztunnel_metrics("n1")?;
        let line = |l: &&str| {
            l.starts_with("culvert_connections_total")
                && l.contains("policy_denied")
                && l.contains("reporter=\"source\"")
        };
        ensure!(metrics.lines().any(|l| line(&l)), "no line of it in\n{metrics}");
        let seen = e2e_lab::flows(&scene.lab, "n2")?;
        let of_web = seen.iter().find(|f| f["source"]["workload"] == "web");
        ensure!(of_web.is_none(), "{of_web:#?}");
        Ok(())
    });
}

/// One port of some destinations is let out.
fn open(scene: &Scene, checks: &mut Checks) {
    checks.check("what is let out from now on works at once: by address and by service", || {
        scene.lets_out(&[(scene.pod("db")?, BANNER), (scene.pod("near")?, BANNER), (scene.pod("plain")?, BANNER)])?;
        scene.soon(|| scene.may("web", scene.pod("db")?, BANNER))?;
        scene.may("web", scene.service("db")?, 81)?;
        scene.may("web", scene.pod("near")?, BANNER)?;
        scene.may("web", scene.service("near")?, BANNER)?;
        scene.may("web", scene.pod("plain")?, BANNER)
    });
    checks.check("another port does not, and another pod does not", || {
        scene.may_not("web", scene.pod("db")?, WHO)?;
        scene.may_not("web", scene.service("db")?, 80)?;
        scene.may_not("web", scene.pod("near")?, WHO)?;
        scene.may_not("web", scene.pod("plain")?, WHO)?;
        scene.may_not("web", scene.service("db2")?, 81)
    });
    checks.check("the denial says what is closest", || {
        scene.soon(|| {
            let all = scene.flows()?;
            let miss =
                |f: &&Value| f["nearest_miss"].as_str().is_some_and(|m| m.contains("destination_ports want 9002"));
            all.iter().find(miss).with_context(|| format!("no such flow in {all:#?}"))?;
            Ok(())
        })
    });
}

/// Connections that live while the policy changes.
fn live(scene: &Scene, checks: &mut Checks) {
    checks.check("what is not let out any more is cut, and nothing else", || {
        let (db, near) = (scene.pod("db")?, scene.pod("near")?);
        let victim = scene.hold("web", db, BANNER)?;
        let others = vec![scene.hold("other", db, BANNER)?, scene.hold("web", near, BANNER)?];
        scene.cuts(victim, others, &[(near, BANNER)])?;
        scene.may_not("web", db, BANNER)
    });
    checks.check("on one node too", || {
        let (db, near) = (scene.pod("db")?, scene.pod("near")?);
        scene.lets_out(&[(db, BANNER), (near, BANNER)])?;
        scene.soon(|| scene.may("web", db, BANNER))?;
        let victim = scene.hold("web", near, BANNER)?;
        let others = vec![scene.hold("web", db, BANNER)?];
        scene.cuts(victim, others, &[(db, BANNER)])
    });
    checks.check("the cut is a flow that says why", || {
        scene.soon(|| {
            let all = scene.flows()?;
            let cut = |f: &&Value| f["outcome"] == "policy_withdrawn" && f["destination"]["workload"] == "near";
            let found = all.iter().find(cut).with_context(|| format!("no such flow in {all:#?}"))?;
            ensure!(found["error"].as_str().is_some_and(|e| e.contains(POLICY)), "{found:#?}");
            Ok(())
        })
    });
    checks.check("a policy that is gone restricts nobody", || {
        scene.lab.set_policies(Vec::new())?;
        scene.soon(|| scene.may("web", scene.pod("near")?, WHO))
    });
    checks.check("a policy that comes cuts what lives", || {
        let (db, near) = (scene.pod("db")?, scene.pod("near")?);
        let victim = scene.hold("web", db, BANNER)?;
        let others = vec![scene.hold("web", near, BANNER)?];
        scene.cuts(victim, others, &[(near, BANNER)])
    });
}

/// Addresses that are no pods'.
fn outside(scene: &Scene, checks: &mut Checks) {
    let Ok(peer) = program("e2e-peer") else { return checks.check("e2e-peer", || anyhow::bail!("not built")) };
    let plan = scene.lab.plan();
    let infra = plan.infra()[0];
    let nodes: Vec<IpAddr> = plan.nodes.iter().map(|n| n.addresses[0]).collect();
    let places = [scene.lab.infra(), scene.lab.node("n1").unwrap(), scene.lab.node("n2").unwrap()];
    let servers: Result<Vec<Running>, _> =
        places.iter().map(|p| p.command(&peer.display().to_string()).args(["serve"]).spawn()).collect();
    let _servers = servers.unwrap();
    checks.check("they answer whoever is not restricted", || {
        for ip in [infra, nodes[0], nodes[1]] {
            eventually(Duration::from_secs(5), || scene.may("other", ip, WHO))?;
        }
        Ok(())
    });
    checks.check("its own node is exempt, another one is not, nor is an address outside", || {
        scene.may("web", nodes[0], WHO)?;
        scene.may_not("web", nodes[1], WHO)?;
        scene.may_not("web", infra, WHO)
    });
    checks.check("an address outside is let out by port", || {
        scene.lets_out(&[(infra, BANNER)])?;
        scene.soon(|| scene.may("web", infra, BANNER))?;
        scene.may_not("web", infra, WHO)
    });
    checks.check("and cut when it is not let out any more", || {
        let victim = scene.hold("web", infra, BANNER)?;
        scene.cuts(victim, Vec::new(), &[(infra, WHO)])
    });
}

/// Where a waypoint chooses.
fn waypoint(scene: &Scene, checks: &mut Checks) {
    checks.check("through a waypoint: refused while one of the endpoints is not let out", || {
        scene.lets_out(&[(scene.pod("db")?, BANNER)])?;
        scene.soon(|| scene.may("web", scene.pod("db")?, BANNER))?;
        scene.may("other", scene.service("chosen")?, 81)?;
        scene.may_not("web", scene.service("chosen")?, 81)
    });
    checks.check("through a waypoint: let out when all are, and cut when one is not any more", || {
        let (db, db2) = (scene.pod("db")?, scene.pod("db2")?);
        scene.lets_out(&[(db, BANNER), (db2, BANNER)])?;
        scene.soon(|| scene.may("web", scene.service("chosen")?, 81))?;
        let victim = scene.hold("web", scene.service("chosen")?, 81)?;
        let others = vec![scene.hold("web", db, BANNER)?, scene.hold("other", scene.service("chosen")?, 81)?];
        scene.cuts(victim, others, &[(db, BANNER)])
    });
    checks.check("the waypoint's own address need not be let out", || {
        let vias = scene.flows()?;
        ensure!(
            vias.iter().any(|f| f["destination"]["workload"] == "wp" && f["outcome"] != "policy_denied"),
            "{vias:#?}"
        );
        Ok(())
    });
}

#[test]
fn what_a_pod_dials_is_judged_at_its_own_node() {
    run("mtls");
}

#[test]
fn and_so_it_is_where_pods_of_one_node_talk_directly() {
    run("direct");
}

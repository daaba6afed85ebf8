//! The bypass table: whatever root in a meshed pod, or a peer on the network, tries, no byte leaves in clear and none
//! passes a policy. Each vector also shows that it was really tried; see [`vectors::Proof`].

use anyhow::Result;
use e2e_lab::{Checks, attack, program};
use lab::{Lab, Options, Spec};

#[path = "bypass/admission.rs"]
mod admission;
#[path = "bypass/doors.rs"]
mod doors;
#[path = "bypass/faults.rs"]
mod faults;
#[path = "bypass/tunnels.rs"]
mod tunnels;
#[path = "bypass/vectors.rs"]
mod vectors;

const LAB: &str = "
name: bypass
workers: 1
nodes: [{name: n1}, {name: n2}]
pods:
- {name: attacker, namespace: a, node: n1}
- {name: vandal, namespace: a, node: n1}
- {name: gateway, namespace: a, node: n1}
- {name: free, namespace: a, node: n1, mesh: false}
- {name: friend, namespace: a, node: n2}
- {name: server, namespace: a, node: n2, command: [LOAD, serve, server, '7000', --record], ready: {tcp: 7000}}
- {name: protected, namespace: a, node: n2, policies: [a/only-gateway], command: [LOAD, serve, protected, '7000', --record]}
- {name: plain, namespace: a, node: n2, mesh: false, command: [LOAD, serve, plain, '7000', --record], ready: {tcp: 7000}}
policies:
- {name: only-gateway, namespace: a, scope: WorkloadSelector, action: Allow, rules: [[[{principals: [{Exact: cluster.local/ns/a/sa/gateway}]}]]]}
";

fn up() -> Result<Lab> {
    let load = program("e2e-load")?.display().to_string();
    let mut spec = Spec::parse("bypass.yaml", &LAB.replace("LOAD", &load))?;
    for pod in &mut spec.pods {
        pod.files = attack::files();
    }
    Ok(Lab::up(&spec, &Options { keep: std::env::var_os("KEEP").is_some(), ..Options::default() })?)
}

/// A check that is more than one attack.
type Named = (&'static str, fn(&Lab) -> Result<()>);

#[test]
fn nothing_gets_around_the_mesh() {
    let mut checks = Checks::new();
    let lab = up().unwrap();
    let wanted = std::env::var("VECTOR").unwrap_or_default();
    for (number, vector) in vectors::TABLE.iter().enumerate().filter(|(_, v)| v.name.contains(&wanted)) {
        checks.check(vector.name, || {
            let result = vectors::check(&lab, number, vector);
            if vector.spoils {
                doors::repaired(&lab)?;
            }
            result
        });
    }
    let more: &[Named] = &[
        ("the gateway itself may, so that the policy is no wall", doors::control),
        ("tcp_fwmark_accept switched off in the server's pod", doors::server_without_mark),
        ("rules flushed in the server's pod after accept", doors::server_rules_flushed),
        ("NAT in the pod leads the proxy's own connection to the wire", doors::hijack),
        ("stated rule: UDP passes and is counted", doors::datagrams),
        ("an app listens on 15001, 15006, 15008 with SO_REUSEPORT", doors::thief),
        ("a remote host walks 4 000 source ports", doors::walk),
        ("unknown address in a pod network", doors::unknown_address),
        ("HBONE: authorities that are not the pod", tunnels::authorities),
        ("HBONE: an identity claimed by headers", tunnels::claimed_identity),
        ("a pod's process at the hand-over socket", admission::from_a_pod),
        ("a pod's process at the hand-over socket, hidden in a cgroup and a network of its own", admission::hidden),
        ("any user of a pod at the hand-over socket", admission::any_user),
        ("the authority signs only for the node's own pods", tunnels::other_nodes_identity),
        ("un-enrolment in the middle of a connection", faults::unenrolment),
        ("agent killed", faults::agent_killed),
        ("proxy killed: connect is refused at once", faults::proxy_killed),
        ("the server's proxy killed: nothing comes in", faults::server_proxy_killed),
    ];
    for (name, check) in more.iter().filter(|(name, _)| name.contains(&wanted)) {
        checks.check(name, || check(&lab));
    }
    if std::env::var_os("KEEP").is_none() {
        lab.down().unwrap();
    }
    checks.finish();
}

//! The checks: facts in, lines out.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::ResourceExt;
use kubernetes::object::crds;

use super::facts::Facts;
use super::{Line, State, authority, networks, reach, waypoints};
use crate::enroll;

/// Oldest Kubernetes that has what we use: sidecar containers aside, server-side apply and bound tokens with node claims
/// (1.30: `authentication.kubernetes.io/node-name`).
const KUBERNETES: (u32, u32) = (1, 30);

/// Oldest kernel with tcx links (6.6) is preferred, with the fall-back 5.17 (`ingress_ifindex` of sk_lookup).
const KERNEL: (u32, u32) = (5, 17);

/// Certificates are valid from two minutes before they are made (ca.md 3): a clock that differs by more refuses them.
const SKEW_SECONDS: i64 = 120;

/// A kubelet renews its lease every 10 s and has 40 s until its node is not ready (Kubernetes' defaults).
const LEASE_SECONDS: i64 = 40;

/// All lines, by group.
pub(crate) fn judge(facts: &Facts, pre: bool) -> Vec<Line> {
    let mut lines = vec![version(facts), definitions(facts, pre), clock(facts)];
    lines.extend(facts.nodes.iter().filter(|node| reach::concerns(node, facts)).map(kernel));
    lines.extend(facts.nodes.iter().filter_map(|node| node_clock(node, facts)));
    if facts.istiod {
        lines.push(Line {
            id: "cluster.istiod",
            state: State::Warn,
            what: "an istiod is in this cluster".to_owned(),
            remedy: "read docs/beside-istio.md; objects with Istio's names are left to it".to_owned(),
        });
    }
    lines.extend(waypoints::version(&facts.waypoints));
    if !pre {
        lines.extend(waypoints::lines(&facts.waypoints));
        lines.extend(["culvert-ca", "culvert-control"].map(|name| deployment(facts, name)));
        let nodes = facts.nodes.iter().filter(|node| reach::concerns(node, facts));
        lines.extend(nodes.flat_map(|node| programs(node, facts)));
        lines.push(versions(facts));
        lines.extend(authority::roots(facts));
        lines.push(networks::line(facts));
        lines.extend(enrolled(facts));
        lines.extend(tunnels(facts));
    }
    // Together what belongs together, in the order of what stands on what.
    let order = ["cluster", "node", "ca", "control", "mesh", "waypoint"];
    lines.sort_by_key(|line| order.iter().position(|group| *group == line.group()));
    lines
}

pub(super) fn ok(id: &'static str, what: impl Into<String>) -> Line {
    Line { id, state: State::Ok, what: what.into(), remedy: String::new() }
}

pub(super) fn fail(id: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Line {
    Line { id, state: State::Fail, what: what.into(), remedy: remedy.into() }
}

pub(super) fn warn(id: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Line {
    Line { id, state: State::Warn, what: what.into(), remedy: remedy.into() }
}

fn version(facts: &Facts) -> Line {
    let id = "cluster.version";
    let (major, minor) = facts.version;
    if facts.version >= KUBERNETES {
        ok(id, format!("Kubernetes {major}.{minor}"))
    } else {
        fail(
            id,
            format!("Kubernetes {major}.{minor} is too old"),
            format!("update to {}.{} or newer", KUBERNETES.0, KUBERNETES.1),
        )
    }
}

fn definitions(facts: &Facts, pre: bool) -> Line {
    let id = "cluster.crds";
    let Some(there) = &facts.definitions else {
        return warn(id, "resource definitions may not be listed", "run this as somebody who may");
    };
    let missing: Vec<String> = crds().iter().map(ResourceExt::name_any).filter(|name| !there.contains(name)).collect();
    let (what, remedy) =
        (missing.join(", "), "culvert install makes them; with Helm, install the chart culvert-crds first");
    match (missing.is_empty(), pre) {
        (true, _) => ok(id, "all resource definitions are there"),
        // Nobody has made them before the first installation.
        (false, true) => warn(id, format!("not there yet: {what}"), remedy),
        (false, false) => fail(id, format!("missing: {what}"), remedy),
    }
}

fn clock(facts: &Facts) -> Line {
    let id = "cluster.clock";
    let Some((theirs, ours)) = facts.clocks else {
        return warn(
            id,
            "the API server's clock cannot be read",
            "allow creating a ConfigMap in `default` (dry run only)",
        );
    };
    let skew = theirs.as_second() - ours.as_second();
    match skew.abs() <= SKEW_SECONDS {
        true => ok(id, "the API server's clock is ours"),
        false => warn(
            id,
            format!("the API server's clock differs from this machine's by {skew} s"),
            "synchronise the clocks (NTP)",
        ),
    }
}

fn kernel(node: &Node) -> Line {
    let id = "node.kernel";
    let text =
        node.status.as_ref().and_then(|s| s.node_info.as_ref()).map(|i| i.kernel_version.clone()).unwrap_or_default();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let name = node.name_any();
    match found >= KERNEL {
        true => ok(id, format!("{name}: Linux {text}")),
        false => fail(
            id,
            format!("{name}: Linux {text} lacks what capture needs"),
            format!("Linux {}.{} or newer, or leave the node out by a taint and node selectors", KERNEL.0, KERNEL.1),
        ),
    }
}

/// A node's clock, by the lease that its kubelet renews. Its own clock writes `renewTime`.
fn node_clock(node: &Node, facts: &Facts) -> Option<Line> {
    let id = "node.clock";
    let name = node.name_any();
    let (server, _) = facts.clocks?;
    let renewed = facts.leases.get(&name)?.spec.as_ref()?.renew_time.as_ref()?.0;
    let ahead = renewed.as_second() - server.as_second();
    let ready = node.status.as_ref()?.conditions.as_ref()?.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let wrong = ahead > SKEW_SECONDS || (ready && -ahead > SKEW_SECONDS + LEASE_SECONDS);
    Some(match wrong {
        false => ok(id, format!("{name}: its clock agrees with the API server's")),
        true => fail(
            id,
            format!("{name}: its clock differs from the API server's by about {ahead} s"),
            "synchronise the node's clock (NTP); certificates are refused before they begin and after they end",
        ),
    })
}

fn deployment(facts: &Facts, name: &str) -> Line {
    let id = if name == "culvert-ca" { "ca.ready" } else { "control.ready" };
    let Some(found) = facts.deployments.iter().find(|d| d.name_any() == name) else {
        return fail(id, format!("there is no {name}"), "culvert install");
    };
    let wanted = found.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let ready = found.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    match (ready, ready >= wanted) {
        (_, true) => ok(id, format!("{name}: {ready} of {wanted} ready")),
        (0, _) => fail(
            id,
            format!("{name}: none of {wanted} is ready{}", reason(facts, name)),
            told_by(of_program(facts, name), name),
        ),
        _ => warn(
            id,
            format!("{name}: {ready} of {wanted} ready{}", reason(facts, name)),
            told_by(of_program(facts, name), name),
        ),
    }
}

/// Why the pods of a program are not ready, as the kubelet says.
fn reason(facts: &Facts, app: &str) -> String {
    of_program(facts, app).find_map(trouble).map(|why| format!(" ({why})")).unwrap_or_default()
}

fn of_program<'a>(facts: &'a Facts, app: &str) -> impl Iterator<Item = &'a Pod> {
    facts.own.iter().filter(move |p| p.labels().get("app.kubernetes.io/name").is_some_and(|a| a == app))
}

/// What keeps a pod from being ready: why its container waits, and its last words. One that never ran has none: what the
/// kubelet says of it then stands in their place.
pub(crate) fn trouble(pod: &Pod) -> Option<String> {
    let status = unready(pod)?;
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    let words = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.message.clone());
    let words = words.or_else(|| waiting.and_then(|w| w.message.clone()));
    let waits = waiting.and_then(|w| w.reason.clone());
    let parts: Vec<String> = waits.into_iter().chain(words.map(|w| w.trim().replace('\n', "; "))).collect();
    (!parts.is_empty()).then(|| parts.join(": "))
}

fn unready(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_deref().unwrap_or_default().iter().find(|s| !s.ready)
}

/// Where more is told of a program that is not ready: a container that never ran has no log.
fn told_by<'a>(pods: impl IntoIterator<Item = &'a Pod>, app: &str) -> String {
    let ran = |status: &ContainerStatus| {
        let state = status.state.as_ref();
        status.restart_count > 0 || state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    };
    let verb = if pods.into_iter().filter_map(unready).all(ran) { "logs" } else { "describe pods" };
    format!("kubectl {verb} -n NAMESPACE -l app.kubernetes.io/name={app}")
}

/// The agent and the proxy of a node.
fn programs(node: &Node, facts: &Facts) -> Vec<Line> {
    let name = node.name_any();
    let on_node = |app: &str| {
        let here = |p: &&Pod| p.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(&name);
        of_program(facts, app).filter(here).collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    for (id, app, what) in [("node.agent", "culvert-node", "agent"), ("node.proxy", "ztunnel", "proxy")] {
        let pods = on_node(app);
        lines.push(if pods.iter().any(|p| crate::status::is_ready(p)) {
            ok(id, format!("{name}: {what} is ready"))
        } else {
            let why = pods.iter().find_map(|p| trouble(p)).unwrap_or_else(|| "no ready pod".to_owned());
            fail(id, format!("{name}: no {what}: {why}"), told_by(pods.iter().copied(), app))
        });
    }
    if let Some(error) =
        facts.status.iter().flat_map(|s| &s.nodes).find(|n| n.name == name).and_then(|n| n.error.as_ref())
    {
        lines.push(fail(
            "node.status",
            format!("{name}: {error}"),
            "see the agent's log; the API server must reach the kubelet",
        ));
    }
    lines.extend(facts.agents.get(&name).into_iter().flat_map(|agent| agent_says(&name, agent)));
    lines
}

/// Whether our plug-in is in the chain, and the kubelet known, as the agent says.
fn agent_says(node: &str, agent: &serde_json::Value) -> Vec<Line> {
    let text = |pointer| agent.pointer(pointer).and_then(serde_json::Value::as_str);
    let mut lines = Vec::new();
    lines.extend(text("/host/cni").map(|cni| match cni {
        "in the chain" => ok("node.cni", format!("{node}: the CNI plug-in is in the chain")),
        other => fail(
            "node.cni",
            format!("{node}: the CNI plug-in is not in the chain: {other}"),
            "see the agent's log; another installer may overwrite the CNI configuration",
        ),
    }));
    lines.extend(text("/host/kubeletError").map(|error| {
        let remedy = "set node.kubeletPort to the port that this node's kubelet listens on; its probes pass only then";
        warn("node.kubelet", format!("{node}: the kubelet is not known: {error}"), remedy)
    }));
    let texts = |pointer| {
        let list = agent.pointer(pointer).and_then(serde_json::Value::as_array).into_iter().flatten();
        list.filter_map(serde_json::Value::as_str)
    };
    lines.extend(texts("/host/foreignHooks").map(|hook| {
        let remedy = "do what it says; policies by Service may not match until then";
        warn("node.hooks", format!("{node}: {hook}"), remedy)
    }));
    lines.extend(texts("/host/repaired").map(|what| {
        let remedy = "something on this node takes the capture away; see the agent's log for how often";
        warn("node.repaired", format!("{node}: the last audit repaired {what}"), remedy)
    }));
    lines
}

fn versions(facts: &Facts) -> Line {
    let id = "mesh.version";
    let ours = env!("CARGO_PKG_VERSION");
    let containers = facts.own.iter().flat_map(|p| p.spec.iter().flat_map(|s| &s.containers));
    let images: BTreeSet<&str> = containers.filter_map(|c| c.image.as_deref()).collect();
    let (told, untold): (Vec<&str>, Vec<&str>) = images.into_iter().partition(|image| version_of(image).is_some());
    let others: Vec<&str> = told.into_iter().filter(|image| version_of(image) != Some(ours)).collect();
    match (others.is_empty(), untold.is_empty()) {
        (true, true) => ok(id, format!("every program is {ours}, as this one")),
        (true, false) => ok(id, format!("this is {ours}; the images {} do not tell their version", untold.join(", "))),
        (false, _) => warn(
            id,
            format!("this is {ours}, and there runs {}", others.join(", ")),
            "update the one that is older; one minor version apart is supported",
        ),
    }
}

/// The version that an image's tag names, when it is a version: `1.2.3`, with or without a `v`. A digest tells none.
fn version_of(image: &str) -> Option<&str> {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
    let version = tag.strip_prefix('v').unwrap_or(tag);
    let numbers = version.split(['-', '+']).next()?;
    let is_version = numbers.split('.').count() == 3 && numbers.split('.').all(|n| n.parse::<u32>().is_ok());
    is_version.then_some(version)
}

/// Pods that should be captured and are not.
fn enrolled(facts: &Facts) -> Vec<Line> {
    let id = "mesh.pods";
    let Some(status) = &facts.status else { return Vec::new() };
    let clear: u64 = status.pods.iter().map(|p| p.clear_connections).sum();
    let mut lines = Vec::new();
    for p in &status.pods {
        let state = match &*p.state {
            "missing" | "failed" => State::Fail,
            "waiting" if p.in_clear => State::Fail,
            "unknown" | "waiting" => State::Warn,
            _ => continue,
        };
        let what = format!("{}/{} is {}: {}", p.namespace, p.name, p.state, p.note);
        lines.push(Line { id, state, what, remedy: "culvert status".to_owned() });
    }
    let count = |state: &str| status.pods.iter().filter(|p| p.state == state).count();
    if lines.is_empty() {
        lines.push(ok(id, format!("{} pods are in the mesh", count("captured"))));
    }
    if count("left out") > 0 {
        let what = format!("{} pods ask for the mesh and are left out", count("left out"));
        lines.push(warn(
            id,
            what,
            "culvert status says why of each; label them istio.io/dataplane-mode=none to be quiet",
        ));
    }
    if clear > 0 {
        lines.push(warn(
            id,
            format!("{clear} connections older than their pod's enrolment go on in clear"),
            "restart these pods; culvert status names them",
        ));
    }
    lines
}

/// Policies that cut the tunnels off.
fn tunnels(facts: &Facts) -> Vec<Line> {
    let id = "mesh.tunnels";
    let blocked = enroll::blocked(&facts.namespaces, &facts.pods, &facts.policies);
    if blocked.is_empty() {
        return vec![ok(id, "no NetworkPolicy keeps tunnels (TCP 15008) from pods in the mesh and waypoints")];
    }
    blocked.into_iter().map(|b| fail(id, format!("NetworkPolicy {} {}", b.policy, b.what), b.remedy)).collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

//! Interfaces, addresses and routes, as batches for `ip`: one batch a namespace, made as text first.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use crate::error::LabError;
use crate::netns;
use crate::paths::Paths;
use crate::plan::{NodePlan, Plan};
use crate::tools;

/// The bridge in the wire namespace: every packet between nodes crosses it.
pub(crate) const BRIDGE: &str = "br0";
/// What a pod, a proxy, the infra and a node's end of the wire call their interface.
pub(crate) const INTERFACE: &str = "eth0";
/// Gateway of IPv6 pods: the node's end of each veth pair has it.
const GATEWAY6: &str = "fe80::1";

/// Runs a batch in a namespace.
pub(crate) fn apply(netns: &Path, batch: &str) -> Result<(), LabError> {
    netns::inside(netns, || tools::IP.run(&["-batch", "-"], batch).map(drop))
}

/// Raises the wire: bridge, infra, nodes.
pub(crate) fn raise_wire(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    apply(&paths.netns("wire"), &wire_batch(paths, plan))?;
    apply(&paths.netns("infra"), &infra_batch(plan))?;
    plan.nodes.iter().try_for_each(|node| apply(&paths.netns(&node.name), &node_batch(plan, node)))
}

/// One end of a veth pair at a node, the other in a namespace of its own.
pub(crate) struct Attachment<'a> {
    pub(crate) node: &'a NodePlan,
    /// Handle of the namespace.
    pub(crate) netns: &'a Path,
    pub(crate) host_interface: &'a str,
    pub(crate) addresses: &'a [IpAddr],
}

/// Joins namespaces to a node.
pub(crate) fn attach(paths: &Paths, node: &NodePlan, all: &[Attachment<'_>]) -> Result<(), LabError> {
    apply(&paths.netns(&node.name), &all.iter().map(host_batch).collect::<String>())?;
    all.iter().try_for_each(|one| apply(one.netns, &guest_batch(one)))
}

/// Takes an attachment away. The interface is deleted by name: its namespace may live on in a process that holds it.
pub(crate) fn detach(paths: &Paths, node: &str, host_interface: &str) -> Result<(), LabError> {
    apply(&paths.netns(node), &format!("link del {host_interface}\n"))
}

fn wire_batch(paths: &Paths, plan: &Plan) -> String {
    let mut batch = format!(
        "link set lo up\nlink add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
    );
    for ip in plan.bridge() {
        line(&mut batch, format_args!("addr add {ip}/{} dev {BRIDGE}", wire_prefix(ip)));
    }
    let names = plan.nodes.iter().map(|n| n.name.as_str()).chain(["infra"]);
    for (port, name) in names.enumerate() {
        let port = port_name(port, name);
        let netns = paths.netns(name).display().to_string();
        line(&mut batch, format_args!("link add {port} type veth peer name {INTERFACE} netns {netns}"));
        line(&mut batch, format_args!("link set {port} master {BRIDGE} up"));
    }
    batch
}

/// The bridge's port of the node at a place (from 0). The number keeps it unique where a long name is cut.
pub(crate) fn port_name(at: usize, name: &str) -> String {
    let mut text = format!("w{at}-{name}");
    text.truncate(15);
    text
}

fn infra_batch(plan: &Plan) -> String {
    let mut batch = on_the_wire(&plan.infra());
    plan.nodes.iter().for_each(|node| routes_to(&mut batch, node));
    batch
}

fn node_batch(plan: &Plan, node: &NodePlan) -> String {
    let mut batch = on_the_wire(&node.addresses);
    for ip in &node.gateways {
        line(&mut batch, format_args!("addr add {ip}/{} dev lo", host_prefix(*ip)));
    }
    plan.nodes.iter().filter(|other| other.index != node.index).for_each(|other| routes_to(&mut batch, other));
    batch
}

fn on_the_wire(addresses: &[IpAddr]) -> String {
    let mut batch = format!("link set lo up\nlink set {INTERFACE} up\n");
    for ip in addresses {
        line(&mut batch, format_args!("addr add {ip}/{} dev {INTERFACE}", wire_prefix(*ip)));
    }
    batch
}

fn routes_to(batch: &mut String, node: &NodePlan) {
    for (block, via) in node.pod_cidrs().iter().zip(&node.addresses) {
        line(batch, format_args!("route add {block} via {via} dev {INTERFACE}"));
    }
}

fn host_batch(one: &Attachment<'_>) -> String {
    let host = one.host_interface;
    let mut batch =
        format!("link add {host} type veth peer name {INTERFACE} netns {}\nlink set {host} up\n", one.netns.display());
    for ip in one.addresses {
        if ip.is_ipv6() {
            line(&mut batch, format_args!("addr add {GATEWAY6}/64 dev {host} nodad"));
        }
        line(&mut batch, format_args!("route add {ip}/{} dev {host}", host_prefix(*ip)));
    }
    batch
}

fn guest_batch(one: &Attachment<'_>) -> String {
    let mut batch = format!("link set lo up\nlink set {INTERFACE} up\n");
    for (ip, gateway) in one.addresses.iter().zip(&one.node.gateways) {
        line(&mut batch, format_args!("addr add {ip}/{} dev {INTERFACE}", host_prefix(*ip)));
        match gateway {
            IpAddr::V4(_) => line(&mut batch, format_args!("route add default via {gateway} dev {INTERFACE} onlink")),
            IpAddr::V6(_) => line(&mut batch, format_args!("route add ::/0 via {GATEWAY6} dev {INTERFACE}")),
        }
    }
    batch
}

fn wire_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 24 } else { 64 }
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn line(batch: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let written = writeln!(batch, "{text}");
    debug_assert!(written.is_ok());
}

//! What only shows when all parts of the file are seen together.

use std::collections::HashMap;
use std::sync::Arc;

use mesh::authz::{Action, Authorization, Scope};
use mesh::workload::{NetworkMode, TunnelProtocol, Workload};
use mesh::{NetworkAddress, Service};

use super::super::world::World;
use super::At;

/// Files mistakes and returns warnings.
pub(super) fn check(world: &World, at: &mut At<'_>) -> Vec<String> {
    unique_workloads(world, at);
    unique_services(world, at);
    policies(world, at);
    let services: HashMap<String, &Service> = world.services.iter().map(|s| (s.key().to_string(), s)).collect();
    let mut warnings = Vec::new();
    for w in &world.workloads {
        if w.tunnel == TunnelProtocol::Hbone && w.identity().is_err() {
            let text = "has protocol HBONE but no full identity; set trustDomain and serviceAccount";
            warnings.push(format!("workload {}: {text}", w.uid));
        }
        for (key, ports) in &w.services {
            let Some(service) = services.get(&**key) else {
                warnings.push(format!("workload {}: service {key} is not in the file", w.uid));
                continue;
            };
            for port in ports.0.keys().filter(|p| !service.ports.0.contains_key(p)) {
                warnings.push(format!("workload {}: service {key} has no port {port}", w.uid));
            }
        }
    }
    unnamed_ports(world, &mut warnings);
    warnings
}

fn unique_workloads(world: &World, at: &mut At<'_>) {
    let mut uids: HashMap<&str, usize> = HashMap::new();
    let mut addresses: HashMap<NetworkAddress, &Workload> = HashMap::new();
    for (i, w) in world.workloads.iter().enumerate() {
        let mut at = at.at("workloads");
        let mut at = at.at(i);
        if let Some(first) = uids.insert(&w.uid, i) {
            at.mistake(format!("uid {:?} is also that of workloads[{first}]", w.uid), "give each workload its own");
        }
        // The address of the node is shared by all that live in its network.
        if w.network_mode == NetworkMode::HostNetwork {
            continue;
        }
        for (j, ip) in w.addresses.iter().enumerate() {
            let address = NetworkAddress::new(w.network.clone(), *ip);
            if let Some(other) = addresses.insert(address, w) {
                at.at("workloadIps").at(j).mistake(
                    format!("{ip} is also an address of {}", other.uid),
                    "give each workload its own, or set networkMode: HostNetwork",
                );
            }
        }
    }
}

fn unique_services(world: &World, at: &mut At<'_>) {
    let mut keys: HashMap<String, usize> = HashMap::new();
    // Namespaces may share an address: the client's own wins.
    let mut vips: HashMap<(Arc<str>, &NetworkAddress), usize> = HashMap::new();
    for (i, s) in world.services.iter().enumerate() {
        let mut at = at.at("services");
        let mut at = at.at(i);
        if let Some(first) = keys.insert(s.key().to_string(), i) {
            at.mistake(format!("{} is also services[{first}]", s.key()), "keep one of them");
        }
        for (j, vip) in s.vips.iter().enumerate() {
            if let Some(first) = vips.insert((s.namespace.clone(), vip), i) {
                at.at("vips").at(j).mistake(format!("{vip} also belongs to services[{first}]"), "give each its own");
            }
        }
    }
}

fn policies(world: &World, at: &mut At<'_>) {
    let mut keys: HashMap<String, (usize, &Authorization)> = HashMap::new();
    for (i, p) in world.policies.iter().enumerate() {
        if let Some((first, _)) = keys.insert(p.key(), (i, p)) {
            at.at("policies").at(i).mistake(format!("{} is also policies[{first}]", p.key()), "keep one of them");
        }
    }
    for (i, w) in world.workloads.iter().enumerate() {
        let mut at = at.at("workloads");
        let mut at = at.at(i);
        for (j, name) in w.authorization_policies.iter().enumerate() {
            named(keys.get(&**name).map(|(_, p)| *p), name, &mut at.at("authorizationPolicies").at(j));
        }
        for (j, name) in w.egress.iter().flat_map(|e| &e.policies).enumerate() {
            let found = keys.get(&**name).map(|(_, p)| *p);
            let mut at = at.at("egress");
            let mut at = at.at("policies");
            let mut at = at.at(j);
            named(found, name, &mut at);
            if found.is_some_and(|p| p.action != Action::Deny) {
                at.mistake(
                    format!("policy {name:?} is no DENY policy"),
                    "write it as a DENY of what the workload may not dial",
                );
            }
        }
    }
}

/// A policy that a workload names.
fn named(found: Option<&Authorization>, name: &str, at: &mut At<'_>) {
    match found.map(|p| p.scope) {
        None => at.mistake(format!("policy {name:?} is not in the file"), "add it, or remove its name here"),
        Some(Scope::WorkloadSelector) => {}
        Some(_) => at.mistake(
            format!("policy {name:?} has another scope than WorkloadSelector"),
            "change its scope, or remove its name here",
        ),
    }
}

/// A target port of 0 means "the workload says"; one that no member says leads nowhere (discovery.md 6, trap 1).
fn unnamed_ports(world: &World, warnings: &mut Vec<String>) {
    for s in &world.services {
        let key = s.key().to_string();
        for port in s.ports.0.iter().filter(|(_, target)| **target == 0).map(|(port, _)| port) {
            let says = |w: &&Workload| w.services.get(&*key).is_some_and(|p| p.0.contains_key(port));
            if !world.workloads.iter().any(|w| says(&w)) {
                warnings.push(format!("service {key}: no workload says where port {port} leads"));
            }
        }
    }
}

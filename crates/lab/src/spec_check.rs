//! What is wrong with a lab document beyond its shape.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use document::{Check, Report};

use crate::caps;
use crate::spec::{OtlpTo, Pod, Service, Spec, Waypoint};
use crate::spec_policy::{self, PolicyScope};

// Addresses are handed out from blocks of this many: a /24 a node less gateway and proxies (plan.rs), 250 nodes on the wire.
pub(crate) const MAX_PODS_PER_NODE: usize = 180;
pub(crate) const MAX_NODES: usize = 200;
const MAX_SERVICES: usize = 60_000;
// The longest path that we make from it, the ZDS socket, must fit the 108 bytes of sockaddr_un.
const MAX_LAB_NAME: usize = 24;
// A uid (plan.rs) has at most 64 bytes at the node agent; "Kubernetes//Pod/" and a slash take 17.
const MAX_POD_AND_NAMESPACE: usize = 47;
// RFC 1123 label.
const MAX_LABEL: usize = 63;

impl Check for Spec {
    fn check(&self, report: &mut Report) {
        label(report, "/name", &self.name, MAX_LAB_NAME);
        self.check_nodes(report);
        for (index, pod) in self.pods.iter().enumerate() {
            self.check_pod(index, pod, report);
        }
        for (index, service) in self.services.iter().enumerate() {
            self.check_service(index, service, report);
        }
        for (index, waypoint) in self.waypoints.iter().enumerate() {
            self.check_waypoint(index, waypoint, report);
        }
        spec_policy::check(&self.policies, report);
        self.check_rest(report);
    }
}

impl Spec {
    fn check_nodes(&self, report: &mut Report) {
        if self.nodes.is_empty() || self.nodes.len() > MAX_NODES {
            let what = format!("{} nodes", self.nodes.len());
            report.at("/nodes").mistake(what, format!("name 1 to {MAX_NODES} nodes"));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let place = format!("/nodes/{index}/name");
            label(report, &place, &node.name, MAX_LABEL);
            if self.nodes[..index].iter().any(|n| n.name == node.name) {
                report
                    .at(&place)
                    .mistake(format!("there is another node {}", node.name), "give each node a name of its own");
            }
            if RESERVED.contains(&node.name.as_str()) {
                report
                    .at(&place)
                    .mistake(format!("{} is a name the lab uses itself", node.name), "choose another name");
            }
            let here = self.pods.iter().filter(|p| p.node == node.name).count();
            if here > MAX_PODS_PER_NODE {
                let what = format!("{here} pods on node {}", node.name);
                report.at(&place).mistake(what, format!("put at most {MAX_PODS_PER_NODE} on a node"));
            }
        }
    }

    fn check_pod(&self, index: usize, pod: &Pod, report: &mut Report) {
        let place = format!("/pods/{index}");
        label(report, &format!("{place}/name"), &pod.name, MAX_LABEL);
        label(report, &format!("{place}/namespace"), &pod.namespace, MAX_LABEL);
        if self.pods[..index].iter().any(|p| p.name == pod.name) {
            let what = format!("there is another pod {}", pod.name);
            report.at(&place).at("name").mistake(what, "give each pod a name of its own, also across namespaces");
        }
        if pod.name.len() + pod.namespace.len() > MAX_POD_AND_NAMESPACE {
            let what = format!("{}/{} is too long for a pod's uid", pod.namespace, pod.name);
            report
                .at(&place)
                .at("name")
                .mistake(what, format!("use at most {MAX_POD_AND_NAMESPACE} characters for both"));
        }
        if let Some(account) = &pod.service_account {
            label(report, &format!("{place}/serviceAccount"), account, MAX_LABEL);
        }
        if !self.nodes.iter().any(|n| n.name == pod.node) {
            report.at(&place).at("node").mistake(
                format!("there is no node {:?}", pod.node),
                format!("use one of: {}", list(self.nodes.iter().map(|n| &n.name))),
            );
        }
        for path in pod.files.keys() {
            if !is_plain_relative(path) {
                let what = format!("{path:?} is not a plain relative path");
                report.at(&place).at("files").at(path).mistake(what, "name it relative to /srv, as in conf/nginx.conf");
            }
        }
        if pod.ready.is_some() && pod.command.is_empty() {
            let remedy = "give the pod a `command`, or leave `ready` out";
            report.at(&place).at("ready").mistake("nothing can become ready: the pod runs no program", remedy);
        }
        if pod.ready.as_ref().is_some_and(|r| r.tcp == 0) {
            report.at(&place).at("ready").at("tcp").mistake("0 is not a port", "use 1 to 65535");
        }
        for (at, name) in pod.capabilities.iter().enumerate() {
            if caps::by_name(name).is_none() {
                let what = format!("{name:?} is not a capability");
                report
                    .at(&place)
                    .at("capabilities")
                    .at(at)
                    .mistake(what, "write it as in NET_ADMIN (capabilities(7), without CAP_)");
            }
        }
        let named = pod.policies.iter().enumerate().map(|(at, key)| ("policies", at, key));
        for (field, at, key) in named.chain(pod.egress.iter().enumerate().map(|(at, key)| ("egress", at, key))) {
            let found = self.policies.iter().find(|p| p.key() == *key);
            if found.is_none_or(|p| p.scope != PolicyScope::WorkloadSelector) {
                let what = format!("{key:?} is not a policy with scope WorkloadSelector of this document");
                report.at(&place).at(field).at(at).mistake(what, "write namespace/name of such a policy");
            }
        }
    }

    fn check_service(&self, index: usize, service: &Service, report: &mut Report) {
        let place = format!("/services/{index}");
        label(report, &format!("{place}/name"), &service.name, MAX_LABEL);
        label(report, &format!("{place}/namespace"), &service.namespace, MAX_LABEL);
        if self.services[..index].iter().any(|s| s.hostname() == service.hostname()) {
            let what = format!("there is another service {}", service.hostname());
            report.at(&place).at("name").mistake(what, "give each service a name of its own in its namespace");
        }
        if service.ports.is_empty() {
            report.at(&place).at("ports").mistake("no port", "name at least one, as in 80: 8080");
        }
        for (port, target) in &service.ports {
            if *port == 0 || *target == 0 {
                report.at(&place).at("ports").at(port).mistake("0 is not a port", "use 1 to 65535");
            }
        }
        for (at, name) in service.pods.iter().enumerate() {
            let found = self.pods.iter().find(|p| p.name == *name);
            let mut here = report.at(&place).at("pods").at(at);
            match found {
                None => here.mistake(format!("there is no pod {name:?}"), "name a pod of this document"),
                Some(pod) if pod.namespace != service.namespace => here.mistake(
                    format!("pod {name} is in namespace {}, the service in {}", pod.namespace, service.namespace),
                    "a service has pods of its own namespace only",
                ),
                Some(_) => {}
            }
        }
        if let Some(name) = &service.waypoint
            && !self.waypoints.iter().any(|w| w.name == *name && w.namespace == service.namespace)
        {
            let what = format!("there is no waypoint {name:?} in namespace {}", service.namespace);
            report.at(&place).at("waypoint").mistake(what, "name one of `waypoints` of the same namespace");
        }
    }

    fn check_waypoint(&self, index: usize, waypoint: &Waypoint, report: &mut Report) {
        let place = format!("/waypoints/{index}");
        label(report, &format!("{place}/name"), &waypoint.name, MAX_LABEL);
        label(report, &format!("{place}/namespace"), &waypoint.namespace, MAX_LABEL);
        let before = self.waypoints[..index].iter().map(|w| &w.name);
        if self.pods.iter().map(|p| &p.name).chain(before).any(|name| *name == waypoint.name) {
            let what = format!("there is another pod {}", waypoint.name);
            report.at(&place).at("name").mistake(what, "a waypoint is a pod: give it a name that no pod has");
        }
        if !self.nodes.iter().any(|n| n.name == waypoint.node) {
            let remedy = format!("use one of: {}", list(self.nodes.iter().map(|n| &n.name)));
            report.at(&place).at("node").mistake(format!("there is no node {:?}", waypoint.node), remedy);
        }
        if !self.pods.iter().any(|p| p.mesh) {
            report.at(&place).mistake("nobody can reach it: no pod is in the mesh", "put a pod into the mesh");
        }
    }

    fn check_rest(&self, report: &mut Report) {
        if self.services.len() > MAX_SERVICES {
            report.at("/services").mistake("too many services", format!("name at most {MAX_SERVICES}"));
        }
        let identity = mesh::Identity::new(self.trust_domain.as_str(), "x", "x");
        if let Err(error) = identity {
            report.at("/trustDomain").mistake(error.to_string(), "use letters, digits, '.', '-' and '_'");
        }
        if !(0.0..=1.0).contains(&self.telemetry.sampling) {
            let what = format!("{} is not a share", self.telemetry.sampling);
            report.at("/telemetry/sampling").mistake(what, "use a number from 0 to 1");
        }
        let to = self.telemetry.otlp.0.as_str();
        if to != OtlpTo::OFF && to != OtlpTo::AUTO && !to.starts_with("http://") {
            let what = format!("{to:?} is not a collector");
            report.at("/telemetry/otlp").mistake(what, "use auto, off, or an address such as http://10.99.0.2:4317");
        }
        // Threads beyond the CPUs of any machine that a lab fits on only cost memory.
        if self.workers == 0 || self.workers > 64 {
            report.at("/workers").mistake(format!("{} workers", self.workers), "use 1 to 64");
        }
    }
}

/// Names of namespaces and control groups that a lab has besides those of its nodes.
pub(crate) const RESERVED: [&str; 2] = ["wire", "infra"];

fn label(report: &mut Report, place: &str, text: &str, longest: usize) {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let right = (1..=longest).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !right {
        let remedy = format!("use 1 to {longest} of a-z, 0-9 and '-', beginning and ending with a letter or digit");
        report.at(place).mistake(format!("{text:?} is not a name"), remedy);
    }
}

fn is_plain_relative(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().cloned().collect::<Vec<_>>().join(", ")
}

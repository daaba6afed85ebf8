//! Workloads of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::canonical;
use mesh::workload::{
    AppTunnelProtocol, ApplicationTunnel, DEFAULT_CLUSTER, Egress, Health, Locality, NetworkMode, PortMap,
    TunnelProtocol, Workload, WorkloadType,
};

use super::super::file;
use super::{At, gateway};

pub(super) fn workload(w: &file::Workload, at: &mut At<'_>) -> Workload {
    at.not_empty("namespace", &w.namespace);
    if w.uid.is_empty() && w.name.is_empty() {
        at.mistake("has neither uid nor name", "give one of them, or two such workloads could not be told apart");
    }
    if w.workload_ips.is_empty() && w.hostname.is_empty() && w.network_gateway.is_none() {
        at.at("workloadIps").mistake("no address, hostname or networkGateway", "give at least one way to reach it");
    }
    Workload {
        uid: uid(w),
        name: w.name.as_str().into(),
        namespace: w.namespace.as_str().into(),
        addresses: addresses("workloadIps", &w.workload_ips, at),
        hostname: w.hostname.as_str().into(),
        network: w.network.as_str().into(),
        tunnel: match w.protocol {
            file::Protocol::HBONE => TunnelProtocol::Hbone,
            file::Protocol::TCP => TunnelProtocol::None,
        },
        trust_domain: w.trust_domain.as_str().into(),
        service_account: w.service_account.as_str().into(),
        waypoint: w.waypoint.as_ref().map(|g| gateway(g, &mut at.at("waypoint"))),
        network_gateway: w.network_gateway.as_ref().map(|g| gateway(g, &mut at.at("networkGateway"))),
        node: w.node.as_str().into(),
        canonical_name: w.canonical_name.as_str().into(),
        canonical_revision: w.canonical_revision.as_str().into(),
        workload_type: workload_type(&w.workload_type, at),
        workload_name: w.workload_name.as_str().into(),
        native_tunnel: w.native_tunnel,
        application_tunnel: w.application_tunnel.as_ref().map(|t| application_tunnel(t, at)),
        services: services(w, at),
        authorization_policies: w.authorization_policies.iter().map(|p| p.as_str().into()).collect(),
        egress: w.egress.as_ref().map(|e| Arc::new(egress(e, &mut at.at("egress")))),
        node_addresses: w.node_addresses.as_ref().map(|list| addresses("nodeAddresses", list, at).into()),
        health: health(w.status),
        cluster_id: w.cluster_id.as_str().into(),
        locality: Locality {
            region: w.locality.region.as_str().into(),
            zone: w.locality.zone.as_str().into(),
            subzone: w.locality.subzone.as_str().into(),
        },
        network_mode: match w.network_mode {
            file::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
            file::NetworkMode::Standard => NetworkMode::Standard,
        },
        capacity: w.capacity,
        extensions: Vec::new(),
    }
}

pub(super) fn health(status: file::Status) -> Health {
    match status {
        file::Status::Healthy => Health::Healthy,
        file::Status::Unhealthy => Health::Unhealthy,
    }
}

/// The uid, or the one that a control plane would make for a pod (discovery.md 2).
fn uid(w: &file::Workload) -> Arc<str> {
    if !w.uid.is_empty() {
        return w.uid.as_str().into();
    }
    let cluster = if w.cluster_id.is_empty() { DEFAULT_CLUSTER } else { &w.cluster_id };
    format!("{cluster}//Pod/{}/{}", w.namespace, w.name).into()
}

fn egress(e: &file::Egress, at: &mut At<'_>) -> Egress {
    let policies = e.policies.iter().map(|p| p.as_str().into()).collect();
    Egress { policies, exempt: addresses("exempt", &e.exempt, at) }
}

fn addresses(key: &str, texts: &[String], at: &mut At<'_>) -> Vec<IpAddr> {
    let mut made = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(ip) => made.push(canonical(ip)),
            Err(_) => {
                at.at(key).at(i).mistake(format!("{text:?} is not an IP address"), "write it as 10.0.0.1 or fd00::1")
            }
        }
    }
    made
}

fn workload_type(text: &str, at: &mut At<'_>) -> WorkloadType {
    match text.to_ascii_lowercase().as_str() {
        "" | "pod" => WorkloadType::Pod,
        "cronjob" => WorkloadType::CronJob,
        "deployment" => WorkloadType::Deployment,
        "job" => WorkloadType::Job,
        _ => {
            at.at("workloadType").mistake(format!("{text:?} is not known"), "use deployment, cronjob, job or pod");
            WorkloadType::Pod
        }
    }
}

fn application_tunnel(t: &file::AppTunnel, at: &mut At<'_>) -> ApplicationTunnel {
    if t.port == Some(0) {
        at.at("applicationTunnel").at("port").mistake("0 is not a port", "use 1 to 65535, or leave it out");
    }
    let protocol = match t.protocol {
        file::AppTunnelProtocol::NONE => AppTunnelProtocol::None,
        file::AppTunnelProtocol::PROXY => AppTunnelProtocol::Proxy,
    };
    ApplicationTunnel { protocol, port: t.port }
}

fn services(w: &file::Workload, at: &mut At<'_>) -> BTreeMap<Arc<str>, PortMap> {
    for (key, ports) in &w.services {
        let mut at = at.at("services");
        let mut at = at.at(key);
        if !key.split_once('/').is_some_and(|(ns, host)| !ns.is_empty() && !host.is_empty()) {
            at.mistake(format!("{key:?} is not a service"), "write namespace/hostname");
        }
        for (service, target) in ports {
            if *service == 0 || *target == 0 {
                at.at(service).mistake("0 is not a port", "use 1 to 65535");
            }
        }
    }
    w.services.iter().map(|(key, ports)| (key.as_str().into(), PortMap(ports.clone()))).collect()
}

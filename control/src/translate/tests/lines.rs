//! Resources as lines that people can read. What is left out is the default.

mod routed;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::service::{AppProtocol, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Visibility};
use mesh::workload::{
    AppTunnelProtocol, DEFAULT_CLUSTER, DEFAULT_TRUST_DOMAIN, GatewayAddress, Health, Locality, NetworkMode, PortMap,
    TunnelProtocol,
};
use mesh::{Service, Workload};

use crate::object::Key;
use crate::translate::Full;
use crate::world::{Output, Routed, Status};

/// What somebody who follows a world knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picture {
    services: BTreeMap<Arc<str>, Service>,
    workloads: BTreeMap<Arc<str>, Workload>,
    policies: BTreeMap<String, mesh::authz::Authorization>,
    statuses: BTreeMap<Key, Status>,
    routing: BTreeMap<Arc<str>, Routed>,
}

impl Picture {
    pub(crate) fn of(full: Full) -> Self {
        Self {
            services: full.services.into_iter().map(|s| (s.key().to_string().into(), s)).collect(),
            workloads: full.workloads.into_iter().map(|w| (w.uid.clone(), w)).collect(),
            policies: full.policies.into_iter().map(|p| (p.key(), p)).collect(),
            routing: full.routing.into_iter().map(|r| (r.name.clone(), r)).collect(),
            statuses: full.statuses.into_iter().map(|s| (s.object.clone(), s)).collect(),
        }
    }

    pub(crate) fn apply(&mut self, output: Output) {
        let change = output.change;
        for name in change.removed {
            let known = self.services.remove(&name).is_some() | self.workloads.remove(&name).is_some();
            assert!(known, "{name} was never given out");
        }
        for service in change.services {
            let old = self.services.insert(service.key().to_string().into(), service.clone());
            assert_ne!(old.as_ref(), Some(&service), "nothing changed");
        }
        for workload in change.workloads {
            let old = self.workloads.insert(workload.uid.clone(), workload.clone());
            assert_ne!(old.as_ref(), Some(&workload), "nothing changed");
        }
        for name in change.removed_policies {
            assert!(self.policies.remove(&*name).is_some(), "{name} was never given out");
        }
        for policy in change.policies {
            let old = self.policies.insert(policy.key(), policy.clone());
            assert_ne!(old.as_ref(), Some(&policy), "nothing changed");
        }
        for name in output.routing_gone {
            assert!(self.routing.remove(&name).is_some(), "{name} was never given out");
        }
        for routed in output.routing {
            let old = self.routing.insert(routed.name.clone(), routed.clone());
            assert_ne!(old.as_ref(), Some(&routed), "nothing changed");
        }
        for status in output.statuses {
            let old = self.statuses.insert(status.object.clone(), status.clone());
            // A silent one takes off what somebody put on the object meanwhile.
            assert!(status.is_silent() || old.as_ref() != Some(&status), "nothing changed: {status:?}");
        }
    }

    /// Drops what is said on objects that are gone.
    pub(crate) fn forget(&mut self, gone: impl Fn(&Key) -> bool) {
        self.statuses.retain(|key, _| !gone(key));
    }

    /// Without statuses that say nothing: whether such a one is there depends on what was said before.
    pub(crate) fn spoken(mut self) -> Self {
        self.statuses.retain(|_, s| {
            !s.conditions.is_empty() || !s.events.is_empty() || s.addresses.is_some() || !s.parents.is_empty()
        });
        self
    }

    /// What is to be written into the addresses of entries.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&Key, &Vec<(Arc<str>, std::net::IpAddr)>)> {
        self.statuses.iter().filter_map(|(key, s)| Some((key, s.addresses.as_ref()?)))
    }

    /// Everything, each thing in full, to tell two pictures apart.
    pub(crate) fn everything(&self) -> Vec<String> {
        let services = self.services.values().map(|s| format!("{s:?}"));
        let workloads = self.workloads.values().map(|w| format!("{w:?}"));
        let policies = self.policies.values().map(|p| format!("{p:?}"));
        let routing = self.routing.values().map(|r| format!("{r:?}"));
        let statuses = self.statuses.values().map(|s| format!("{s:?}"));
        services.chain(workloads).chain(policies).chain(routing).chain(statuses).collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let services = self.services.values().map(service);
        let workloads = self.workloads.values().map(workload);
        let policies = self.policies.keys().map(|name| format!("policy {name}: "));
        let routing = self.routing.values().filter(|r| !dull(r)).flat_map(routed::lines);
        services
            .chain(workloads)
            .chain(policies)
            .chain(routing)
            .chain(self.statuses.values().flat_map(status))
            .collect()
    }
}

fn line(head: String, parts: Vec<Option<String>>) -> String {
    format!("{head}: {}", parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

fn list<T: ToString>(word: &str, items: impl IntoIterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    (!items.is_empty()).then(|| format!("{word} {}", items.join(", ")))
}

fn flag(yes: bool, word: &str) -> Option<String> {
    yes.then(|| word.to_owned())
}

fn said(word: &str, text: &str, unless: &str) -> Option<String> {
    (text != unless).then(|| format!("{word} {text}"))
}

fn service(s: &Service) -> String {
    let protocol = |port: &u16| match s.app_protocols.get(port) {
        None => "",
        Some(AppProtocol::Grpc) => " grpc",
        Some(AppProtocol::Http11) => " http",
        Some(AppProtocol::Http2) => " http2",
        Some(AppProtocol::Tcp) => " tcp",
        Some(AppProtocol::Tls) => " tls",
        Some(AppProtocol::Unknown) => " unknown",
    };
    let blocks = s.cidr_vips.iter().map(|b| format!("{}/{}", b.network, b.cidr));
    let weighted = s.weighted_waypoints.iter().map(|w| format!("{} {}", gateway(&w.destination), w.weight));
    line(
        format!("service {}", s.key()),
        vec![
            list("at", s.vips.iter().map(ToString::to_string).chain(blocks)),
            list("ports", s.ports.0.iter().map(|(a, b)| format!("{a}>{b}{}", protocol(a)))),
            said("name", &s.name, s.hostname.split('.').next().unwrap_or_default()),
            list("sans", &s.subject_alt_names),
            s.waypoint.as_ref().map(|w| format!("waypoint {}", gateway(w))),
            list("weighted", weighted),
            s.load_balancing.as_ref().map(balancing),
            match s.ip_families {
                IpFamilies::Automatic => None,
                IpFamilies::Dual => Some("dual".into()),
                IpFamilies::Ipv4Only => Some("ipv4".into()),
                IpFamilies::Ipv6Only => Some("ipv6".into()),
            },
            flag(s.canonical, "canonical"),
            flag(s.visibility == Visibility::Namespace, "own namespace"),
        ],
    )
}

fn balancing(b: &LoadBalancing) -> String {
    let mode = match b.mode {
        LoadBalancingMode::Failover => "prefer",
        LoadBalancingMode::Passthrough => "passthrough",
        LoadBalancingMode::Strict => "only",
        LoadBalancingMode::Unspecified => "any",
    };
    let scopes: Vec<String> = b.preference.iter().map(|s| format!("{s:?}").to_lowercase()).collect();
    let health = if b.health == HealthPolicy::AllowAll { " unhealthy too" } else { "" };
    format!("{mode} {}{health}", scopes.join(">")).replace("  ", " ").trim().to_owned()
}

fn gateway(g: &GatewayAddress) -> String {
    format!("{}:{}", g.destination, g.hbone_port)
}

fn members((key, PortMap(ports)): (&Arc<str>, &PortMap)) -> String {
    let ports: Vec<String> = ports.iter().map(|(a, b)| format!("{a}>{b}")).collect();
    format!("{key}({})", ports.join(" "))
}

fn workload(w: &Workload) -> String {
    let Locality { region, zone, subzone } = &w.locality;
    let mut kind = w.workload_type.as_str().to_owned();
    if w.workload_name != w.name && !w.workload_name.is_empty() {
        kind += &format!(" {}", w.workload_name);
    }
    let canonical = format!("{}/{}", w.canonical_name, w.canonical_revision);
    line(
        format!("workload {}", w.uid),
        vec![
            list("at", &w.addresses),
            said("host", &w.hostname, ""),
            said("network", &w.network, ""),
            flag(w.tunnel == TunnelProtocol::Hbone, "hbone"),
            flag(w.native_tunnel, "native"),
            said("trust domain", &w.trust_domain, DEFAULT_TRUST_DOMAIN),
            said("cluster", &w.cluster_id, DEFAULT_CLUSTER),
            said("as", &w.service_account, ""),
            w.waypoint.as_ref().map(|g| format!("waypoint {}", gateway(g))),
            said("node", &w.node, ""),
            said("is", &kind, "pod"),
            said("canonical", &canonical, &format!("{}/latest", w.workload_name))
                .filter(|_| !w.canonical_name.is_empty()),
            w.application_tunnel.map(|t| {
                let protocol = if t.protocol == AppTunnelProtocol::Proxy { "PROXY" } else { "NONE" };
                format!("tunnel {protocol} {:?}", t.port)
            }),
            list("in", w.services.iter().map(members)),
            list("under", &w.authorization_policies),
            w.node_addresses.as_ref().and_then(|a| list("but from", a.iter().map(ToString::to_string))),
            w.egress.as_ref().and_then(|e| list("out under", &e.policies)),
            w.egress.as_ref().and_then(|e| list("but to", &e.exempt)),
            flag(w.health == Health::Unhealthy, "unhealthy"),
            said("locality", &format!("{region}/{zone}/{subzone}"), "//"),
            flag(w.network_mode == NetworkMode::HostNetwork, "host network"),
            said("weight", &w.capacity.to_string(), "1"),
        ],
    )
}

fn status(s: &Status) -> Vec<String> {
    let object = &s.object;
    let conditions = s.conditions.iter().map(|c| {
        let truth = if c.status { "True" } else { "False" };
        format!("{object}: {} {truth} {}: {}", c.kind, c.reason, c.message)
    });
    let events = s.events.iter().map(|e| format!("{object}: event {}: {}", e.reason, e.message));
    let addresses = s.addresses.iter().map(|list| {
        let list: Vec<String> = list.iter().map(|(host, ip)| format!("{host}={ip}")).collect();
        format!("{object}: write addresses {}", list.join(" "))
    });
    let parents = s.parents.iter().flat_map(|p| {
        let mut name = p.reference.name.clone();
        if let Some(namespace) = &p.reference.namespace {
            name = format!("{namespace}/{name}");
        }
        if let Some(port) = p.reference.port {
            name += &format!(":{port}");
        }
        if let Some(section) = &p.reference.section_name {
            name += &format!(":{section}");
        }
        p.conditions.iter().map(move |c| {
            let truth = if c.status { "True" } else { "False" };
            format!("{object} at {name}: {} {truth} {}: {}", c.kind, c.reason, c.message)
        })
    });
    conditions.chain(events).chain(addresses).chain(parents).collect()
}

/// Whether there is nothing of L7: then the tables of L4 do not want to read of it.
fn dull(routed: &Routed) -> bool {
    let m = &routed.message;
    let bare = m.rate_limits.is_empty() && m.filters.is_empty() && m.telemetry.is_none() && m.traffic.is_none();
    bare && m.tables.is_empty() && m.authorizations.is_empty() && m.authentications.is_empty()
}

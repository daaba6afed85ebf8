//! From the model to the file, for programs that write it.

use mesh::authz;
use mesh::service as model_service;
use mesh::workload as model;

use super::file::{
    AppTunnel, AppTunnelProtocol, CidrVip, Egress, File, Gateway, HealthPolicy, IpFamilies, LoadBalancer,
    LoadBalancerMode, Locality, Match, NetworkMode, Policy, PolicyAction, PolicyScope, Protocol, RoutingScope, Service,
    ServiceAccount, Status, StringMatch, Visibility, Weighted, Workload,
};
use super::world::World;
use super::yaml;

impl File {
    /// The file as YAML that both our reader and a stock proxy's accept.
    pub fn to_yaml(&self) -> String {
        yaml::text(self)
    }
}

/// Extensions and application protocols have no place in the file and are left out.
impl From<&World> for File {
    fn from(world: &World) -> Self {
        Self {
            workloads: world.workloads.iter().map(Workload::from).collect(),
            policies: world.policies.iter().map(Policy::from).collect(),
            services: world.services.iter().map(Service::from).collect(),
        }
    }
}

impl From<&model::Workload> for Workload {
    fn from(w: &model::Workload) -> Self {
        Self {
            uid: w.uid.to_string(),
            name: w.name.to_string(),
            namespace: w.namespace.to_string(),
            trust_domain: w.trust_domain.to_string(),
            service_account: w.service_account.to_string(),
            workload_ips: texts(&w.addresses),
            network: w.network.to_string(),
            hostname: w.hostname.to_string(),
            node: w.node.to_string(),
            protocol: match w.tunnel {
                model::TunnelProtocol::Hbone => Protocol::HBONE,
                model::TunnelProtocol::None => Protocol::TCP,
            },
            network_mode: match w.network_mode {
                model::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
                model::NetworkMode::Standard => NetworkMode::Standard,
            },
            services: w.services.iter().map(|(key, ports)| (key.to_string(), ports.0.clone())).collect(),
            waypoint: w.waypoint.as_ref().map(Gateway::from),
            network_gateway: w.network_gateway.as_ref().map(Gateway::from),
            application_tunnel: w.application_tunnel.map(|t| AppTunnel {
                protocol: match t.protocol {
                    model::AppTunnelProtocol::None => AppTunnelProtocol::NONE,
                    model::AppTunnelProtocol::Proxy => AppTunnelProtocol::PROXY,
                },
                port: t.port,
            }),
            native_tunnel: w.native_tunnel,
            authorization_policies: texts(&w.authorization_policies),
            egress: w.egress.as_ref().map(|e| Egress { policies: texts(&e.policies), exempt: texts(&e.exempt) }),
            node_addresses: w.node_addresses.as_deref().map(texts),
            status: match w.health {
                model::Health::Healthy => Status::Healthy,
                model::Health::Unhealthy => Status::Unhealthy,
            },
            workload_name: w.workload_name.to_string(),
            workload_type: w.workload_type.as_str().to_owned(),
            canonical_name: w.canonical_name.to_string(),
            canonical_revision: w.canonical_revision.to_string(),
            cluster_id: w.cluster_id.to_string(),
            locality: Locality {
                region: w.locality.region.to_string(),
                zone: w.locality.zone.to_string(),
                subzone: w.locality.subzone.to_string(),
            },
            capacity: w.capacity,
        }
    }
}

impl From<&model::GatewayAddress> for Gateway {
    fn from(g: &model::GatewayAddress) -> Self {
        Self { destination: g.destination.to_string(), hbone_mtls_port: g.hbone_port }
    }
}

impl From<&model_service::Service> for Service {
    fn from(s: &model_service::Service) -> Self {
        let block = |b: &model_service::CidrVip| CidrVip { network: b.network.to_string(), cidr: b.cidr.to_string() };
        let weighted = |w: &model_service::WeightedWaypoint| Weighted {
            destination: Gateway::from(&w.destination),
            weight: w.weight,
        };
        Self {
            name: s.name.to_string(),
            namespace: s.namespace.to_string(),
            hostname: s.hostname.to_string(),
            vips: texts(&s.vips),
            ports: s.ports.0.clone(),
            endpoints: std::collections::BTreeMap::new(),
            subject_alt_names: texts(&s.subject_alt_names),
            waypoint: s.waypoint.as_ref().map(Gateway::from),
            weighted_waypoints: s.weighted_waypoints.iter().map(weighted).collect(),
            load_balancer: s.load_balancing.as_ref().map(LoadBalancer::from),
            ip_families: match s.ip_families {
                model_service::IpFamilies::Automatic => None,
                model_service::IpFamilies::Dual => Some(IpFamilies::Dual),
                model_service::IpFamilies::Ipv4Only => Some(IpFamilies::IPv4),
                model_service::IpFamilies::Ipv6Only => Some(IpFamilies::IPv6),
            },
            cidr_vips: s.cidr_vips.iter().map(block).collect(),
            canonical: s.canonical,
            visibility: match s.visibility {
                model_service::Visibility::Namespace => Visibility::Namespace,
                model_service::Visibility::Public => Visibility::Public,
            },
        }
    }
}

impl From<&model_service::LoadBalancing> for LoadBalancer {
    fn from(l: &model_service::LoadBalancing) -> Self {
        use model_service::{HealthPolicy as Health, LoadBalancingMode as Mode, Scope};
        let scope = |s: &Scope| match s {
            Scope::Cluster => RoutingScope::Cluster,
            Scope::Network => RoutingScope::Network,
            Scope::Node => RoutingScope::Node,
            Scope::Region => RoutingScope::Region,
            Scope::Subzone => RoutingScope::Subzone,
            Scope::Zone => RoutingScope::Zone,
        };
        Self {
            routing_preferences: l.preference.iter().map(scope).collect(),
            mode: match l.mode {
                Mode::Failover => LoadBalancerMode::Failover,
                Mode::Passthrough => LoadBalancerMode::Passthrough,
                Mode::Strict => LoadBalancerMode::Strict,
                Mode::Unspecified => LoadBalancerMode::Standard,
            },
            health_policy: match l.health {
                Health::AllowAll => HealthPolicy::AllowAll,
                Health::OnlyHealthy => HealthPolicy::OnlyHealthy,
            },
        }
    }
}

impl From<&authz::Authorization> for Policy {
    fn from(a: &authz::Authorization) -> Self {
        let clause = |c: &authz::Clause| c.matches.iter().map(Match::from).collect();
        Self {
            name: a.name.to_string(),
            namespace: a.namespace.to_string(),
            scope: match a.scope {
                authz::Scope::Global => PolicyScope::Global,
                authz::Scope::Namespace => PolicyScope::Namespace,
                authz::Scope::WorkloadSelector => PolicyScope::WorkloadSelector,
            },
            action: match a.action {
                authz::Action::Allow => PolicyAction::Allow,
                authz::Action::Deny => PolicyAction::Deny,
            },
            rules: a.rules.iter().map(|r| r.clauses.iter().map(clause).collect()).collect(),
            dry_run: a.dry_run,
        }
    }
}

impl From<&authz::Match> for Match {
    fn from(m: &authz::Match) -> Self {
        let strings = |list: &[authz::StringMatch]| list.iter().map(StringMatch::from).collect();
        let account = |a: &authz::ServiceAccount| ServiceAccount {
            namespace: a.namespace.to_string(),
            service_account: a.name.to_string(),
        };
        Self {
            namespaces: strings(&m.namespaces),
            not_namespaces: strings(&m.not_namespaces),
            principals: strings(&m.principals),
            not_principals: strings(&m.not_principals),
            service_accounts: m.service_accounts.iter().map(account).collect(),
            not_service_accounts: m.not_service_accounts.iter().map(account).collect(),
            source_ips: texts(&m.source_ips),
            not_source_ips: texts(&m.not_source_ips),
            destination_ips: texts(&m.destination_ips),
            not_destination_ips: texts(&m.not_destination_ips),
            destination_ports: m.destination_ports.clone(),
            not_destination_ports: m.not_destination_ports.clone(),
        }
    }
}

impl From<&authz::StringMatch> for StringMatch {
    fn from(s: &authz::StringMatch) -> Self {
        match s {
            authz::StringMatch::Exact(x) => Self::Exact(x.to_string()),
            authz::StringMatch::Prefix(x) => Self::Prefix(x.to_string()),
            authz::StringMatch::Presence => Self::Presence(),
            authz::StringMatch::Suffix(x) => Self::Suffix(x.to_string()),
        }
    }
}

fn texts<T: std::fmt::Display>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}

//! What owners of objects are told: conditions where the kind has them, else Events.

use mesh::addr::Cidr;
use mesh::service::Visibility;

use super::routing::Guard;
use super::service::needs_waypoint;
use super::waypoint::{Binding, Refusal};
use crate::object::{
    Fault, Faults, Key, Kind, Meta, Pod, RequestPolicy, Service, ServiceEntry, Telemetry, WorkloadEntry, condition,
};
use crate::world::{Condition, Event, Name, ParentStatus, State, Status, USE_WAYPOINT};

impl State {
    /// What is to be said on an object; `None` when there is nothing to say and nothing to take back.
    pub(super) fn status(&self, key: &Key) -> Option<Status> {
        let (namespace, name) = (&key.namespace, &key.name);
        match key.kind {
            Kind::AuthorizationPolicy => {
                let policy = self.policies.authorization_policy(namespace, name)?;
                let condition = policy.condition().or_else(|| self.policy_condition(key));
                conclude(key, &policy.meta, false, condition.into_iter().collect(), None)
            }
            Kind::BackendTlsPolicy => {
                let policy = self.backend_tls.get(namespace, name)?;
                by_parent(key, &policy.meta, policy.reported, self.tls_ancestors(policy))
            }
            Kind::ConfigMap | Kind::ReferenceGrant => None,
            Kind::DestinationRule => {
                let rule = self.destinations.get(namespace, name)?;
                let condition = self.destination_condition(key);
                conclude(key, &rule.meta, rule.reported, condition.into_iter().collect(), None)
            }
            Kind::EndpointSlice => {
                let slice = self.slices.get(namespace, name)?;
                warn(key, &slice.meta, slice.faults.as_deref())
            }
            Kind::Gateway => self.gateways.get(namespace, name).and_then(|g| warn(key, &g.meta, Some(&g.faults))),
            Kind::GatewayClass => self.classes.get("", name).and_then(|c| warn(key, &c.meta, Some(&c.faults))),
            Kind::GrpcRoute | Kind::HttpRoute | Kind::TcpRoute | Kind::TlsRoute => {
                let route = self.layer7.routes.get(key)?;
                by_parent(key, &route.meta, route.reported, self.parents_of(route))
            }
            Kind::Namespace => self.namespaces.get("", name).and_then(|n| warn(key, &n.meta, Some(&n.faults))),
            Kind::NetworkPolicy => {
                let policy = self.policies.network_policy(namespace, name)?;
                warn(key, &policy.meta, Some(&policy.faults))
            }
            Kind::Node => self.nodes.get("", name).and_then(|n| warn(key, &n.meta, Some(&n.faults))),
            Kind::PeerAuthentication => {
                let policy = self.policies.peer_authentication(namespace, name)?;
                conclude(key, &policy.meta, false, policy.condition().into_iter().collect(), None)
            }
            Kind::Pod => {
                let pod = self.pods.get(namespace, name)?;
                self.of_pod_status(key, pod)
            }
            Kind::RequestAuthentication => {
                let policy = self.requests.get(namespace, name)?;
                conclude(key, &policy.meta, false, self.policy_condition(key).into_iter().collect(), None)
            }
            Kind::RequestPolicy => {
                self.request_policies.get(namespace, name).and_then(|p| self.of_request_policy(key, p))
            }
            Kind::Service => self.services.get(namespace, name).and_then(|s| self.of_service(key, s)),
            Kind::ServiceEntry => self.entries.get(namespace, name).and_then(|e| self.of_service_entry(key, e)),
            Kind::Telemetry => self.telemetries.get(namespace, name).and_then(|t| self.of_telemetry(key, t)),
            Kind::WorkloadEntry => {
                let entry = self.workload_entries.get(namespace, name)?;
                let binding = self.workload_entry_binding(entry);
                conclude(key, &entry.meta, entry.reported, status_of_entry(entry, &binding), None)
            }
        }
    }

    fn of_request_policy(&self, key: &Key, policy: &RequestPolicy) -> Option<Status> {
        conclude(key, &policy.meta, false, self.request_conditions(policy), None)
    }

    fn of_telemetry(&self, key: &Key, telemetry: &Telemetry) -> Option<Status> {
        conclude(key, &telemetry.meta, false, vec![self.telemetry_condition(telemetry)], None)
    }

    /// Pods have no conditions of ours; a label that has no effect is worth an Event.
    fn of_pod_status(&self, key: &Key, pod: &Pod) -> Option<Status> {
        let mut status = warn(key, &pod.meta, pod.faults.as_deref()).unwrap_or_else(|| blank(key, &pod.meta));
        if pod.meta.labels.get(USE_WAYPOINT.0).is_some()
            && self.instance(&key.namespace, &pod.meta.labels).is_none()
            && let Err(refusal) = self.pod_binding(pod)
        {
            let message = format!("{}{}", refusal.message, instead(&refusal, false));
            status.events.push(Event { reason: refusal.reason, message });
        }
        (!status.events.is_empty()).then_some(status)
    }

    fn of_service(&self, key: &Key, service: &Service) -> Option<Status> {
        let mut conditions = Vec::new();
        let mut faults = service.faults.clone();
        for ip in &service.balanced {
            let Some(other) = self.sharing(key, *ip) else { continue };
            faults.add(
                "status.loadBalancer.ingress",
                format!("{ip} is also an address of {other}, so pods that dial it are led to neither by the mesh"),
                "give each its own address, or dial the service's name",
            );
        }
        conditions.extend(accepted(&faults, !service.ports.is_empty()));
        if !service.external_name {
            conditions.extend(self.waypoint_conditions(key, &self.service_binding(service)));
        }
        conclude(key, &service.meta, service.reported, conditions, None)
    }

    fn of_service_entry(&self, key: &Key, entry: &ServiceEntry) -> Option<Status> {
        let mut faults = entry.faults.clone();
        self.contested(key, entry, &mut faults);
        let proposal = self.allocator.proposal(&Name::new(&key.namespace, &key.name));
        if proposal.is_some_and(|p| p.exhausted) {
            faults.add(
                "status.addresses",
                "a block for automatic addresses is full, so a host has none",
                "write spec.addresses, or give control a larger block",
            );
        }
        let binding = self.entry_binding(entry);
        let mut conditions = Vec::new();
        let lost = entry.hosts.iter().all(|h| self.winner(&key.namespace, h) != Some(key));
        conditions.extend(accepted(&faults, !lost && !entry.ports.is_empty()));
        conditions.extend(self.waypoint_conditions(key, &binding));
        conditions.extend(missing(entry, &binding));
        conditions.extend(visible(entry));
        let addresses = proposal.map(|p| p.addresses.clone()).filter(|a| *a != entry.allocated);
        conclude(key, &entry.meta, entry.reported, conditions, addresses)
    }

    /// The binding, and whether nobody passes it by.
    fn waypoint_conditions(&self, key: &Key, binding: &Result<Option<Binding>, Refusal>) -> Vec<Condition> {
        let guard = self.guard(key);
        let condition = |status, reason, message: &str| Condition {
            kind: condition::ENFORCED,
            status,
            reason,
            message: format!("{message}{}", self.shared_ports(key)),
        };
        let enforced = match (&guard, binding) {
            (Guard::Open, _) => None,
            (Guard::Waiting, _) => Some(condition(
                false,
                "Waiting",
                "not every node has acknowledged that traffic goes through the waypoint",
            )),
            (Guard::Shut(_), Ok(Some(_))) => Some(condition(
                true,
                "Enforced",
                "nobody but the waypoint reaches the endpoints on the service's ports",
            )),
            (Guard::Shut(_), _) => Some(condition(
                true,
                "Refused",
                "a security policy needs a waypoint, and there is none: traffic is refused",
            )),
        };
        bound(binding, guard != Guard::Open).into_iter().chain(enforced).collect()
    }

    /// Services without security policy whose endpoints may be the same on the same port: there nobody can be refused.
    fn shared_ports(&self, key: &Key) -> String {
        let Some(own) = self.services.get(&key.namespace, &key.name).filter(|_| key.kind == Kind::Service) else {
            return String::new();
        };
        let targets = |s: &Service| s.ports.iter().map(|p| p.target.clone()).collect::<Vec<_>>();
        let mine = targets(own);
        let meets = |other: &Service| {
            let (Some(a), Some(b)) = (&own.selector, &other.selector) else { return false };
            let apart = a.iter().any(|(k, v)| b.get(k).is_some_and(|other| other != v));
            !apart && targets(other).iter().any(|t| mine.contains(t))
        };
        let others = self.services.within(&key.namespace).filter(|s| {
            s.meta.name != own.meta.name && !s.external_name && meets(s) && !self.governed(&s.meta.key(Kind::Service))
        });
        let names: Vec<&str> = others.map(|s| &*s.meta.name).take(8).collect();
        match names[..] {
            [] => String::new(),
            _ => format!(
                ". Endpoints that service {} has too, without such a policy, are not guarded on the ports that both use",
                names.join(", ")
            ),
        }
    }

    /// Host names and addresses that somebody else has.
    fn contested(&self, key: &Key, entry: &ServiceEntry, faults: &mut Faults) {
        if entry.visibility.is_none() {
            return;
        }
        for (i, host) in entry.hosts.iter().enumerate() {
            if let Some(other) = self.winner(&key.namespace, host).filter(|k| *k != key) {
                faults.add(
                    format!("spec.hosts[{i}]"),
                    format!("{host} is defined by {other}, so this entry does not define it"),
                    "keep one of the two",
                );
            }
        }
        self.over_pods(entry, faults);
        let single = |b: &&Cidr| **b == Cidr::host(b.addr()) && self.of_pods(**b).is_none();
        for block in entry.addresses.iter().filter(single) {
            let ip = block.addr();
            let others = || self.vips.of(&ip).iter().filter(|k| *k != key);
            if let Some(other) = self.stronger(entry, ip, false) {
                faults.add(
                    "spec.addresses",
                    format!("{ip} is the address of {other}, so it is left out"),
                    "write an address that is nobody's",
                );
            } else if let Some(other) = others().find(|k| self.is_written(k, *block)) {
                faults.add(
                    "spec.addresses",
                    format!(
                        "{ip} is also an address of {other}: which of the two a client reaches depends on its namespace"
                    ),
                    "give each its own address",
                );
            }
        }
    }

    /// Addresses and blocks in which pods are.
    fn over_pods(&self, entry: &ServiceEntry, faults: &mut Faults) {
        for block in &entry.addresses {
            let host = *block == Cidr::host(block.addr());
            if let Some(why) = self.of_pods(*block) {
                let shown = if host { block.addr().to_string() } else { block.to_string() };
                faults.add(
                    "spec.addresses",
                    format!("{shown} {why}, so it is left out"),
                    "write an address that is no pod's; to lead clients to pods, use a Service",
                );
            } else if let Some(pods) = self.pods_within(*block).filter(|_| !host) {
                faults.add(
                    "spec.addresses",
                    format!("{block} has the pod network {pods} in it: pods are reached as pods, not by this entry"),
                    "write blocks without pods; Istio's ztunnel, if there is one, puts the entry first",
                );
            }
        }
    }

    fn is_written(&self, key: &Key, block: Cidr) -> bool {
        self.entries.get(&key.namespace, &key.name).is_some_and(|e| e.addresses.contains(&block))
    }
}

/// A kind without conditions of ours: its faults are Events.
fn warn(key: &Key, meta: &Meta, faults: Option<&Faults>) -> Option<Status> {
    let event = |f: &Fault| Event { reason: "InvalidField", message: f.to_string() };
    let events: Vec<Event> = faults?.iter().map(event).collect();
    (!events.is_empty()).then(|| Status { events, ..blank(key, meta) })
}

fn blank(key: &Key, meta: &Meta) -> Status {
    Status {
        object: key.clone(),
        uid: meta.uid.clone(),
        generation: meta.generation,
        conditions: Vec::new(),
        events: Vec::new(),
        parents: Vec::new(),
        addresses: None,
    }
}

/// A kind on which is said what is to be said by parent. `reported`: entries of ours are in the object.
fn by_parent(key: &Key, meta: &Meta, reported: bool, parents: Vec<ParentStatus>) -> Option<Status> {
    (reported || !parents.is_empty()).then(|| Status { parents, ..blank(key, meta) })
}

/// `reported`: conditions of ours are in the object, so that even none at all is something to say.
fn conclude(
    key: &Key,
    meta: &Meta,
    reported: bool,
    mut conditions: Vec<Condition>,
    addresses: Option<crate::world::Addresses>,
) -> Option<Status> {
    if conditions.is_empty() && addresses.is_none() && !reported {
        return None;
    }
    conditions.sort();
    Some(Status { conditions, addresses, ..blank(key, meta) })
}

fn status_of_entry(entry: &WorkloadEntry, binding: &Result<Option<Binding>, Refusal>) -> Vec<Condition> {
    accepted(&entry.faults, entry.endpoint.is_some()).into_iter().chain(bound(binding, false)).collect()
}

/// Faults in words. `usable`: something of the object is in discovery nevertheless.
fn accepted(faults: &Faults, usable: bool) -> Option<Condition> {
    let reason = if usable { "PartiallyInvalid" } else { "Invalid" };
    let made = || Condition { kind: condition::ACCEPTED, status: false, reason, message: faults.to_string() };
    (!faults.is_empty()).then(made)
}

/// What becomes of traffic whose waypoint is not there: nothing needs it, or a security policy does.
fn instead(refusal: &Refusal, governed: bool) -> &'static str {
    match refusal.reason {
        _ if governed => "; a security policy needs it, so traffic is refused",
        "WaypointIsNotReady" => "; traffic goes direct",
        _ => "",
    }
}

/// waypoint-api.md 3 and design.md 5.
fn bound(binding: &Result<Option<Binding>, Refusal>, governed: bool) -> Option<Condition> {
    let condition = |status, reason, message| Condition { kind: condition::BOUND, status, reason, message };
    match binding {
        Ok(None) => None,
        Err(refusal) => {
            Some(condition(false, refusal.reason, format!("{}{}", refusal.message, instead(refusal, governed))))
        }
        Ok(Some(binding)) => {
            let gateway = format!("{}/{}", binding.gateway.namespace, binding.gateway.name);
            let mut message = if binding.used {
                format!("traffic goes through waypoint {gateway}")
            } else {
                format!(
                    "bound to waypoint {gateway}, unused: no L7 policy; annotation {}: always uses it nevertheless",
                    crate::object::WAYPOINT_ANNOTATION
                )
            };
            if let Some(canary) = binding.canary.as_ref().filter(|_| binding.used) {
                message += &format!(". The canary waypoint has {} % of the connections", canary.weight);
            }
            if let Some(refusal) = &binding.canary_refusal {
                message += &format!(". Canary waypoint not attached ({}): {}", refusal.reason, refusal.message);
            }
            Some(condition(true, "WaypointAccepted", message))
        }
    }
}

fn missing(entry: &ServiceEntry, binding: &Result<Option<Binding>, Refusal>) -> Option<Condition> {
    let message = "hosts that are patterns, and resolution DYNAMIC_DNS, work through a waypoint only; bind the entry to one \
                   with label istio.io/use-waypoint";
    (needs_waypoint(entry) && !matches!(binding, Ok(Some(_)))).then(|| Condition {
        kind: condition::MISSING,
        status: true,
        reason: "NoWaypointForWildcardService",
        message: message.to_owned(),
    })
}

fn visible(entry: &ServiceEntry) -> Option<Condition> {
    let (reason, message) = match entry.visibility {
        Some(Visibility::Public) => return None,
        Some(Visibility::Namespace) => ("Namespace", "visible in its own namespace alone (spec.exportTo)"),
        None => ("None", "visible to nobody (spec.exportTo), so it is not in discovery"),
    };
    let message = message.to_owned();
    Some(Condition { kind: condition::VISIBILITY, status: true, reason, message })
}

//! An AuthorizationPolicy with targets, as waypoints get it: all fields, as the user wrote them, after a check.
//!
//! Values are checked by what waypoints judge by (crate `policy`), so that both ends say the same of each.
//!
//! What cannot be read must not make the policy weaker. A rule of ALLOW or AUDIT that holds such a value is left out, which
//! only allows less; a DENY or CUSTOM rule cannot be left out, so that the whole policy refuses everything until it is mended.

use std::sync::Arc;

use kubernetes::object::security as api;
use policy::request::{Authorization, Condition, Operation, RequestPolicies, Rule, Source};
use proto::routing as wire;

use super::value;
use crate::object::target::targets;
use crate::object::{Faults, Key, Meta, shown};

/// A policy for waypoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ForWaypoint {
    /// What it is attached to.
    pub targets: Vec<Key>,
    /// The message; for CUSTOM without whom to ask.
    pub ready: wire::Authorization,
    /// Name of the authorizer, for CUSTOM.
    pub provider: Option<Arc<str>>,
}

pub(super) fn for_waypoint(
    policy: &api::AuthorizationPolicy,
    meta: &Meta,
    dry_run: bool,
    faults: &mut Faults,
) -> ForWaypoint {
    let spec = &policy.spec;
    let targets = targets(&spec.target_refs, spec.target_ref.as_ref(), &meta.namespace, true, faults);
    let mut invalid = None;
    let action = match spec.action.as_ref().unwrap_or(&api::Action::Allow) {
        api::Action::Allow => wire::AuthorizationAction::Allow,
        api::Action::Deny => wire::AuthorizationAction::Deny,
        api::Action::Audit => wire::AuthorizationAction::Audit,
        api::Action::Custom => wire::AuthorizationAction::Custom,
        api::Action::Other(other) => {
            let what = format!("{} is not an action, so everything is refused", shown(other));
            faults.add("spec.action", what, "use ALLOW, DENY, AUDIT or CUSTOM");
            invalid = Some("spec.action is not known".to_owned());
            wire::AuthorizationAction::Deny
        }
    };
    let lenient = matches!(action, wire::AuthorizationAction::Allow | wire::AuthorizationAction::Audit);
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (i, r) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        let mut reader = Reader { own: &meta.namespace, faults, lenient, broken: false };
        let made = reader.rule(r, &field);
        if !reader.broken {
            rules.push(on_the_wire(made));
        } else if !lenient {
            invalid.get_or_insert(format!("{field} has a value that cannot be read"));
        }
    }
    let provider = spec.provider.as_ref().map(|p| Arc::from(p.name.as_str()));
    if action == wire::AuthorizationAction::Custom && provider.is_none() {
        faults.add("spec.provider", "is missing, so everything is refused", "name an extension provider of the mesh");
        invalid.get_or_insert("spec.provider is missing".to_owned());
    }
    let ready = wire::Authorization {
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
        action: action.into(),
        rules,
        external: None,
        dry_run,
        invalid: invalid.map(|reason| wire::Invalid { reason }),
    };
    ForWaypoint { targets, ready, provider: provider.filter(|_| action == wire::AuthorizationAction::Custom) }
}

/// Characters of a fault that are told: several times what one is long that repeats a path.
const LONGEST: usize = 400;

struct Reader<'a> {
    own: &'a Arc<str>,
    faults: &'a mut Faults,
    lenient: bool,
    broken: bool,
}

impl Reader<'_> {
    fn wrong(&mut self, field: &str, what: &str) {
        let then = if self.lenient { "until then the rule is left out" } else { "until then everything is refused" };
        self.faults.add(field, what, then);
        self.broken = true;
    }

    /// A rule as it is judged, whatever is wrong with it told in the words of who judges.
    fn rule(&mut self, of: &api::Rule, field: &str) -> Rule {
        let from = of.from.iter().map(|f| self.source(&f.source.clone().unwrap_or_default())).collect();
        let to = of.to.iter().enumerate();
        let to = to.map(|(i, t)| {
            self.operation(&t.operation.clone().unwrap_or_default(), &format!("{field}.to[{i}].operation"))
        });
        let to = to.collect();
        let when = of.when.iter().map(|c| self.condition(c)).collect();
        let rule = Rule { from, to, when };
        let alone =
            Authorization { namespace: self.own.clone(), rules: vec![rule.clone()], ..Authorization::default() };
        let (_, found) = RequestPolicies::compile(vec![alone]);
        for fault in found {
            // It repeats the user's text, however long that is.
            let what: String = fault.problem.chars().take(LONGEST).collect();
            self.wrong(&format!("{field}{}", place(&fault.place)), &what);
        }
        rule
    }

    fn accounts(&self, values: &[String]) -> Vec<String> {
        let whole = |t: &String| if t.contains('/') { t.clone() } else { format!("{}/{t}", self.own) };
        values.iter().map(whole).collect()
    }

    fn ports(&mut self, values: &[String], field: String) -> Vec<u32> {
        let mut ports = Vec::with_capacity(values.len());
        for (i, text) in values.iter().enumerate() {
            match value::port(text) {
                Ok(port) => ports.push(port.into()),
                Err(_) => {
                    self.wrong(&format!("{field}[{i}]"), &format!("{} is not a port from 1 to 65535", shown(text)))
                }
            }
        }
        ports
    }

    fn source(&self, of: &api::Source) -> Source {
        let api::Source {
            principals,
            not_principals,
            request_principals,
            not_request_principals,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks,
            not_remote_ip_blocks,
            trust_domains,
            not_trust_domains,
        } = of.clone();
        Source {
            principals: bare(&principals),
            not_principals: bare(&not_principals),
            request_principals,
            not_request_principals,
            namespaces,
            not_namespaces,
            service_accounts: self.accounts(&service_accounts),
            not_service_accounts: self.accounts(&not_service_accounts),
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks,
            not_remote_ip_blocks,
            trust_domains,
            not_trust_domains,
        }
    }

    fn operation(&mut self, of: &api::Operation, field: &str) -> Operation {
        let ports = self.ports(&of.ports, format!("{field}.ports"));
        let not_ports = self.ports(&of.not_ports, format!("{field}.notPorts"));
        let api::Operation { hosts, not_hosts, methods, not_methods, paths, not_paths, .. } = of.clone();
        Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths }
    }

    fn condition(&self, of: &api::RuleCondition) -> Condition {
        let read = |values: &[String]| match of.key.as_str() {
            "source.principal" => bare(values),
            "source.serviceAccount" => self.accounts(values),
            _ => values.to_vec(),
        };
        Condition { key: of.key.clone(), values: read(&of.values), not_values: read(&of.not_values) }
    }
}

/// Principals are compared without `spiffe://`; with it they are meant all the same.
fn bare(principals: &[String]) -> Vec<String> {
    principals.iter().map(|t| t.strip_prefix("spiffe://").unwrap_or(t).to_owned()).collect()
}

/// A place in the only rule, as the object has it: there every source and every operation has a name of its own.
fn place(judged: &str) -> String {
    let rest = judged.strip_prefix("rules[0]").unwrap_or(judged);
    for (list, inner) in [(".from[", ".source"), (".to[", ".operation")] {
        let Some(end) = rest.strip_prefix(list).and_then(|r| r.find(']')) else { continue };
        let (entry, field) = rest.split_at(list.len() + end + 1);
        return format!("{entry}{inner}{field}");
    }
    rest.to_owned()
}

fn on_the_wire(Rule { from, to, when }: Rule) -> wire::AuthorizationRule {
    let source = |s: Source| wire::Source {
        principals: s.principals,
        not_principals: s.not_principals,
        request_principals: s.request_principals,
        not_request_principals: s.not_request_principals,
        namespaces: s.namespaces,
        not_namespaces: s.not_namespaces,
        service_accounts: s.service_accounts,
        not_service_accounts: s.not_service_accounts,
        ip_blocks: s.ip_blocks,
        not_ip_blocks: s.not_ip_blocks,
        remote_ip_blocks: s.remote_ip_blocks,
        not_remote_ip_blocks: s.not_remote_ip_blocks,
        trust_domains: s.trust_domains,
        not_trust_domains: s.not_trust_domains,
    };
    let operation = |o: Operation| wire::Operation {
        hosts: o.hosts,
        not_hosts: o.not_hosts,
        ports: o.ports,
        not_ports: o.not_ports,
        methods: o.methods,
        not_methods: o.not_methods,
        paths: o.paths,
        not_paths: o.not_paths,
    };
    let condition = |c: Condition| wire::Condition { key: c.key, values: c.values, not_values: c.not_values };
    wire::AuthorizationRule {
        from: from.into_iter().map(source).collect(),
        to: to.into_iter().map(operation).collect(),
        when: when.into_iter().map(condition).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn places_are_those_of_the_object() {
        for (judged, written) in [
            ("rules[0].from[12].principals[2]", ".from[12].source.principals[2]"),
            ("rules[0].to[0]", ".to[0].operation"),
            ("rules[0].when[1].notValues[0]", ".when[1].notValues[0]"),
        ] {
            assert_eq!(place(judged), written);
        }
    }
}

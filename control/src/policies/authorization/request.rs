//! An AuthorizationPolicy with targets, as waypoints get it: all fields, as the user wrote them, after a check.
//!
//! What cannot be read must not make the policy weaker. A rule of ALLOW or AUDIT that holds such a value is left out, which
//! only allows less; a DENY or CUSTOM rule cannot be left out, so that the whole policy refuses everything until it is mended.

use std::sync::Arc;

use kubernetes::object::security as api;
use mesh::addr::Cidr;
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
            rules.push(made);
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

struct Reader<'a> {
    own: &'a str,
    faults: &'a mut Faults,
    lenient: bool,
    broken: bool,
}

impl Reader<'_> {
    fn wrong(&mut self, field: &str, what: String, remedy: &str) {
        let then = if self.lenient { "so the rule is left out" } else { "so the policy refuses everything" };
        self.faults.add(field, format!("{what}, {then}"), remedy);
        self.broken = true;
    }

    fn rule(&mut self, rule: &api::Rule, field: &str) -> wire::AuthorizationRule {
        let mut made = wire::AuthorizationRule::default();
        for (i, from) in rule.from.iter().enumerate() {
            let at = format!("{field}.from[{i}].source");
            let source = from.source.clone().unwrap_or_default();
            if source == api::Source::default() {
                self.wrong(
                    &at,
                    "is empty".to_owned(),
                    "name who it is for, or remove it; check the spelling of its fields",
                );
            }
            made.from.push(self.source(&source, &at));
        }
        for (i, to) in rule.to.iter().enumerate() {
            let at = format!("{field}.to[{i}].operation");
            let operation = to.operation.clone().unwrap_or_default();
            if operation == api::Operation::default() {
                self.wrong(
                    &at,
                    "is empty".to_owned(),
                    "name what it is for, or remove it; check the spelling of its fields",
                );
            }
            made.to.push(self.operation(&operation, &at));
        }
        for (i, when) in rule.when.iter().enumerate() {
            made.when.push(self.condition(when, &format!("{field}.when[{i}]")));
        }
        made
    }

    /// Checks each value.
    fn each(&mut self, values: &[String], field: String, good: impl Fn(&str) -> bool, remedy: &str) -> Vec<String> {
        for (i, text) in values.iter().enumerate().filter(|(_, text)| !good(text)) {
            self.wrong(&format!("{field}[{i}]"), format!("{} cannot be read", shown(text)), remedy);
        }
        values.to_vec()
    }

    fn texts(&mut self, values: &[String], field: String) -> Vec<String> {
        self.each(values, field, |t| value::text(t).is_ok(), "write it exactly, as x*, as *x or as *")
    }

    fn blocks(&mut self, values: &[String], field: String) -> Vec<String> {
        self.each(values, field, |t| t.parse::<Cidr>().is_ok(), "write it as 10.0.0.1 or 10.0.0.0/8")
    }

    fn accounts(&mut self, values: &[String], field: String) -> Vec<String> {
        let own = self.own;
        let remedy = "write it as <namespace>/<name> or <name>, without wildcards";
        let read = self.each(values, field, |t| value::service_account(t, own).is_ok(), remedy);
        read.into_iter().map(|t| if t.contains('/') { t } else { format!("{own}/{t}") }).collect()
    }

    /// Principals are compared without `spiffe://`; with it they are meant all the same.
    fn principals(&mut self, values: &[String], field: String) -> Vec<String> {
        let bare = values.iter().map(|t| t.strip_prefix("spiffe://").unwrap_or(t).to_owned()).collect::<Vec<_>>();
        self.texts(&bare, field)
    }

    fn ports(&mut self, values: &[String], field: String) -> Vec<u32> {
        let texts = self.each(values, field, |t| value::port(t).is_ok(), "write a number from 1 to 65535");
        texts.iter().filter_map(|t| t.parse().ok()).collect()
    }

    fn source(&mut self, of: &api::Source, field: &str) -> wire::Source {
        let at = |name: &str| format!("{field}.{name}");
        wire::Source {
            principals: self.principals(&of.principals, at("principals")),
            not_principals: self.principals(&of.not_principals, at("notPrincipals")),
            request_principals: self.texts(&of.request_principals, at("requestPrincipals")),
            not_request_principals: self.texts(&of.not_request_principals, at("notRequestPrincipals")),
            namespaces: self.texts(&of.namespaces, at("namespaces")),
            not_namespaces: self.texts(&of.not_namespaces, at("notNamespaces")),
            service_accounts: self.accounts(&of.service_accounts, at("serviceAccounts")),
            not_service_accounts: self.accounts(&of.not_service_accounts, at("notServiceAccounts")),
            ip_blocks: self.blocks(&of.ip_blocks, at("ipBlocks")),
            not_ip_blocks: self.blocks(&of.not_ip_blocks, at("notIpBlocks")),
            remote_ip_blocks: self.blocks(&of.remote_ip_blocks, at("remoteIpBlocks")),
            not_remote_ip_blocks: self.blocks(&of.not_remote_ip_blocks, at("notRemoteIpBlocks")),
            trust_domains: self.texts(&of.trust_domains, at("trustDomains")),
            not_trust_domains: self.texts(&of.not_trust_domains, at("notTrustDomains")),
        }
    }

    fn operation(&mut self, of: &api::Operation, field: &str) -> wire::Operation {
        let at = |name: &str| format!("{field}.{name}");
        wire::Operation {
            hosts: self.texts(&of.hosts, at("hosts")),
            not_hosts: self.texts(&of.not_hosts, at("notHosts")),
            ports: self.ports(&of.ports, at("ports")),
            not_ports: self.ports(&of.not_ports, at("notPorts")),
            methods: self.texts(&of.methods, at("methods")),
            not_methods: self.texts(&of.not_methods, at("notMethods")),
            paths: self.paths(&of.paths, at("paths")),
            not_paths: self.paths(&of.not_paths, at("notPaths")),
        }
    }

    /// Paths may also be templates: `{*}` for one element, `{**}` for any number of them.
    fn paths(&mut self, values: &[String], field: String) -> Vec<String> {
        let good = |t: &str| t.contains(['{', '}']) || value::text(t).is_ok();
        self.each(values, field, good, "write it exactly, as /x*, as *x, as * or as a template such as /x/{*}/y")
    }

    fn condition(&mut self, of: &api::RuleCondition, field: &str) -> wire::Condition {
        let (some, none) = (format!("{field}.values"), format!("{field}.notValues"));
        if of.values.is_empty() && of.not_values.is_empty() {
            self.wrong(field, "has neither values nor notValues".to_owned(), "write one of the two");
        }
        let (values, not_values) = match of.key.as_str() {
            "source.ip" | "remote.ip" | "destination.ip" => {
                (self.blocks(&of.values, some), self.blocks(&of.not_values, none))
            }
            "source.principal" => (self.principals(&of.values, some), self.principals(&of.not_values, none)),
            "source.serviceAccount" => (self.accounts(&of.values, some), self.accounts(&of.not_values, none)),
            "destination.port" => {
                let text = |ports: Vec<u32>| ports.iter().map(ToString::to_string).collect();
                (text(self.ports(&of.values, some)), text(self.ports(&of.not_values, none)))
            }
            key if known(key) => (self.texts(&of.values, some), self.texts(&of.not_values, none)),
            key => {
                let what = format!("{} is not a key", shown(key));
                self.wrong(&format!("{field}.key"), what, "use a key of Istio's list of authorization conditions");
                (Vec::new(), Vec::new())
            }
        };
        wire::Condition { key: of.key.clone(), values, not_values }
    }
}

/// Keys whose values are texts (Istio's reference "Authorization Policy Conditions").
fn known(key: &str) -> bool {
    let within = |prefix: &str| key.strip_prefix(prefix).is_some_and(|rest| rest.len() > 2 && rest.ends_with(']'));
    matches!(
        key,
        "source.namespace"
            | "connection.sni"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter"
    ) || within("request.headers[")
        || within("request.auth.claims[")
}

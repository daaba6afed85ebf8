//! From rules to clauses.

use kubernetes::object::security as api;
use mesh::authz::{Action, Clause, Match, Rule};

use super::value::{self, Wrong};
use crate::object::{Faults, shown};

/// What a user reads about a field that needs a waypoint.
const WAYPOINT: &str = "attach a policy with this field to a waypoint by targetRefs";

/// Lowers all rules of a policy. What is left out is told.
pub(super) fn rules(action: Action, namespace: &str, rules: &[api::Rule], faults: &mut Faults) -> Vec<Rule> {
    let mut lowered = Vec::with_capacity(rules.len());
    for (i, rule) in rules.iter().enumerate() {
        let mut reader = Reader { action, namespace, faults, unseen: Vec::new() };
        let parts = reader.rule(rule, &format!("spec.rules[{i}]"));
        let unseen = reader.unseen;
        let made = match action {
            Action::Allow => allow(parts, unseen.is_empty()),
            Action::Deny => deny(parts),
        };
        let what = match action {
            Action::Allow => "cannot be seen at L4, so the rule is left out and allows nothing",
            Action::Deny if made.is_empty() => "has no effect at L4: needs a waypoint",
            Action::Deny => "cannot be seen at L4, so the rule denies whatever its value",
        };
        unseen.into_iter().for_each(|field| faults.add(field, what, WAYPOINT));
        lowered.extend(made);
    }
    lowered
}

/// One of `to`, `from` and each `when`: alternatives.
#[derive(Default)]
struct Part {
    /// Those that say something at L4.
    matches: Vec<Match>,
    /// There is one that says nothing at L4.
    silent: bool,
}

/// Everything must be seen, and every part must have an alternative that can hold.
fn allow(parts: Vec<Part>, all_seen: bool) -> Vec<Rule> {
    if !all_seen || parts.iter().any(|p| p.matches.is_empty()) {
        return Vec::new();
    }
    vec![Rule { clauses: parts.into_iter().map(|p| Clause { matches: p.matches }).collect() }]
}

/// The union of the L4 parts of all alternatives, without those that have none.
///
/// A silent alternative leaves its part open, so that what the other parts say decides. With a part that is never silent
/// those parts alone are the union. If every part may be silent, each part by itself is one alternative of the union, and
/// the alternative in which all are silent is the one that is left out.
fn deny(parts: Vec<Part>) -> Vec<Rule> {
    let clause = |p: Part| Clause { matches: p.matches };
    if parts.is_empty() {
        return vec![Rule::default()];
    }
    if parts.iter().any(|p| !p.silent) {
        return vec![Rule { clauses: parts.into_iter().filter(|p| !p.silent).map(clause).collect() }];
    }
    let speaking = parts.into_iter().filter(|p| !p.matches.is_empty());
    speaking.map(|p| Rule { clauses: vec![clause(p)] }).collect()
}

/// Reads one rule.
struct Reader<'a> {
    action: Action,
    namespace: &'a str,
    faults: &'a mut Faults,
    /// Fields that L4 cannot see.
    unseen: Vec<String>,
}

/// One alternative.
#[derive(Default)]
struct Alternative {
    says: Match,
    /// It cannot hold: a value that ALLOW would need cannot be read.
    never: bool,
    /// Something of it cannot be seen or read.
    partial: bool,
}

impl Reader<'_> {
    fn rule(&mut self, rule: &api::Rule, field: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        // The order of the wire: to, from, each `when` (discovery.md 4).
        if !rule.to.is_empty() {
            let mut part = Part::default();
            for (i, to) in rule.to.iter().enumerate() {
                let at = format!("{field}.to[{i}].operation");
                let read = to.operation.as_ref().map(|o| self.operation(o, &at)).unwrap_or_default();
                self.alternative(&mut part, read, &at);
            }
            parts.push(part);
        }
        if !rule.from.is_empty() {
            let mut part = Part::default();
            for (i, from) in rule.from.iter().enumerate() {
                let at = format!("{field}.from[{i}].source");
                let read = from.source.as_ref().map(|s| self.source(s, &at)).unwrap_or_default();
                self.alternative(&mut part, read, &at);
            }
            parts.push(part);
        }
        for (i, when) in rule.when.iter().enumerate() {
            let at = format!("{field}.when[{i}]");
            let read = self.condition(when, &at);
            let mut part = Part::default();
            self.alternative(&mut part, read, &at);
            parts.push(part);
        }
        parts
    }

    fn alternative(&mut self, part: &mut Part, read: Alternative, field: &str) {
        let empty = read.says == Match::default();
        if empty && !read.partial {
            let what = match self.action {
                Action::Allow => "is empty and matches nothing",
                Action::Deny => "is empty, so that the rest of the rule decides",
            };
            self.faults.add(field, what, "name what it is for, or remove it; check the spelling of its fields");
        }
        match () {
            () if read.never => {}
            () if empty => part.silent = true,
            () => part.matches.push(read.says),
        }
    }

    fn operation(&mut self, from: &api::Operation, field: &str) -> Alternative {
        let mut to = Alternative::default();
        to.says.destination_ports = self.some(&mut to, &from.ports, &format!("{field}.ports"), value::port);
        to.says.not_destination_ports = self.none(&mut to, &from.not_ports, &format!("{field}.notPorts"), value::port);
        let unseen = [
            ("hosts", &from.hosts),
            ("notHosts", &from.not_hosts),
            ("methods", &from.methods),
            ("notMethods", &from.not_methods),
            ("paths", &from.paths),
            ("notPaths", &from.not_paths),
        ];
        self.unseen(&mut to, &unseen, field);
        to
    }

    fn source(&mut self, from: &api::Source, field: &str) -> Alternative {
        let mut to = Alternative::default();
        let own = self.namespace;
        let account = |text: &str| value::service_account(text, own);
        let at = |name: &str| format!("{field}.{name}");
        to.says.namespaces = self.some(&mut to, &from.namespaces, &at("namespaces"), value::text);
        to.says.not_namespaces = self.none(&mut to, &from.not_namespaces, &at("notNamespaces"), value::text);
        to.says.service_accounts = self.some(&mut to, &from.service_accounts, &at("serviceAccounts"), account);
        to.says.not_service_accounts =
            self.none(&mut to, &from.not_service_accounts, &at("notServiceAccounts"), account);
        to.says.source_ips = self.some(&mut to, &from.ip_blocks, &at("ipBlocks"), value::block);
        to.says.not_source_ips = self.none(&mut to, &from.not_ip_blocks, &at("notIpBlocks"), value::block);
        self.principals(&mut to, from, field);
        let unseen = [
            ("requestPrincipals", &from.request_principals),
            ("notRequestPrincipals", &from.not_request_principals),
            ("remoteIpBlocks", &from.remote_ip_blocks),
            ("notRemoteIpBlocks", &from.not_remote_ip_blocks),
        ];
        self.unseen(&mut to, &unseen, field);
        to
    }

    /// Principals and trust domains: both are texts that a principal begins with. The wire takes one list of them, of
    /// which one must hold, so that a list of each cannot be asked for at once.
    fn principals(&mut self, to: &mut Alternative, from: &api::Source, field: &str) {
        let at = |name: &str| format!("{field}.{name}");
        let given = self.without_scheme(&from.principals, &at("principals"));
        let not = self.without_scheme(&from.not_principals, &at("notPrincipals"));
        to.says.principals = self.some(to, &given, &at("principals"), value::text);
        let domains = if from.principals.is_empty() {
            self.some(to, &from.trust_domains, &at("trustDomains"), value::trust_domain)
        } else {
            let beside = |_: &str| Err(Wrong("stands beside principals", "write the trust domain into the principals"));
            self.some(to, &from.trust_domains, &at("trustDomains"), beside)
        };
        to.says.principals.extend(domains);
        to.says.not_principals = self.none(to, &not, &at("notPrincipals"), value::text);
        let domains = self.none(to, &from.not_trust_domains, &at("notTrustDomains"), value::trust_domain);
        to.says.not_principals.extend(domains);
    }

    /// Principals are compared without `spiffe://`. With it an ALLOW matches nobody, as in Istio; a denial is meant, so
    /// that it is taken as if it were written right.
    fn without_scheme(&mut self, principals: &[String], field: &str) -> Vec<String> {
        let one = |(i, text): (usize, &String)| match text.strip_prefix("spiffe://") {
            None => text.clone(),
            Some(bare) => {
                let (what, kept) = match self.action {
                    Action::Allow => ("begins with spiffe://, so nobody has it", text.as_str()),
                    Action::Deny => ("begins with spiffe://, and is read without it", bare),
                };
                self.faults.add(format!("{field}[{i}]"), format!("{} {what}", shown(text)), "leave spiffe:// out");
                kept.to_owned()
            }
        };
        principals.iter().enumerate().map(one).collect()
    }

    fn condition(&mut self, when: &api::RuleCondition, field: &str) -> Alternative {
        let mut to = Alternative::default();
        let (values, not) = (format!("{field}.values"), format!("{field}.notValues"));
        match when.key.as_str() {
            "source.ip" => {
                to.says.source_ips = self.some(&mut to, &when.values, &values, value::block);
                to.says.not_source_ips = self.none(&mut to, &when.not_values, &not, value::block);
            }
            "source.namespace" => {
                to.says.namespaces = self.some(&mut to, &when.values, &values, value::text);
                to.says.not_namespaces = self.none(&mut to, &when.not_values, &not, value::text);
            }
            "source.principal" => {
                let (some, none) =
                    (self.without_scheme(&when.values, &values), self.without_scheme(&when.not_values, &not));
                to.says.principals = self.some(&mut to, &some, &values, value::text);
                to.says.not_principals = self.none(&mut to, &none, &not, value::text);
            }
            "destination.ip" => {
                to.says.destination_ips = self.some(&mut to, &when.values, &values, value::block);
                to.says.not_destination_ips = self.none(&mut to, &when.not_values, &not, value::block);
            }
            "destination.port" => {
                to.says.destination_ports = self.some(&mut to, &when.values, &values, value::port);
                to.says.not_destination_ports = self.none(&mut to, &when.not_values, &not, value::port);
            }
            _ => {
                to.partial = true;
                self.unseen.push(format!("{field}.key {}", shown(&when.key)));
            }
        }
        to
    }

    fn unseen(&mut self, to: &mut Alternative, fields: &[(&str, &Vec<String>)], field: &str) {
        for (name, _) in fields.iter().filter(|(_, values)| !values.is_empty()) {
            to.partial = true;
            self.unseen.push(format!("{field}.{name}"));
        }
    }

    /// Values of which one must hold. With one that cannot be read an ALLOW has the others only, and a DENY is open here.
    fn some<T>(
        &mut self,
        to: &mut Alternative,
        texts: &[String],
        field: &str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let (good, broken) = self.read(texts, field, read);
        match self.action {
            _ if !broken => return good,
            Action::Allow if good.is_empty() => to.never = true,
            Action::Allow => return good,
            Action::Deny => {}
        }
        to.partial = true;
        Vec::new()
    }

    /// Values of which none may hold. With one that cannot be read an ALLOW cannot hold, and a DENY spares the others only.
    fn none<T>(
        &mut self,
        to: &mut Alternative,
        texts: &[String],
        field: &str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let (good, broken) = self.read(texts, field, read);
        to.partial |= broken;
        to.never |= broken && self.action == Action::Allow;
        good
    }

    fn read<T>(&mut self, texts: &[String], field: &str, read: impl Fn(&str) -> Result<T, Wrong>) -> (Vec<T>, bool) {
        let then = match self.action {
            Action::Allow => "so it allows nothing",
            Action::Deny => "so any value is denied here",
        };
        let mut good = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            match read(text) {
                Ok(value) => good.push(value),
                Err(Wrong(what, remedy)) => {
                    self.faults.add(format!("{field}[{i}]"), format!("{} {what}, {then}", shown(text)), remedy);
                }
            }
        }
        let broken = good.len() < texts.len();
        (good, broken)
    }
}

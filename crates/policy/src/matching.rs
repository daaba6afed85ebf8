//! Whether a rule matches (discovery.md 4, "Evaluation").
//!
//! Rules OR; clauses AND; matches in a clause OR; kinds inside a match AND; values of a kind OR; of a `not_` kind none
//! may hold; an absent kind is true. No rules: never. No clauses: always. No matches in a clause: true. A match without
//! any kind matches nothing.

use std::net::IpAddr;

use mesh::addr::{Cidr, canonical};
use mesh::authz::{Authorization, Clause, Match, Rule};

use crate::miss::Kind;
use crate::verdict::Connection;

/// A connection with the texts that policies compare, made once per judgement.
pub(crate) struct Facts<'a> {
    pub(crate) connection: &'a Connection,
    /// Identity without `spiffe://`; absent for a connection in clear, and then nothing matches it, not even presence.
    pub(crate) principal: Option<String>,
    pub(crate) source_ip: IpAddr,
    /// Absent where only a name is known of the destination: then any address may be meant.
    pub(crate) destination_ip: Option<IpAddr>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            principal: connection.source.as_ref().map(mesh::Identity::principal),
            source_ip: canonical(connection.source_ip),
            destination_ip: Some(canonical(connection.destination_ip)),
        }
    }

    /// Namespace of the source; empty for a connection in clear.
    pub(crate) fn namespace(&self) -> &str {
        self.connection.source.as_ref().map_or("", |s| s.namespace())
    }

    /// Index of the first rule that matches.
    pub(crate) fn matching_rule(&self, policy: &Authorization) -> Option<usize> {
        policy.rules.iter().position(|r| self.rule(r))
    }

    fn rule(&self, rule: &Rule) -> bool {
        rule.clauses.iter().all(|c| self.clause(c))
    }

    pub(crate) fn clause(&self, clause: &Clause) -> bool {
        clause.matches.is_empty() || clause.matches.iter().any(|m| self.fits(m))
    }

    fn fits(&self, m: &Match) -> bool {
        *m != Match::default() && Kind::ALL.iter().all(|k| self.kind(m, *k) != Held::No)
    }

    /// Whether one kind of a match holds.
    pub(crate) fn kind(&self, m: &Match, kind: Kind) -> Held {
        let source = self.connection.source.as_ref();
        let account = |a: &mesh::authz::ServiceAccount| {
            source.is_some_and(|s| a.namespace == *s.namespace() && a.name == *s.service_account())
        };
        let principal = |p: &mesh::authz::StringMatch| self.principal.as_ref().is_some_and(|got| p.matches(got));
        let namespace = |n: &mesh::authz::StringMatch| n.matches(self.namespace());
        let port = self.connection.destination_port;
        match kind {
            Kind::DestinationIps => one(&m.destination_ips, |c| self.destination_ip.is_none_or(|ip| c.contains(ip))),
            Kind::DestinationPorts => one(&m.destination_ports, |p| *p == port),
            Kind::Namespaces => one(&m.namespaces, namespace),
            Kind::NotDestinationIps => match self.destination_ip {
                Some(ip) => none(&m.not_destination_ips, |c| c.contains(ip)),
                // Some address is in none of them, unless they hold all addresses that there are.
                None => none(&m.not_destination_ips, |_| everything(&m.not_destination_ips)),
            },
            Kind::NotDestinationPorts => none(&m.not_destination_ports, |p| *p == port),
            Kind::NotNamespaces => none(&m.not_namespaces, namespace),
            Kind::NotPrincipals => none(&m.not_principals, principal),
            Kind::NotServiceAccounts => none(&m.not_service_accounts, account),
            Kind::NotSourceIps => none(&m.not_source_ips, |c| c.contains(self.source_ip)),
            Kind::Principals => one(&m.principals, principal),
            Kind::ServiceAccounts => one(&m.service_accounts, account),
            Kind::SourceIps => one(&m.source_ips, |c| c.contains(self.source_ip)),
        }
    }
}

/// Whether a kind holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It is not there, which counts as holding.
    Absent,
    No,
    Yes,
}

/// Whether blocks hold every address of both families. Those that control sends are merged, so that the two widest would be
/// among them.
fn everything(blocks: &[Cidr]) -> bool {
    [true, false].into_iter().all(|v4| blocks.iter().any(|b| b.prefix_len() == 0 && b.addr().is_ipv4() == v4))
}

fn one<T>(values: &[T], test: impl Fn(&T) -> bool) -> Held {
    match values {
        [] => Held::Absent,
        _ if values.iter().any(test) => Held::Yes,
        _ => Held::No,
    }
}

fn none<T>(values: &[T], test: impl Fn(&T) -> bool) -> Held {
    match one(values, test) {
        Held::Absent => Held::Absent,
        Held::No => Held::Yes,
        Held::Yes => Held::No,
    }
}

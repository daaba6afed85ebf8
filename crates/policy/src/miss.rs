//! Which ALLOW rule came closest, and what it lacked.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use mesh::authz::{Authorization, Clause, Match};

use crate::matching::{Facts, Held};

/// How many of the wanted values are named: enough to recognise the rule, short enough for a log line.
const MAX_VALUES: usize = 3;
/// Characters of one value at most: two DNS names of 63 letters and what stands around them.
const MAX_VALUE_LEN: usize = 160;

/// What a match can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `destination_ips`.
    DestinationIps,
    /// `destination_ports`.
    DestinationPorts,
    /// `namespaces` of the source.
    Namespaces,
    /// `not_destination_ips`.
    NotDestinationIps,
    /// `not_destination_ports`.
    NotDestinationPorts,
    /// `not_namespaces` of the source.
    NotNamespaces,
    /// `not_principals`.
    NotPrincipals,
    /// `not_service_accounts`.
    NotServiceAccounts,
    /// `not_source_ips`.
    NotSourceIps,
    /// `principals`.
    Principals,
    /// `service_accounts`.
    ServiceAccounts,
    /// `source_ips`.
    SourceIps,
}

impl Kind {
    /// Every kind, those about the source's identity first: when several fail, it is the one worth naming.
    pub const ALL: [Self; 12] = [
        Self::Principals,
        Self::NotPrincipals,
        Self::ServiceAccounts,
        Self::NotServiceAccounts,
        Self::Namespaces,
        Self::NotNamespaces,
        Self::SourceIps,
        Self::NotSourceIps,
        Self::DestinationPorts,
        Self::NotDestinationPorts,
        Self::DestinationIps,
        Self::NotDestinationIps,
    ];

    /// The name of the field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DestinationIps => "destination_ips",
            Self::DestinationPorts => "destination_ports",
            Self::Namespaces => "namespaces",
            Self::NotDestinationIps => "not_destination_ips",
            Self::NotDestinationPorts => "not_destination_ports",
            Self::NotNamespaces => "not_namespaces",
            Self::NotPrincipals => "not_principals",
            Self::NotServiceAccounts => "not_service_accounts",
            Self::NotSourceIps => "not_source_ips",
            Self::Principals => "principals",
            Self::ServiceAccounts => "service_accounts",
            Self::SourceIps => "source_ips",
        }
    }
}

/// The ALLOW rule that came closest. Prints `shop/recommender rule 0: principals want …, got …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearestMiss {
    /// Key of the policy, `namespace/name`.
    pub policy: Arc<str>,
    /// Index of the rule.
    pub rule: usize,
    /// What failed; `None` when the rule holds an empty match, which nothing can satisfy.
    pub kind: Option<Kind>,
    /// The wanted values, bounded in number and length.
    pub wanted: String,
    /// What the connection had instead.
    pub got: String,
    /// How many more kinds failed besides.
    pub others: usize,
}

impl fmt::Display for NearestMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}: ", self.policy, self.rule)?;
        match self.kind {
            Some(kind) => write!(f, "{} want {}, got {}", kind.as_str(), self.wanted, self.got)?,
            None => f.write_str("it holds an empty match, which matches nothing")?,
        }
        match self.others {
            0 => Ok(()),
            n => write!(f, " (and {n} more)"),
        }
    }
}

/// The nearest miss among ALLOW policies of which no rule matched; `None` when they have no rules.
pub(crate) fn nearest<'a>(
    facts: &Facts<'_>,
    policies: impl Iterator<Item = (&'a Arc<str>, &'a Authorization)>,
) -> Option<NearestMiss> {
    let rules = policies.flat_map(|(key, p)| p.rules.iter().enumerate().map(move |(i, r)| (key, i, r)));
    let lacks = rules.filter_map(|(key, i, rule)| {
        let failing: Vec<Lack<'_>> = rule.clauses.iter().filter_map(|c| Lack::of(facts, c)).collect();
        let first = failing.first().copied()?;
        let missing: usize = failing.iter().map(|l| l.failing.max(1)).sum();
        let holding = rule.clauses.len() - failing.len() + failing.iter().map(|l| l.holding).sum::<usize>();
        Some(((missing, Reverse(holding)), key, i, first))
    });
    let ((missing, _), key, rule, lack) = lacks.min_by_key(|(score, ..)| *score)?;
    Some(NearestMiss {
        policy: key.clone(),
        rule,
        kind: lack.kind,
        wanted: lack.kind.map(|k| wanted(lack.of, k)).unwrap_or_default(),
        got: lack.kind.map(|k| got(facts, k)).unwrap_or_default(),
        others: missing - 1,
    })
}

/// What a clause that does not hold lacks: the match in it that came closest.
#[derive(Clone, Copy)]
struct Lack<'a> {
    of: &'a Match,
    /// The first kind that fails.
    kind: Option<Kind>,
    failing: usize,
    holding: usize,
}

impl<'a> Lack<'a> {
    fn of(facts: &Facts<'_>, clause: &'a Clause) -> Option<Self> {
        if facts.clause(clause) {
            return None;
        }
        let lacks = clause.matches.iter().map(|m| {
            let with = |want: Held| Kind::ALL.into_iter().filter(move |k| facts.kind(m, *k) == want);
            let (failing, holding) = (with(Held::No).count(), with(Held::Yes).count());
            Self { of: m, kind: with(Held::No).next(), failing, holding }
        });
        // An empty match fails nothing, yet can never match: it comes last.
        lacks.min_by_key(|l| (l.kind.is_none(), l.failing, Reverse(l.holding)))
    }
}

fn wanted(m: &Match, kind: Kind) -> String {
    match kind {
        Kind::DestinationIps => any(&m.destination_ips),
        Kind::DestinationPorts => any(&m.destination_ports),
        Kind::Namespaces => any(&m.namespaces),
        Kind::NotDestinationIps => not(&m.not_destination_ips),
        Kind::NotDestinationPorts => not(&m.not_destination_ports),
        Kind::NotNamespaces => not(&m.not_namespaces),
        Kind::NotPrincipals => not(&m.not_principals),
        Kind::NotServiceAccounts => not(&m.not_service_accounts),
        Kind::NotSourceIps => not(&m.not_source_ips),
        Kind::Principals => any(&m.principals),
        Kind::ServiceAccounts => any(&m.service_accounts),
        Kind::SourceIps => any(&m.source_ips),
    }
}

pub(crate) fn got(facts: &Facts<'_>, kind: Kind) -> String {
    let of_source = |text: fn(&mesh::Identity) -> String| {
        facts.connection.source.as_ref().map_or_else(|| "no identity".to_owned(), |s| shortened(&text(s)))
    };
    match kind {
        Kind::DestinationIps | Kind::NotDestinationIps => {
            facts.destination_ip.map_or_else(|| "a name".to_owned(), |ip| ip.to_string())
        }
        Kind::DestinationPorts | Kind::NotDestinationPorts => facts.connection.destination_port.to_string(),
        Kind::Namespaces | Kind::NotNamespaces => of_source(|s| s.namespace().to_string()),
        Kind::NotPrincipals | Kind::Principals => of_source(mesh::Identity::principal),
        Kind::NotServiceAccounts | Kind::ServiceAccounts => {
            of_source(|s| format!("{}/{}", s.namespace(), s.service_account()))
        }
        Kind::NotSourceIps | Kind::SourceIps => facts.source_ip.to_string(),
    }
}

pub(crate) fn any<T: fmt::Display>(values: &[T]) -> String {
    let named: Vec<String> = values.iter().take(MAX_VALUES).map(|v| shortened(&v.to_string())).collect();
    let mut text = named.join(" or ");
    if values.len() > MAX_VALUES {
        text.push_str(&format!(" or {} more", values.len() - MAX_VALUES));
    }
    text
}

pub(crate) fn not<T: fmt::Display>(values: &[T]) -> String {
    format!("anything but {}", any(values))
}

pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_VALUE_LEN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

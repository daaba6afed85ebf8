//! `istio.security.Authorization` (discovery.md 4).

use mesh::addr::Cidr;
use mesh::authz::{Action, Authorization, Clause, Match, Rule, Scope, ServiceAccount, StringMatch};
use proto::security as wire;

use super::Reason;
use super::common::{cidr, ip_bytes, known, port};

/// Reads a policy.
///
/// # Errors
/// When the name is missing, scope or action are unknown, an address, prefix or port is malformed, or a text comparison
/// does not say how to compare.
pub fn authorization_from_wire(a: wire::Authorization) -> Result<Authorization, Reason> {
    if a.name.is_empty() {
        return Err(Reason::Missing { field: "name".into() });
    }
    let action = match known("action", a.action)? {
        wire::Action::Allow => Action::Allow,
        wire::Action::Deny => Action::Deny,
    };
    let rule = |r: wire::Rule| {
        let clauses = r.clauses.into_iter().map(|c| clause(c, action)).collect::<Result<_, _>>()?;
        Ok::<_, Reason>(Rule { clauses })
    };
    Ok(Authorization {
        scope: match known("scope", a.scope)? {
            wire::Scope::Global => Scope::Global,
            wire::Scope::Namespace => Scope::Namespace,
            wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
        },
        action,
        rules: a.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
        name: a.name.into(),
        namespace: a.namespace.into(),
        dry_run: a.dry_run,
    })
}

/// Writes a policy.
pub fn authorization_to_wire(a: &Authorization) -> wire::Authorization {
    let clause = |c: &Clause| wire::Clause { matches: c.matches.iter().map(match_to_wire).collect() };
    let rule = |r: &Rule| wire::Rule { clauses: r.clauses.iter().map(clause).collect() };
    wire::Authorization {
        name: a.name.to_string(),
        namespace: a.namespace.to_string(),
        scope: match a.scope {
            Scope::Global => wire::Scope::Global,
            Scope::Namespace => wire::Scope::Namespace,
            Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
        } as i32,
        action: match a.action {
            Action::Allow => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        } as i32,
        rules: a.rules.iter().map(rule).collect(),
        dry_run: a.dry_run,
        extensions: Vec::new(),
    }
}

fn clause(c: wire::Clause, action: Action) -> Result<Clause, Reason> {
    Ok(Clause { matches: c.matches.into_iter().map(|m| one_match(m, action)).collect::<Result<_, _>>()? })
}

/// Reads a match. An extension is a condition that we cannot judge: in an ALLOW policy the match then matches nothing
/// (an empty match), in a DENY policy the rest of it decides. Either way fewer connections pass, never more.
fn one_match(m: wire::Match, action: Action) -> Result<Match, Reason> {
    if !m.extensions.is_empty() && action == Action::Allow {
        return Ok(Match::default());
    }
    Ok(Match {
        namespaces: string_matches("namespaces", m.namespaces)?,
        not_namespaces: string_matches("not_namespaces", m.not_namespaces)?,
        principals: string_matches("principals", m.principals)?,
        not_principals: string_matches("not_principals", m.not_principals)?,
        service_accounts: accounts(m.service_accounts),
        not_service_accounts: accounts(m.not_service_accounts),
        source_ips: cidrs("source_ips", &m.source_ips)?,
        not_source_ips: cidrs("not_source_ips", &m.not_source_ips)?,
        destination_ips: cidrs("destination_ips", &m.destination_ips)?,
        not_destination_ips: cidrs("not_destination_ips", &m.not_destination_ips)?,
        destination_ports: ports("destination_ports", &m.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &m.not_destination_ports)?,
    })
}

fn match_to_wire(m: &Match) -> wire::Match {
    wire::Match {
        namespaces: string_matches_to_wire(&m.namespaces),
        not_namespaces: string_matches_to_wire(&m.not_namespaces),
        principals: string_matches_to_wire(&m.principals),
        not_principals: string_matches_to_wire(&m.not_principals),
        source_ips: cidrs_to_wire(&m.source_ips),
        not_source_ips: cidrs_to_wire(&m.not_source_ips),
        destination_ips: cidrs_to_wire(&m.destination_ips),
        not_destination_ips: cidrs_to_wire(&m.not_destination_ips),
        destination_ports: m.destination_ports.iter().map(|p| u32::from(*p)).collect(),
        not_destination_ports: m.not_destination_ports.iter().map(|p| u32::from(*p)).collect(),
        service_accounts: accounts_to_wire(&m.service_accounts),
        not_service_accounts: accounts_to_wire(&m.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn string_matches(field: &str, list: Vec<wire::StringMatch>) -> Result<Vec<StringMatch>, Reason> {
    use wire::string_match::MatchType;
    let one = |s: wire::StringMatch| match s.match_type {
        Some(MatchType::Exact(x)) => Ok(StringMatch::Exact(x.into())),
        Some(MatchType::Prefix(x)) => Ok(StringMatch::Prefix(x.into())),
        Some(MatchType::Suffix(x)) => Ok(StringMatch::Suffix(x.into())),
        Some(MatchType::Presence(_)) => Ok(StringMatch::Presence),
        // Dropping the value could leave the kind empty, which is true for everybody.
        None => Err(Reason::Missing { field: format!("{field}.match_type") }),
    };
    list.into_iter().map(one).collect()
}

fn string_matches_to_wire(list: &[StringMatch]) -> Vec<wire::StringMatch> {
    use wire::string_match::MatchType;
    let one = |s: &StringMatch| match s {
        StringMatch::Exact(x) => MatchType::Exact(x.to_string()),
        StringMatch::Prefix(x) => MatchType::Prefix(x.to_string()),
        StringMatch::Presence => MatchType::Presence(()),
        StringMatch::Suffix(x) => MatchType::Suffix(x.to_string()),
    };
    list.iter().map(|s| wire::StringMatch { match_type: Some(one(s)) }).collect()
}

fn accounts(list: Vec<wire::ServiceAccountMatch>) -> Vec<ServiceAccount> {
    let one =
        |a: wire::ServiceAccountMatch| ServiceAccount { namespace: a.namespace.into(), name: a.service_account.into() };
    list.into_iter().map(one).collect()
}

fn accounts_to_wire(list: &[ServiceAccount]) -> Vec<wire::ServiceAccountMatch> {
    let one = |a: &ServiceAccount| wire::ServiceAccountMatch {
        namespace: a.namespace.to_string(),
        service_account: a.name.to_string(),
    };
    list.iter().map(one).collect()
}

fn cidrs(field: &str, list: &[wire::Address]) -> Result<Vec<Cidr>, Reason> {
    list.iter().map(|a| cidr(field, &a.address, a.length)).collect()
}

fn cidrs_to_wire(list: &[Cidr]) -> Vec<wire::Address> {
    let one = |c: &Cidr| wire::Address { address: ip_bytes(c.addr()), length: u32::from(c.prefix_len()) };
    list.iter().map(one).collect()
}

fn ports(field: &str, list: &[u32]) -> Result<Vec<u16>, Reason> {
    list.iter().map(|p| port(field, *p)).collect()
}

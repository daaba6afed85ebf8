//! Policies of the file.

use mesh::addr::Cidr;
use mesh::authz::{Action, Authorization, Clause, Match, Rule, Scope, ServiceAccount, StringMatch};

use super::super::file;
use super::{At, cidr};

pub(super) fn policy(p: &file::Policy, at: &mut At<'_>) -> Authorization {
    at.not_empty("name", &p.name);
    at.not_empty("namespace", &p.namespace);
    let mut rules = Vec::new();
    for (i, rule) in p.rules.iter().enumerate() {
        let mut clauses = Vec::new();
        for (j, clause) in rule.iter().enumerate() {
            let mut matches = Vec::new();
            for (k, m) in clause.iter().enumerate() {
                matches.push(one_match(m, &mut at.at("rules").at(i).at(j).at(k)));
            }
            clauses.push(Clause { matches });
        }
        rules.push(Rule { clauses });
    }
    Authorization {
        name: p.name.as_str().into(),
        namespace: p.namespace.as_str().into(),
        scope: match p.scope {
            file::PolicyScope::Global => Scope::Global,
            file::PolicyScope::Namespace => Scope::Namespace,
            file::PolicyScope::WorkloadSelector => Scope::WorkloadSelector,
        },
        action: match p.action {
            file::PolicyAction::Allow => Action::Allow,
            file::PolicyAction::Deny => Action::Deny,
        },
        rules,
        dry_run: p.dry_run,
    }
}

fn one_match(m: &file::Match, at: &mut At<'_>) -> Match {
    if *m == file::Match::default() {
        at.mistake("an empty match matches nothing", "say what to match, or leave the match out");
    }
    Match {
        namespaces: strings(&m.namespaces),
        not_namespaces: strings(&m.not_namespaces),
        principals: strings(&m.principals),
        not_principals: strings(&m.not_principals),
        service_accounts: accounts(&m.service_accounts),
        not_service_accounts: accounts(&m.not_service_accounts),
        source_ips: cidrs("sourceIps", &m.source_ips, at),
        not_source_ips: cidrs("notSourceIps", &m.not_source_ips, at),
        destination_ips: cidrs("destinationIps", &m.destination_ips, at),
        not_destination_ips: cidrs("notDestinationIps", &m.not_destination_ips, at),
        destination_ports: m.destination_ports.clone(),
        not_destination_ports: m.not_destination_ports.clone(),
    }
}

fn strings(list: &[file::StringMatch]) -> Vec<StringMatch> {
    let one = |s: &file::StringMatch| match s {
        file::StringMatch::Exact(x) => StringMatch::Exact(x.as_str().into()),
        file::StringMatch::Prefix(x) => StringMatch::Prefix(x.as_str().into()),
        file::StringMatch::Presence() => StringMatch::Presence,
        file::StringMatch::Suffix(x) => StringMatch::Suffix(x.as_str().into()),
    };
    list.iter().map(one).collect()
}

fn accounts(list: &[file::ServiceAccount]) -> Vec<ServiceAccount> {
    let one = |a: &file::ServiceAccount| ServiceAccount {
        namespace: a.namespace.as_str().into(),
        name: a.service_account.as_str().into(),
    };
    list.iter().map(one).collect()
}

fn cidrs(key: &str, list: &[String], at: &mut At<'_>) -> Vec<Cidr> {
    let mut made = Vec::new();
    for (i, text) in list.iter().enumerate() {
        made.push(cidr(text, &mut at.at(key).at(i)));
    }
    made
}

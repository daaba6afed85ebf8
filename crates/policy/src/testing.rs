//! Short forms for the tests of this crate.

use std::sync::Arc;

use mesh::Identity;
use mesh::authz::{Action, Authorization, Clause, Match, Rule, Scope, ServiceAccount, StringMatch};

use crate::{Connection, Judgement, PolicySet, Subject, Verdict};

pub(crate) fn policy(key: &str, scope: Scope, action: Action, rules: Vec<Rule>) -> Authorization {
    let (namespace, name) = key.split_once('/').unwrap();
    Authorization { name: name.into(), namespace: namespace.into(), scope, action, rules, dry_run: false }
}

/// A rule of clauses of one match each.
pub(crate) fn rule(matches: Vec<Match>) -> Rule {
    Rule { clauses: matches.into_iter().map(|m| Clause { matches: vec![m] }).collect() }
}

pub(crate) fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

pub(crate) fn account(namespace: &str, name: &str) -> ServiceAccount {
    ServiceAccount { namespace: namespace.into(), name: name.into() }
}

pub(crate) fn principals(values: Vec<StringMatch>) -> Match {
    Match { principals: values, ..Match::default() }
}

pub(crate) fn from(account: &str) -> Connection {
    Connection {
        source: Some(Identity::new("cluster.local", "shop", account).unwrap()),
        source_ip: "10.1.0.1".parse().unwrap(),
        destination_ip: "10.1.0.2".parse().unwrap(),
        destination_port: 8080,
    }
}

pub(crate) fn plaintext() -> Connection {
    Connection { source: None, ..from("web") }
}

pub(crate) fn subject(policies: &[&str]) -> Subject {
    Subject { namespace: "shop".into(), policies: policies.iter().map(|p| Arc::from(*p)).collect(), node: None }
}

pub(crate) fn set(policies: Vec<Authorization>) -> PolicySet {
    let mut set = PolicySet::default();
    policies.into_iter().for_each(|p| set.insert(p));
    set
}

/// One line that says how a judgement ended.
pub(crate) fn told(judgement: &Judgement) -> String {
    match &judgement.verdict {
        Verdict::Denied(d) => d.to_string(),
        Verdict::Permitted(p) => format!("permitted: {}", p.reason()),
        Verdict::Unknown(names) => format!("unknown: {}", names.join(", ")),
    }
}

//! Authorization policies as data (discovery API `istio.security.Authorization`). They are judged by the crate `policy`.

use std::fmt;
use std::sync::Arc;

use crate::addr::Cidr;

/// What the names of policies begin with that stand for Kubernetes' NetworkPolicies. No object of Kubernetes can have a name
/// with `_`.
pub const NETWORK_POLICY: &str = "culvert_network_policy_";

/// Whether this key (`namespace/name`) is that of a policy that stands for NetworkPolicies.
pub fn is_network_policy(key: &str) -> bool {
    key.split_once('/').is_some_and(|(_, name)| name.starts_with(NETWORK_POLICY))
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Name within the namespace.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Which workloads it is for.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Alternatives: one that matches is enough. None at all never matches.
    pub rules: Vec<Rule>,
    /// Only report, do not enforce.
    pub dry_run: bool,
}

impl Authorization {
    /// The key, `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Which workloads a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every workload.
    Global,
    /// The workloads of the policy's namespace.
    Namespace,
    /// The workloads that name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// May pass.
    Allow,
    /// May not pass.
    Deny,
}

/// Clauses that must all hold; none at all always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The clauses.
    pub clauses: Vec<Clause>,
}

/// Matches of which one must hold; none at all always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// The matches.
    pub matches: Vec<Match>,
}

/// Kinds that must all hold; within a kind one value is enough, and of a `not_` kind none may hold.
///
/// A kind without values is true. A match without any kind matches nothing (discovery.md 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Namespace of the source.
    pub namespaces: Vec<StringMatch>,
    /// None of these.
    pub not_namespaces: Vec<StringMatch>,
    /// Principal of the source (identity without `spiffe://`).
    pub principals: Vec<StringMatch>,
    /// None of these.
    pub not_principals: Vec<StringMatch>,
    /// Service account of the source, whatever its trust domain.
    pub service_accounts: Vec<ServiceAccount>,
    /// None of these.
    pub not_service_accounts: Vec<ServiceAccount>,
    /// Address of the source.
    pub source_ips: Vec<Cidr>,
    /// None of these.
    pub not_source_ips: Vec<Cidr>,
    /// Address of the destination.
    pub destination_ips: Vec<Cidr>,
    /// None of these.
    pub not_destination_ips: Vec<Cidr>,
    /// Port of the application.
    pub destination_ports: Vec<u16>,
    /// None of these.
    pub not_destination_ports: Vec<u16>,
}

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole text.
    Exact(Arc<str>),
    /// Its beginning.
    Prefix(Arc<str>),
    /// Anything but the empty text.
    Presence,
    /// Its end.
    Suffix(Arc<str>),
}

impl StringMatch {
    /// Whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(x) => text == &**x,
            Self::Prefix(x) => text.starts_with(&**x),
            Self::Presence => !text.is_empty(),
            Self::Suffix(x) => text.ends_with(&**x),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(x) => f.write_str(x),
            Self::Prefix(x) => write!(f, "{x}*"),
            Self::Presence => f.write_str("*"),
            Self::Suffix(x) => write!(f, "*{x}"),
        }
    }
}

/// A service account in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

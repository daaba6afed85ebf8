//! Policies as they come in: texts of the user's object, nothing checked yet.

use std::sync::Arc;

/// One `AuthorizationPolicy` with the fields of L7.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorization {
    /// Namespace of the object; the default namespace of service accounts that name none.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
    /// What a match means.
    pub action: Action,
    /// Alternatives. None at all never matches (and an ALLOW policy then refuses everything).
    pub rules: Vec<Rule>,
    /// Only report, do not enforce.
    pub dry_run: bool,
    /// Why the object could not be understood before it came here; it then refuses everything.
    pub invalid: Option<String>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// May pass.
    #[default]
    Allow,
    /// Is reported.
    Audit,
    /// An external service decides before anything else does.
    Custom,
    /// May not pass.
    Deny,
}

impl Action {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
            Self::Deny => "DENY",
        }
    }
}

/// One of `from`, one of `to` and every `when` must hold; an empty list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Who.
    pub from: Vec<Source>,
    /// What.
    pub to: Vec<Operation>,
    /// Under which conditions.
    pub when: Vec<Condition>,
}

/// Who asks. All fields that are given must hold. Texts match exactly, by prefix `x*`, by suffix `*x`, or by presence
/// `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Identities without `spiffe://`.
    pub principals: Vec<String>,
    /// None of these.
    pub not_principals: Vec<String>,
    /// `issuer/subject` of the request's token.
    pub request_principals: Vec<String>,
    /// None of these.
    pub not_request_principals: Vec<String>,
    /// Namespaces of the identity.
    pub namespaces: Vec<String>,
    /// None of these.
    pub not_namespaces: Vec<String>,
    /// `namespace/name`, or `name` in the policy's namespace.
    pub service_accounts: Vec<String>,
    /// None of these.
    pub not_service_accounts: Vec<String>,
    /// Addresses or CIDR blocks of the peer.
    pub ip_blocks: Vec<String>,
    /// None of these.
    pub not_ip_blocks: Vec<String>,
    /// Addresses or CIDR blocks of the original client.
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<String>,
    /// Trust domains of the identity.
    pub trust_domains: Vec<String>,
    /// None of these.
    pub not_trust_domains: Vec<String>,
}

/// What is asked for. All fields that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Host names, compared without case; without a port they are for every port.
    pub hosts: Vec<String>,
    /// None of these.
    pub not_hosts: Vec<String>,
    /// Ports that the caller named.
    pub ports: Vec<u32>,
    /// None of these.
    pub not_ports: Vec<u32>,
    /// Methods, with case.
    pub methods: Vec<String>,
    /// None of these.
    pub not_methods: Vec<String>,
    /// Paths without query, or templates with `{*}` (one segment) and `{**}` (any number of them).
    pub paths: Vec<String>,
    /// None of these.
    pub not_paths: Vec<String>,
}

/// A condition on one attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Name of the attribute, such as `request.headers[x-role]`.
    pub key: String,
    /// One of these must fit, when there are any.
    pub values: Vec<String>,
    /// None of these may fit.
    pub not_values: Vec<String>,
}

//! What a rule can ask for.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use mesh::addr::Cidr;
use mesh::authz::{ServiceAccount, StringMatch};

use super::matching::Facts;
use super::pattern::{HostPattern, PathPattern, Subject};
use crate::miss::{any, shortened};

/// One field of a rule, as the user wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    /// How the API calls it, such as `notPaths` or `request.headers[x-role]`.
    pub(crate) name: Arc<str>,
    pub(crate) field: Field,
    /// None of the values may fit, in place of one that must.
    pub(crate) not: bool,
}

/// An attribute and the values that are wanted of it.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    Audiences(Vec<StringMatch>),
    Claim {
        path: Vec<Arc<str>>,
        values: Vec<StringMatch>,
    },
    DestinationIps(Vec<Cidr>),
    Header {
        name: HeaderName,
        values: Vec<StringMatch>,
    },
    Hosts(Vec<HostPattern>),
    Methods(Vec<StringMatch>),
    Namespaces(Vec<StringMatch>),
    Paths(Vec<PathPattern>),
    Ports(Vec<u16>),
    Presenters(Vec<StringMatch>),
    Principals(Vec<StringMatch>),
    RemoteIps(Vec<Cidr>),
    RequestPrincipals(Vec<Subject>),
    ServerNames(Vec<StringMatch>),
    ServiceAccounts(Vec<ServiceAccount>),
    SourceIps(Vec<Cidr>),
    /// Path and query (`request.headers[:path]`).
    Targets(Vec<StringMatch>),
    TrustDomains(Vec<StringMatch>),
}

impl Field {
    /// Whether it looks at the path.
    pub(crate) fn is_of_path(&self) -> bool {
        matches!(self, Self::Paths(_) | Self::Targets(_))
    }

    /// The wanted values, bounded in number and length.
    pub(crate) fn wanted(&self) -> String {
        match self {
            Self::Audiences(v)
            | Self::Claim { values: v, .. }
            | Self::Header { values: v, .. }
            | Self::Methods(v)
            | Self::Namespaces(v)
            | Self::Presenters(v)
            | Self::Principals(v)
            | Self::ServerNames(v)
            | Self::Targets(v)
            | Self::TrustDomains(v) => any(v),
            Self::DestinationIps(v) | Self::RemoteIps(v) | Self::SourceIps(v) => any(v),
            Self::Hosts(v) => any(v),
            Self::Paths(v) => any(v),
            Self::Ports(v) => any(v),
            Self::RequestPrincipals(v) => any(v),
            Self::ServiceAccounts(v) => any(v),
        }
    }

    /// What the request has. Values of headers and claims are not named: they may be secrets, and denials are logged.
    pub(crate) fn got(&self, facts: &Facts<'_>) -> String {
        let request = facts.request;
        let source = |text: &dyn Fn(&mesh::Identity) -> String| {
            request.source.map_or_else(|| "no identity".to_owned(), |s| shortened(&text(s)))
        };
        match self {
            Self::DestinationIps(_) => request.destination_ip.to_string(),
            Self::Namespaces(_) => source(&|s| s.namespace().to_string()),
            Self::Ports(_) => request.destination_port.to_string(),
            Self::Principals(_) => source(&mesh::Identity::principal),
            Self::RemoteIps(_) => request.remote_ip.to_string(),
            Self::ServerNames(_) => request.server_name.map_or_else(|| "no server name".to_owned(), shortened),
            Self::ServiceAccounts(_) => source(&|s| format!("{}/{}", s.namespace(), s.service_account())),
            Self::SourceIps(_) => request.source_ip.to_string(),
            Self::TrustDomains(_) => source(&|s| s.trust_domain().to_string()),
            http => http.got_http(facts),
        }
    }

    fn got_http(&self, facts: &Facts<'_>) -> String {
        let Some(http) = &facts.request.http else { return "a TCP connection".to_owned() };
        let claim = |found: Option<()>| match (http.claims, found) {
            (None, _) => "no token",
            (Some(_), None) => "a token without it",
            (Some(_), Some(())) => "another value",
        };
        match self {
            Self::Audiences(_) => claim(http.claims.and_then(|c| c.get(&["aud"])).map(|_| ())).to_owned(),
            Self::Claim { path, .. } => claim(http.claims.and_then(|c| c.get(path)).map(|_| ())).to_owned(),
            Self::Header { name, .. } => match http.headers.get_all(name).iter().count() {
                0 => "no such header".to_owned(),
                1 => "another value".to_owned(),
                n => format!("{n} headers, not all of which fit"),
            },
            Self::Hosts(_) => shortened(&http.authority.to_string()),
            Self::Methods(_) => shortened(http.method),
            Self::Presenters(_) => claim(http.claims.and_then(|c| c.get(&["azp"])).map(|_| ())).to_owned(),
            Self::RequestPrincipals(_) => match http.claims {
                Some(claims) => claims.principal().map_or_else(|| claim(None).to_owned(), |p| shortened(&p)),
                None => claim(None).to_owned(),
            },
            _ => shortened(http.path),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let but = if self.not { "anything but " } else { "" };
        write!(f, "{} want {but}{}", self.name, self.field.wanted())
    }
}

//! What is said about the routes of one Service: plain data, not yet checked.
//!
//! These are the types of `culvert.routing.v1` (proto/wire/routing.proto) without the wire. Whatever is wrong with a value is
//! found by [`crate::Router::new`], which makes the rule that holds it answer 500 and reports a [`crate::Mistake`].

mod filter;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use filter::{
    Cors, ExternalAuth, ExternalProcessing, Fault, Filter, Header, HeaderChange, LocalRate, Mirror, PathChange,
    Redirect, Rewrite,
};

/// Routes of one port and one kind of caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Service port that the caller used.
    pub port: u16,
    /// `None`: producer routes, for every caller. Else only for callers of this namespace, in place of the producer routes
    /// (gateway-api.md 2, "Producer and consumer routes").
    pub consumer_namespace: Option<Arc<str>>,
    /// The routes.
    pub kind: Kind,
}

/// Which kind of routes a table has; one type wins on a port (gateway-api.md 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTPRoutes or GRPCRoutes.
    Http(HttpTable),
    /// It could not be understood: requests get 500, connections are refused.
    Invalid(Invalid),
    /// A TCPRoute.
    Tcp(TcpTable),
    /// TLSRoutes.
    Tls(TlsTable),
}

/// Why something cannot be used, for people: which field of which object, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// One sentence.
    pub reason: Arc<str>,
}

impl Invalid {
    /// With this reason.
    pub fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into() }
    }
}

/// HTTPRoutes or GRPCRoutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpTable {
    /// GRPCRoutes: no match is UNIMPLEMENTED, an invalid backend is UNAVAILABLE, backends are spoken to in HTTP/2
    /// (gateway-api.md 4).
    pub grpc: bool,
    /// In the order that decides between equals: oldest route first, then by `namespace/name`, then as written.
    pub rules: Vec<Rule>,
}

/// One TCPRoute: weighted backends, chosen for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpTable {
    /// Where it comes from.
    pub route: RouteName,
    /// Where connections go.
    pub backends: Vec<Backend>,
}

/// TLSRoutes: chosen by server name, never opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsTable {
    /// In the order that decides between equals.
    pub rules: Vec<TlsRule>,
}

/// Server names, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRule {
    /// Where it comes from.
    pub route: RouteName,
    /// Exact, or `*.suffix` for every name below; none = all, and clients that send no name.
    pub server_names: Vec<String>,
    /// Where connections go.
    pub backends: Vec<Backend>,
}

/// Which rule of which object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteName {
    /// HTTPRoute, GRPCRoute, TCPRoute, TLSRoute.
    pub kind: Arc<str>,
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
    /// Name of the rule, or its index.
    pub rule: Arc<str>,
}

impl RouteName {
    /// As one word: `kind/namespace/name/rule`.
    pub fn label(&self) -> String {
        format!("{}/{}/{}/{}", self.kind, self.namespace, self.name, self.rule)
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} rule {}", self.kind, self.namespace, self.name, self.rule)
    }
}

/// What is matched, done and forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Where it comes from.
    pub route: RouteName,
    /// One of them must hold; none = everything.
    pub matches: Vec<Match>,
    /// In the order in which they apply.
    pub filters: Vec<Filter>,
    /// Where requests go, by weight.
    pub backends: Vec<Backend>,
    /// Whole transaction with its retries; `None` or zero = no limit.
    pub request_timeout: Option<Duration>,
    /// One attempt; `None` or zero = no limit.
    pub backend_timeout: Option<Duration>,
    /// Whether and when a request is sent again; `None` = never.
    pub retry: Option<Retry>,
    /// It cannot be followed: it still wins by its matches, and answers 500.
    pub invalid: Option<Invalid>,
    /// How a client stays with an endpoint.
    pub session: Option<SessionPersistence>,
}

/// All parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Path without its query; `None` = prefix `/`.
    pub path: Option<PathMatch>,
    /// Headers; of several entries of one name only the first counts.
    pub headers: Vec<NameMatch>,
    /// Parameters of the query; of several entries of one name only the first counts.
    pub query: Vec<NameMatch>,
    /// Upper-case token; empty = any.
    pub method: String,
    /// Service and method of gRPC, instead of `path`.
    pub grpc: Option<GrpcMatch>,
}

/// What a path must be (gateway-api.md 3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The same text.
    Exact(String),
    /// The same elements at the beginning; a slash at the end of the value is ignored.
    Prefix(String),
    /// A regular expression that matches the whole path (docs/routing.md has the dialect).
    Regex(String),
    /// It could not be understood: what it should match cannot be told.
    Unknown,
}

/// What a header or a parameter must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameMatch {
    /// Header names in any case, names of parameters exactly.
    pub name: String,
    /// The value.
    pub value: ValueMatch,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The same text.
    Exact(String),
    /// A regular expression that matches the whole value.
    Regex(String),
    /// It could not be understood.
    Unknown,
}

/// What is called (gateway-api.md 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// Fully qualified service; empty = any.
    pub service: String,
    /// Method; empty = any.
    pub method: String,
    /// Both are regular expressions.
    pub regex: bool,
}

/// Where requests or connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Share, relative to the sum of the rule's weights.
    pub weight: u32,
    /// Key of the Service, `namespace/hostname`.
    pub service: Arc<str>,
    /// Service port.
    pub port: u16,
    /// Not usable: its share gets 500 (UNAVAILABLE for gRPC, a refused connection for TCP and TLS).
    pub invalid: Option<Invalid>,
    /// Applied after the rule's own, only when this backend was chosen.
    pub filters: Vec<Filter>,
    /// How it is spoken to.
    pub protocol: Protocol,
}

/// How a port is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// By what the client sends first.
    #[default]
    Detect,
    /// gRPC, which is HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Opaque.
    Tcp,
    /// TLS that ends at the workload.
    Tls,
}

/// When a request is sent again (gateway-api.md 3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first; 0 = never.
    pub attempts: u32,
    /// Status codes of answers that are tried again.
    pub codes: Vec<u32>,
    /// The least wait before a try; `None` = the default of [`crate::retry`].
    pub backoff: Option<Duration>,
}

/// How a client stays with an endpoint (gateway-api.md 3.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Name of the cookie; empty = by header.
    pub cookie: String,
    /// Name of the header.
    pub header: String,
    /// How long it lasts at most.
    pub lifetime: Option<Duration>,
    /// The cookie outlives the browser's session, for `lifetime`.
    pub permanent: bool,
}

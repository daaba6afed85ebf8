//! Routes of the Gateway API: HTTPRoute, GRPCRoute, TCPRoute, TLSRoute, and ReferenceGrant.
//!
//! Shapes: kubernetes-sigs/gateway-api v1.7.0, `config/crd/standard`, plus the fields of the experimental channel that have a
//! meaning here (session persistence, external authorization): they are read where somebody installed that channel.

mod common;
mod filter;
mod grant;
mod grpc;
mod http;
mod stream;

pub use common::{
    BackendObjectReference, BackendReference, LifetimeType, LocalObjectReference, ParentReference, PersistenceCookie,
    PersistenceHeader, PersistenceType, RouteParentStatus, RouteStatus, SessionPersistence,
};
pub use filter::{
    AuthProtocol, CorsFilter, ExternalAuthFilter, Filter, FilterType, ForwardBody, Fraction, GrpcAuth, Header,
    HeaderFilter, HttpAuth, MirrorFilter, PathModifier, PathModifierType, RedirectFilter, RewriteFilter,
};
pub use grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
pub use grpc::{GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteSpec, GrpcRule};
pub use http::{
    HeaderMatch, HttpBackendReference, HttpMatch, HttpRoute, HttpRouteSpec, HttpRule, MatchType, PathMatch,
    PathMatchType, Retry, Timeouts,
};
pub use stream::{StreamRule, TcpRoute, TcpRouteSpec, TlsRoute, TlsRouteSpec};

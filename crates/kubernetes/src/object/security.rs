//! `security.istio.io`.

mod authorization;
mod peer;
mod request;

pub use authorization::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, ExtensionProvider, Operation, Rule, RuleCondition, RuleFrom,
    RuleTo, Source,
};
pub use peer::{MutualTls, MutualTlsMode, PeerAuthentication, PeerAuthenticationSpec};
pub use request::{ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication, RequestAuthenticationSpec};

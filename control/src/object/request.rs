//! RequestAuthentication: which JSON Web Tokens a waypoint takes.

use std::sync::Arc;

use kubernetes::object::security as api;
use proto::routing as wire;

use super::target::targets;
use super::{Faults, Key, Meta, Pool, shown};

/// A RequestAuthentication.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// Names, generation.
    pub meta: Meta,
    /// What it is attached to. A policy in the root namespace may name classes of Gateways; which one that is, is told where
    /// the answer is needed.
    pub targets: Vec<Key>,
    /// It has no targets, so that no waypoint reads it.
    pub aimless: bool,
    /// The message, without keys.
    pub ready: wire::Authentication,
    /// Where the keys of each rule are.
    pub keys: Vec<KeySource>,
    /// What is wrong with it.
    pub faults: Faults,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySource {
    /// Where the issuer's own metadata says (OpenID Connect Discovery 1.0, 4).
    Discovery(Arc<str>),
    /// In the policy.
    Inline(Arc<str>),
    /// Nowhere, for this reason.
    Nowhere(Arc<str>),
    /// Under this address.
    Uri(Arc<str>),
}

impl From<&api::RequestAuthentication> for RequestAuthentication {
    fn from(policy: &api::RequestAuthentication) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&policy.metadata);
        let spec = &policy.spec;
        let aimless = spec.target_refs.is_empty() && spec.target_ref.is_none();
        let targets = targets(&spec.target_refs, spec.target_ref.as_ref(), &meta.namespace, true, &mut faults);
        let mut rules = Vec::with_capacity(spec.jwt_rules.len());
        let mut keys = Vec::with_capacity(spec.jwt_rules.len());
        let mut invalid = None;
        for (i, r) in spec.jwt_rules.iter().enumerate() {
            let field = format!("spec.jwtRules[{i}]");
            if r.issuer.as_deref().unwrap_or_default().is_empty() {
                let what = "there is no issuer, so every request with a token is refused";
                faults.add(format!("{field}.issuer"), what, "write the claim iss of the tokens");
                invalid.get_or_insert(wire::Invalid { reason: format!("{field}.issuer is missing") });
            }
            keys.push(source(r, &field, &mut faults));
            rules.push(rule(r, &field, &mut faults));
        }
        let ready =
            wire::Authentication { namespace: meta.namespace.to_string(), name: meta.name.to_string(), rules, invalid };
        Self { targets, aimless, ready, keys, meta, faults }
    }
}

fn source(rule: &api::JwtRule, field: &str, faults: &mut Faults) -> KeySource {
    let text = |t: &Option<String>| t.as_deref().filter(|t| !t.trim().is_empty()).map(Arc::<str>::from);
    if let Some(keys) = text(&rule.jwks) {
        let read: Result<serde_json::Value, _> = serde_json::from_str(&keys);
        return match read {
            Ok(value) if value["keys"].is_array() => KeySource::Inline(keys),
            _ => {
                let what = "is not a set of keys, so no token of the issuer is valid";
                faults.add(format!("{field}.jwks"), what, "write a JSON object with a list `keys` (RFC 7517 5)");
                KeySource::Nowhere(format!("{field}.jwks is not a set of keys").into())
            }
        };
    }
    let uri = text(&rule.jwks_uri).or_else(|| text(&rule.jwks_uri_old));
    let (from, name) = match (&uri, text(&rule.issuer)) {
        (Some(uri), _) => (uri.clone(), "jwksUri"),
        (None, Some(issuer)) => (issuer, "issuer"),
        (None, None) => return KeySource::Nowhere(format!("{field}: neither keys nor issuer").into()),
    };
    if !from.starts_with("https://") {
        let what = format!("{} is not an address with https, so no token of the issuer is valid", shown(&from));
        faults.add(format!("{field}.{name}"), what, "write jwksUri with https://, or the keys themselves into jwks");
        return KeySource::Nowhere(format!("{field}.{name} is not an address with https").into());
    }
    if uri.is_some() { KeySource::Uri(from) } else { KeySource::Discovery(from) }
}

fn rule(rule: &api::JwtRule, field: &str, faults: &mut Faults) -> wire::JwtRule {
    if !rule.space_delimited_claims.is_empty() {
        let what = "is not followed: every claim of the standard is split as it says";
        faults.add(format!("{field}.spaceDelimitedClaims"), what, "remove it");
    }
    let header =
        |h: &api::JwtHeader| wire::JwtHeader { name: h.name.clone(), prefix: h.prefix.clone().unwrap_or_default() };
    let claim = |c: &api::ClaimToHeader| wire::ClaimHeader { header: c.header.clone(), claim: c.claim.clone() };
    let named = rule.from_headers.iter().map(|h| &h.name).chain(rule.output_claim_to_headers.iter().map(|c| &c.header));
    for name in named.chain(rule.output_payload_to_header.iter()) {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let what = format!("{} is not the name of a header, so it is never there", shown(name));
            faults.add(field, what, "write a token of letters, digits and -");
        }
    }
    wire::JwtRule {
        issuer: rule.issuer.clone().unwrap_or_default(),
        audiences: rule.audiences.clone(),
        from_headers: rule.from_headers.iter().map(header).collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        output_payload_to_header: rule.output_payload_to_header.clone().unwrap_or_default(),
        output_claim_to_headers: rule.output_claim_to_headers.iter().map(claim).collect(),
        forward_original_token: rule.forward_original_token.unwrap_or_default(),
        ..wire::JwtRule::default()
    }
}

impl RequestAuthentication {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}

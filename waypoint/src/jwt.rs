//! JSON Web Tokens (`RequestAuthentication`): the phase *authenticate* of a request.
//!
//! ```text
//!            no token ─────────────────────────────► passes, unauthenticated (authorization may ask for a token)
//! request ─► one token ─► issuer known? ─► key, signature, audience, times ─► passes, with claims
//!            two tokens, unknown issuer, anything wrong ─► 401
//! ```
//!
//! Signatures are checked by aws-lc-rs with the algorithm that the *key* is for; what the token says of itself only
//! chooses among these. There is no `none` and no HMAC, keys inside of tokens are never looked at, and keys come with
//! discovery: nothing is fetched here.

mod cache;
mod carry;
mod keys;
mod output;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use policy::request::Claims;
use proto::routing as wire;

pub(crate) use cache::Cache;
use carry::Place;
use keys::KeySet;
use output::Output;
use token::{Parsed, TokenError};

/// Difference of clocks that is forgiven when a rule does not say (what Envoy, and so Istio, forgives).
const LEEWAY: Duration = Duration::from_secs(60);

/// Every rule of a Service, compiled.
#[derive(Debug, Default)]
pub(crate) struct Authentications {
    /// Tells this compilation from others in caches.
    id: u64,
    rules: Vec<Arc<Rule>>,
    /// Places where some rule looks for a token.
    places: Vec<Place>,
    /// An object that cannot be understood: no token is valid until it can.
    misunderstood: Option<Arc<str>>,
}

/// One issuer.
#[derive(Debug)]
struct Rule {
    issuer: String,
    /// None = any.
    audiences: Vec<String>,
    /// The keys, or why there are none.
    keys: Result<KeySet, String>,
    places: Vec<Place>,
    leeway: Duration,
    forward: bool,
    output: Output,
}

/// What a valid token made of the request.
#[derive(Debug, Default)]
pub(crate) struct Authenticated {
    /// Claims of the token; `None` when there was none.
    pub(crate) claims: Option<Arc<Claims>>,
    /// The query that is left, when the token was taken out of it.
    pub(crate) query: Option<String>,
}

/// Why a request is answered with 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Different tokens in one request: it is not known which of them the application would believe.
    #[error("the request carries more than one token")]
    Ambiguous,
    /// The issuer's keys are not known.
    #[error("the keys of issuer {0} are not known here")]
    KeysMissing(String),
    /// A `RequestAuthentication` cannot be understood.
    #[error("no token is accepted until the authentication policy is mended: {0}")]
    Misunderstood(Arc<str>),
    /// The token itself.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No rule is for its issuer.
    #[error("the issuer of the token is not one that is accepted here")]
    UnknownIssuer,
}

impl Refused {
    /// `WWW-Authenticate` of the answer (RFC 6750 3). Nothing of the token is repeated.
    pub(crate) fn challenge(&self, realm: &str) -> HeaderValue {
        // A canonical host holds no quote, but the caller decides what it passes.
        let realm: String = realm.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        HeaderValue::from_str(&format!("Bearer realm=\"{realm}\", error=\"invalid_token\""))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"invalid_token\""))
    }
}

impl Authentications {
    /// Compiles a Service's rules. What cannot be understood refuses tokens and is told in the second part.
    pub(crate) fn compile(all: &[wire::Authentication]) -> (Self, Vec<String>) {
        // Only has to differ between compilations of one process.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut compiled = Self { id: NEXT.fetch_add(1, Ordering::Relaxed), ..Self::default() };
        let mut faults = Vec::new();
        for object in all {
            let name = format!("{}/{}", object.namespace, object.name);
            let mut wrong: Vec<String> = object.invalid.iter().map(|i| i.reason.clone()).collect();
            for (i, rule) in object.rules.iter().enumerate() {
                let (rule, mut notes, bad) = Rule::compile(rule);
                compiled.places.extend(rule.places.iter().cloned());
                notes.iter_mut().for_each(|note| *note = format!("jwtRules[{i}]: {note}"));
                // A place that cannot be looked at may hold a token: that is not "no token".
                wrong.extend(bad.into_iter().map(|b| format!("jwtRules[{i}].{b}")));
                if rule.issuer.is_empty() {
                    wrong.push(format!("jwtRules[{i}].issuer is empty: name the issuer"));
                }
                faults.extend(notes.into_iter().map(|note| format!("{name}: {note}")));
                compiled.rules.push(Arc::new(rule));
            }
            if let Some(first) = wrong.first() {
                compiled.misunderstood.get_or_insert_with(|| format!("{name}: {first}").into());
                compiled.places.extend(Place::defaults());
            }
            faults.extend(wrong.into_iter().map(|w| format!("{name}: {w}")));
        }
        compiled.places.sort();
        compiled.places.dedup();
        (compiled, faults)
    }

    /// Whether there is nothing to check.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.misunderstood.is_none()
    }

    /// Finds and checks the request's token, takes it out where it shall not go on, and writes the headers that rules
    /// ask for. Headers of these names that the caller sent are removed in any case.
    ///
    /// # Errors
    /// When a token is there and is not valid.
    pub(crate) fn authenticate(
        &self,
        cache: &mut Cache,
        headers: &mut HeaderMap,
        query: Option<&str>,
        now: SystemTime,
    ) -> Result<Authenticated, Refused> {
        self.rules.iter().for_each(|rule| rule.output.strip(headers));
        let token = match carry::find(&self.places, headers, query).map_err(|_| Refused::Ambiguous)? {
            Some(found) => found,
            None => return Ok(Authenticated::default()),
        };
        if let Some(reason) = &self.misunderstood {
            return Err(Refused::Misunderstood(reason.clone()));
        }
        let verified = self.verified(cache, &token, seconds(now))?;
        let rule = &verified.rule;
        let mut query_left = None;
        if !rule.forward {
            for place in &token.places {
                place.take_out(headers, query, &mut query_left);
            }
        }
        rule.output.write(headers, &token.text, &verified.claims);
        Ok(Authenticated { claims: Some(verified.claims.clone()), query: query_left })
    }

    fn verified(&self, cache: &mut Cache, token: &carry::Found, now: u64) -> Result<Verified, Refused> {
        let key = cache::key(self.id, &token.text);
        if let Some(known) = cache.get(&key) {
            // Whoever moved the token to a place of another rule does not get that rule's answer.
            if known.rule.reads(&token.places) {
                known.parsed_times.check(now, known.rule.leeway)?;
                return Ok(known);
            }
        }
        let parsed = Parsed::read(&token.text)?;
        let mut refused = Refused::UnknownIssuer;
        let candidates = self.rules.iter().filter(|r| r.issuer == parsed.issuer() && r.reads(&token.places));
        for rule in candidates {
            match rule.verify(&parsed, now) {
                Ok(()) => {
                    let claims = Arc::new(Claims::new(parsed.payload));
                    let verified = Verified { claims, rule: rule.clone(), parsed_times: parsed.times };
                    cache.put(key, verified.clone());
                    return Ok(verified);
                }
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }
}

/// A token that was checked once. Its times are looked at again whenever it is used.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    claims: Arc<Claims>,
    rule: Arc<Rule>,
    parsed_times: token::Times,
}

impl Rule {
    /// The rule; remarks; and what makes it one that cannot be understood.
    fn compile(rule: &wire::JwtRule) -> (Self, Vec<String>, Vec<String>) {
        let mut notes = Vec::new();
        let keys = match &rule.keys_missing {
            Some(missing) => Err(missing.reason.clone()),
            None => KeySet::parse(&rule.jwks).map(|(keys, unusable)| {
                notes.extend(unusable);
                keys
            }),
        };
        if let Err(reason) = &keys {
            notes.push(format!("no token of {} is accepted: {reason}", rule.issuer));
        }
        let (places, mut bad) = Place::of(rule);
        let (output, bad_output) = Output::compile(rule);
        bad.extend(bad_output);
        // A negative leeway is none at all.
        let leeway = rule.leeway.map_or(LEEWAY, |d| Duration::try_from(d).unwrap_or_default());
        let compiled = Self {
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            keys,
            places,
            leeway,
            forward: rule.forward_original_token,
            output,
        };
        (compiled, notes, bad)
    }

    fn reads(&self, places: &[Place]) -> bool {
        places.iter().any(|p| self.places.contains(p))
    }

    fn verify(&self, token: &Parsed<'_>, now: u64) -> Result<(), Refused> {
        let keys = self.keys.as_ref().map_err(|_| Refused::KeysMissing(self.issuer.clone()))?;
        keys.verify(token)?;
        token.check_audience(&self.audiences)?;
        token.times.check(now, self.leeway)?;
        Ok(())
    }
}

/// Whole seconds since 1970; a clock before that counts as 1970.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The name of a header that a rule names.
fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not the name of a header"))
}

/// Whether two names are the same for a server that reads `_` as `-`.
fn alike(one: &str, other: &str) -> bool {
    let plain = |b: u8| if b == b'_' { b'-' } else { b };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| plain(a) == plain(b))
}

#[cfg(test)]
mod tests;

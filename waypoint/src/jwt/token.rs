//! Reading a token (RFC 7515 compact form, RFC 7519), and what is checked beside its signature.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::Algorithm;

/// Longest token. Header lists of Kubernetes' and cloud front ends end at 8 to 64 KiB; tokens with group lists reach some
/// KiB.
pub(super) const MAX_TOKEN: usize = 16 * 1024;

/// What is wrong with a token. Nothing of the token is repeated in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not one that is accepted.
    #[error("the algorithm of the token is not accepted")]
    Algorithm,
    /// None of those that are wanted.
    #[error("the token is not for this audience")]
    Audience,
    /// It asks for something that is not understood (RFC 7515 4.1.11).
    #[error("the token names critical headers that are not understood")]
    Critical,
    /// The time of its end has passed.
    #[error("the token has expired")]
    Expired,
    /// It is not a signed token.
    #[error("the token is not a signed JSON Web Token of three parts")]
    Form,
    /// A token inside of a token.
    #[error("the token holds another token")]
    Nested,
    /// No key of the issuer fits.
    #[error("no key of the issuer fits the token")]
    NoKey,
    /// The time of its begin is still to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// The signature is not by the issuer.
    #[error("the signature of the token is wrong")]
    Signature,
    /// Longer than a token may be.
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
}

/// A token that was read, not checked.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// What the signature is over.
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
    pub(super) payload: Map<String, Value>,
    pub(super) times: Times,
    issuer: String,
    audiences: Vec<String>,
}

/// When a token is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    expires: Option<f64>,
    begins: Option<f64>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    cty: Option<String>,
    crit: Option<Value>,
}

/// Claims that decide. A claim that stands twice is an error here, so that nobody else can read the other one.
#[derive(Deserialize)]
struct Registered {
    iss: Option<String>,
    // Only here so that it cannot stand twice.
    #[serde(rename = "sub")]
    _sub: Option<String>,
    aud: Option<OneOrMany>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl<'a> Parsed<'a> {
    /// Reads a token.
    pub(super) fn read(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        // Strict: no padding, no other alphabet, no bits to spare; one token has one text.
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Form);
        let head: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Form)?;
        if head.crit.is_some() {
            return Err(TokenError::Critical);
        }
        if head.cty.is_some_and(|c| c.eq_ignore_ascii_case("jwt")) {
            return Err(TokenError::Nested);
        }
        let algorithm = Algorithm::of(&head.alg).ok_or(TokenError::Algorithm)?;
        let bytes = decode(payload)?;
        let registered: Registered = serde_json::from_slice(&bytes).map_err(|_| TokenError::Form)?;
        let payload_map = serde_json::from_slice(&bytes).map_err(|_| TokenError::Form)?;
        Ok(Self {
            algorithm,
            key_id: head.kid,
            signed: text.get(..header.len() + 1 + payload.len()).unwrap_or_default(),
            signature: decode(signature)?,
            payload: payload_map,
            times: Times { expires: registered.exp, begins: registered.nbf },
            issuer: registered.iss.unwrap_or_default(),
            audiences: match registered.aud {
                None => Vec::new(),
                Some(OneOrMany::One(one)) => vec![one],
                Some(OneOrMany::Many(many)) => many,
            },
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn check_audience(&self, wanted: &[String]) -> Result<(), TokenError> {
        let fits = wanted.is_empty() || self.audiences.iter().any(|a| wanted.contains(a));
        if fits { Ok(()) } else { Err(TokenError::Audience) }
    }
}

impl Times {
    /// RFC 7519 4.1.4 and 4.1.5: valid before `exp`, from `nbf` on.
    pub(super) fn check(self, now: u64, leeway: Duration) -> Result<(), TokenError> {
        // Seconds of this millennium are exact in a double.
        let (now, leeway) = (now as f64, leeway.as_secs_f64());
        if self.expires.is_some_and(|at| now - leeway >= at) {
            return Err(TokenError::Expired);
        }
        if self.begins.is_some_and(|at| now + leeway < at) {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}

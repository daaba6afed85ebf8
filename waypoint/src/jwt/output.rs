//! Headers that tell the application what a valid token says.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use policy::request::Claims;
use proto::routing as wire;
use serde_json::Value;

use super::{alike, header_name};

/// Headers of one rule.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Gets the payload, base64url, as it stands in the token.
    payload: Option<HeaderName>,
    /// Header and path of the claim.
    claims: Vec<(HeaderName, Vec<String>)>,
}

impl Output {
    /// The headers of a rule, and what is wrong with others that it names.
    pub(super) fn compile(rule: &wire::JwtRule) -> (Self, Vec<String>) {
        let (mut output, mut bad) = (Self::default(), Vec::new());
        if !rule.output_payload_to_header.is_empty() {
            match header_name(&rule.output_payload_to_header) {
                Ok(name) => output.payload = Some(name),
                Err(why) => bad.push(format!("outputPayloadToHeader: {why}")),
            }
        }
        for (i, claim) in rule.output_claim_to_headers.iter().enumerate() {
            match header_name(&claim.header) {
                Ok(name) => output.claims.push((name, claim.claim.split('.').map(ToOwned::to_owned).collect())),
                Err(why) => bad.push(format!("outputClaimToHeaders[{i}]: {why}")),
            }
        }
        (output, bad)
    }

    /// Removes what the caller sent under these names, also spelled with `_` for `-`: the application would believe it.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        let ours: Vec<&HeaderName> = self.payload.iter().chain(self.claims.iter().map(|(name, _)| name)).collect();
        if ours.is_empty() {
            return;
        }
        let forged = |name: &&HeaderName| ours.iter().any(|our| alike(our.as_str(), name.as_str()));
        let forged: Vec<HeaderName> = headers.keys().filter(forged).cloned().collect();
        for name in forged {
            headers.remove(name);
        }
    }

    /// Writes the headers of a token that was checked.
    pub(super) fn write(&self, headers: &mut HeaderMap, token: &str, claims: &Claims) {
        if let Some(name) = &self.payload
            && let Some(Ok(value)) = token.split('.').nth(1).map(HeaderValue::from_str)
        {
            headers.insert(name.clone(), value);
        }
        for (name, path) in &self.claims {
            // A name with dots is looked for as a whole first (`https://example.com/groups`).
            let whole = path.join(".");
            let found = claims.get(&[whole.as_str()]).or_else(|| claims.get(path));
            // A text that no header can hold is left out.
            if let Some(Ok(value)) = found.and_then(text_of).map(|t| HeaderValue::from_str(&t)) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

/// A claim as the text of a header: lists and objects as JSON in base64url, as Envoy does.
fn text_of(claim: &Value) -> Option<String> {
    match claim {
        Value::Array(_) | Value::Object(_) => Some(URL_SAFE_NO_PAD.encode(claim.to_string())),
        Value::Bool(_) | Value::Number(_) => Some(claim.to_string()),
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
    }
}

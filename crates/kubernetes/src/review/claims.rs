//! What a token says of itself, not proven.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use serde::Deserialize;

use super::Denied;

/// A service account token has 1 to 2 KiB; those of external signers some more. Longer ones do not fit into a header.
const LARGEST: usize = 16 << 10;

/// The API server's own allowance for clocks that differ (go-jose's `DefaultLeeway`).
const LEEWAY: Duration = Duration::from_secs(60);

/// What a token says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// For whom it was made.
    pub(super) audiences: Vec<String>,
    /// When it ends.
    pub(super) expires: Option<SystemTime>,
}

/// RFC 7519 4.1, as far as it is of use here.
#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    aud: Audience,
    /// NumericDate, which may have a fraction.
    exp: Option<f64>,
}

/// RFC 7519 4.1.3: one text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Claims {
    /// Refuses what says itself that it has ended, which the API server need not be asked for.
    pub(super) fn refuse_ended(&self, now: SystemTime) -> Result<(), Denied> {
        match self.expires {
            Some(end) if end + LEEWAY <= now => Err(Denied::Expired),
            _ => Ok(()),
        }
    }
}

/// Reads a token. All tokens of service accounts are JWTs in compact form (Kubernetes, "Managing Service Accounts"), so
/// anything else is refused without a question to the API server.
pub(super) fn read(token: &str) -> Result<Claims, Denied> {
    if token.len() > LARGEST {
        return Err(Denied::Malformed("it has more than 16 KiB"));
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [_, payload, signature] = parts[..] else {
        return Err(Denied::Malformed("it has not the three parts of a JWT"));
    };
    if signature.is_empty() {
        return Err(Denied::Malformed("it is not signed"));
    }
    let bytes = base64url(payload).ok_or(Denied::Malformed("its payload is not base64url"))?;
    let payload: Payload =
        serde_json::from_slice(&bytes).map_err(|_| Denied::Malformed("its payload is not the JSON of a JWT"))?;
    let audiences = match payload.aud {
        Audience::One(one) => vec![one],
        Audience::Several(all) => all,
    };
    Ok(Claims { audiences, expires: payload.exp.and_then(time) })
}

fn time(seconds: f64) -> Option<SystemTime> {
    // An end beyond what the system's clock can tell is no end.
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// RFC 4648 5, without padding. Kubernetes' own byte strings are RFC 4648 4, which differs by two letters and padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    if text.contains(['+', '/', '=']) {
        return None;
    }
    let padding = "=".repeat((4 - text.len() % 4) % 4);
    let standard = format!("{}{padding}", text.replace('-', "+").replace('_', "/"));
    serde_json::from_value::<ByteString>(standard.into()).ok().map(|bytes| bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token around a payload; made by the same byte string, the other way.
    fn token(payload: &str) -> String {
        let standard = serde_json::to_value(ByteString(payload.as_bytes().to_vec())).unwrap();
        let url = standard.as_str().unwrap().replace('+', "-").replace('/', "_").replace('=', "");
        format!("e30.{url}.c2ln")
    }

    #[test]
    fn a_token_says_for_whom_it_is_and_until_when() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let claims = read(&token(r#"{"aud":["istio-ca","x"],"exp":1000,"sub":"?"}"#)).unwrap();
        assert_eq!(claims, Claims { audiences: vec!["istio-ca".into(), "x".into()], expires: Some(at(1000)) });
        assert_eq!(claims.refuse_ended(at(1059)), Ok(()));
        assert_eq!(claims.refuse_ended(at(1060)), Err(Denied::Expired));
        let claims = read(&token(r#"{"aud":"one","exp":7.5}"#)).unwrap();
        assert_eq!(claims.audiences, ["one"]);
        assert_eq!(read(&token("{}")).unwrap(), Claims::default());
        assert_eq!(read(&token(r#"{"exp":1e300}"#)).unwrap().expires, None);
        assert_eq!(read(&token(r#"{"exp":-1}"#)).unwrap().expires, None);
    }

    #[test]
    fn what_is_no_token_is_told_without_a_question() {
        let long = "a".repeat(LARGEST + 1);
        for text in ["", "opaque", "a.b", "a.b.c.d", "e30..c2ln", "e30.!!.c2ln", "e30.bm8.c2ln", "e30.e30.", &long] {
            assert!(matches!(read(text), Err(Denied::Malformed(_))), "{text:.20}");
        }
        assert!(read(&token(r#"{"exp":"soon"}"#)).is_err());
    }
}

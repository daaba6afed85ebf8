//! What a checked token says.

use mesh::authz::StringMatch;
use serde_json::{Map, Value};

use super::matching::Fit;

/// Claims whose text is a list separated by spaces (RFC 8693 4.2, and what Istio splits).
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// Claims of a token whose signature, issuer, audience and times were checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Takes the payload of a token that was checked.
    pub fn new(payload: Map<String, Value>) -> Self {
        Self(payload)
    }

    /// The whole payload.
    pub fn payload(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The claim at the end of a path of names.
    pub fn get<S: AsRef<str>>(&self, path: &[S]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(first.as_ref())?, |value, name| value.as_object()?.get(name.as_ref()))
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The principal, `issuer/subject`; `None` when the token lacks one of them.
    pub fn principal(&self) -> Option<String> {
        Some(format!("{}/{}", self.text("iss")?, self.text("sub")?))
    }

    /// How a claim fits one of the patterns: a text, or one text of a list. Numbers and truth values are no texts for
    /// Istio, so they never fit for certain, but they may fit by how they are written.
    pub(crate) fn fit<S: AsRef<str>>(&self, path: &[S], patterns: &[StringMatch]) -> Fit {
        let Some(value) = self.get(path) else { return Fit::NO };
        let delimited = path.len() == 1 && path.iter().all(|n| SPACE_DELIMITED.contains(&n.as_ref()));
        patterns.iter().fold(Fit::NO, |fit, pattern| fit.or(fit_one(value, pattern, delimited)))
    }
}

fn fit_one(value: &Value, pattern: &StringMatch, delimited: bool) -> Fit {
    match value {
        Value::Array(items) => items.iter().fold(Fit::NO, |fit, item| fit.or(fit_item(item, pattern))),
        Value::String(text) if delimited => {
            Fit::known(pattern.matches(text) || text.split(' ').any(|item| pattern.matches(item)))
        }
        Value::Object(_) => Fit::maybe(*pattern == StringMatch::Presence),
        other => fit_item(other, pattern),
    }
}

fn fit_item(value: &Value, pattern: &StringMatch) -> Fit {
    match value {
        Value::Bool(_) | Value::Number(_) => Fit::maybe(pattern.matches(&value.to_string())),
        Value::String(text) => Fit::known(pattern.matches(text)),
        Value::Array(_) | Value::Null | Value::Object(_) => Fit::NO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        Claims::new(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn claims_are_found_by_path_and_fit_as_texts_lists_and_scopes() {
        let claims = claims(
            r#"{"iss":"https://issuer","sub":"me","scope":"read write","groups":["a","b"],"nested":{"k":["v"],"n":7},
                "admin":true,"note":"read write","none":null}"#,
        );
        let exact = |text: &str| vec![StringMatch::Exact(text.into())];
        for (path, want, fit) in [
            (&["scope"][..], "read", Fit::YES),
            (&["scope"], "read write", Fit::YES),
            (&["scope"], "rea", Fit::NO),
            (&["note"], "read", Fit::NO),
            (&["groups"], "b", Fit::YES),
            (&["groups"], "c", Fit::NO),
            (&["nested", "k"], "v", Fit::YES),
            (&["nested", "n"], "7", Fit::MAYBE),
            (&["nested", "n"], "8", Fit::NO),
            (&["nested", "x"], "v", Fit::NO),
            (&["nested", "k", "v"], "v", Fit::NO),
            (&["admin"], "true", Fit::MAYBE),
            (&["none"], "null", Fit::NO),
            (&["missing"], "x", Fit::NO),
        ] {
            assert_eq!(claims.fit(path, &exact(want)), fit, "{path:?} {want}");
        }
        assert_eq!(claims.fit(&["nested"], &[StringMatch::Presence]), Fit::MAYBE);
        assert_eq!(claims.principal().as_deref(), Some("https://issuer/me"));
    }
}

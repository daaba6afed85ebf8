//! What differs between an object as it is and as it would be.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// What the API server changes by itself with every write.
const NOISE: [&str; 3] = ["managedFields", "resourceVersion", "generation"];

/// A field that would change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// Such as `spec.containers[0].image`.
    field: String,
    /// None when it is not there.
    before: Option<Value>,
    after: Option<Value>,
}

/// The fields that differ.
pub(super) fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    found
}

fn compare(field: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
    match (before, after) {
        (Some(Value::Object(b)), Some(Value::Object(a))) => {
            let keys: BTreeSet<&String> = b.keys().chain(a.keys()).collect();
            for key in keys {
                if field != "metadata" || !NOISE.contains(&&**key) {
                    compare(&below(field, key), b.get(key), a.get(key), found);
                }
            }
        }
        (Some(Value::Array(b)), Some(Value::Array(a))) => {
            for index in 0..b.len().max(a.len()) {
                compare(&format!("{field}[{index}]"), b.get(index), a.get(index), found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            found.push(Change { field: field.to_owned(), before: before.cloned(), after: after.cloned() });
        }
    }
}

fn below(field: &str, key: &str) -> String {
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match (field, plain) {
        ("", _) => key.to_owned(),
        (_, true) => format!("{field}.{key}"),
        (_, false) => format!("{field}[{key:?}]"),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        if let (Some(before), Some(after)) = (text(&self.before), text(&self.after))
            && (before.contains('\n') || after.contains('\n'))
        {
            write!(f, "{}:", self.field)?;
            return lines(f, &before, &after);
        }
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "(none)".to_owned(), Value::to_string);
        write!(f, "{}: {} -> {}", self.field, shown(&self.before), shown(&self.after))
    }
}

/// The lines of two texts from the first that differs to the last.
fn lines(f: &mut fmt::Formatter<'_>, before: &str, after: &str) -> fmt::Result {
    let (before, after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let start = before.iter().zip(&after).take_while(|(b, a)| b == a).count();
    let (before, after) = (&before[start..], &after[start..]);
    let end = before.iter().rev().zip(after.iter().rev()).take_while(|(b, a)| b == a).count();
    for line in &before[..before.len() - end] {
        write!(f, "\n    - {line}")?;
    }
    for line in &after[..after.len() - end] {
        write!(f, "\n    + {line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(before: &Value, after: &Value) -> Vec<String> {
        changes(before, after).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_field_that_differs_is_named_and_no_other() {
        let before = json!({"metadata": {"name": "x", "resourceVersion": "1", "generation": 1, "managedFields": [],
            "labels": {"app.kubernetes.io/name": "x"}}, "spec": {"replicas": 2, "list": [1, 2], "same": {"a": [1]}}});
        let mut after = before.clone();
        after["metadata"]["resourceVersion"] = json!("2");
        after["metadata"]["generation"] = json!(2);
        after["metadata"]["managedFields"] = json!([{}]);
        assert_eq!(shown(&before, &after), [""; 0]);
        after["metadata"]["labels"]["app.kubernetes.io/name"] = json!("y");
        after["spec"] = json!({"replicas": 1, "list": [1], "same": {"a": [1]}, "more": true, "generation": 3});
        assert_eq!(
            shown(&before, &after),
            [
                r#"metadata.labels["app.kubernetes.io/name"]: "x" -> "y""#,
                "spec.generation: (none) -> 3",
                "spec.list[1]: 2 -> (none)",
                "spec.more: (none) -> true",
                "spec.replicas: 2 -> 1",
            ]
        );
    }

    #[test]
    fn of_long_texts_the_lines_are_shown() {
        let text = |text: &str| json!({"data": {"a.yaml": text}});
        let before = text("one: 1\ntwo: 2\nthree: 3\n");
        let after = text("one: 1\ntwo: 22\nfour: 4\nthree: 3\n");
        assert_eq!(shown(&before, &after), ["data[\"a.yaml\"]:\n    - two: 2\n    + two: 22\n    + four: 4"]);
        assert_eq!(shown(&text("a\n"), &text("a\nb\n")), ["data[\"a.yaml\"]:\n    + b"]);
    }
}

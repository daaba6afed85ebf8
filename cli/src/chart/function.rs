//! The functions of the template language (Helm and Sprig), as far as our charts use them.

use std::fmt::Write;

use serde_json::Value;

use super::go;

/// Calls a function; the piped value is the last argument.
///
/// # Errors
/// A function that is not known, or arguments that do not fit it.
pub(crate) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("the arguments of {name:?} do not fit");
    match (name, arguments) {
        ("and", [.., last]) => Ok(arguments.iter().find(|a| !truth(a)).unwrap_or(last).clone()),
        ("or", [.., last]) => Ok(arguments.iter().find(|a| truth(a)).unwrap_or(last).clone()),
        ("not", [value]) => Ok((!truth(value)).into()),
        ("eq", [a, b]) => Ok((a == b).into()),
        ("ne", [a, b]) => Ok((a != b).into()),
        ("default", [other, value]) => Ok(if truth(value) { value } else { other }.clone()),
        ("quote", [value]) => Ok(Value::String(quoted(&text(value)))),
        ("add", [a, b]) => a.as_i64().zip(b.as_i64()).map(|(a, b)| (a + b).into()).ok_or_else(wrong),
        ("sha256sum", [Value::String(text)]) => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
            Ok(digest.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>().into())
        }
        ("toYaml", [value]) => Ok(yaml(value).into()),
        ("toJson", [value]) => Ok(go::json(value).into()),
        ("int", [value]) => value.as_f64().map(|n| (n as i64).into()).ok_or_else(wrong),
        ("list", items) => Ok(items.to_vec().into()),
        ("indent" | "nindent", [width, Value::String(body)]) => {
            let width = width.as_u64().and_then(|w| usize::try_from(w).ok()).ok_or_else(wrong)?;
            let pad = " ".repeat(width);
            let body = format!("{pad}{}", body.replace('\n', &format!("\n{pad}")));
            Ok(if name == "nindent" { format!("\n{body}") } else { body }.into())
        }
        (
            "add" | "and" | "or" | "not" | "eq" | "ne" | "default" | "quote" | "sha256sum" | "toYaml" | "toJson"
            | "indent" | "nindent" | "int",
            _,
        ) => Err(wrong()),
        _ => Err(format!("the function {name:?} is not known here")),
    }
}

/// Go's truth: nothing, false, 0 and what is empty are not.
pub(crate) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// A value as Go prints it.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Number(n) => go::number(n),
        other => other.to_string(),
    }
}

/// A text in double quotes, as YAML and JSON read it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A value as block YAML, keys in order, without a line end.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    lines(value, 0, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn lines(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                let key = scalar(&Value::from(key.as_str()));
                match value {
                    // A list stands under its key without being moved in, as Go's YAML has it.
                    Value::Array(a) if !a.is_empty() => {
                        put(out, format_args!("{pad}{key}:\n"));
                        lines(value, indent, out);
                    }
                    Value::Object(o) if !o.is_empty() => {
                        put(out, format_args!("{pad}{key}:\n"));
                        lines(value, indent + 2, out);
                    }
                    other => put(out, format_args!("{pad}{key}: {}\n", scalar(other))),
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                lines(item, indent + 2, &mut inner);
                put(out, format_args!("{pad}- {}", &inner[inner.len().min(indent + 2)..]));
            }
        }
        other => put(out, format_args!("{pad}{}\n", scalar(other))),
    }
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    out.write_fmt(what).ok();
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) if is_plain(s) => s.clone(),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Whether YAML reads the text as the same text when it stands without quotes. Quotes never hurt, so only the plainest do.
fn is_plain(text: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let word = text.to_ascii_lowercase();
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(letters)
        && !matches!(&*word, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_means_what_the_value_was() {
        let value = json!({"a": {"b": [], "c": {}, "d": [[1, 2], {"x": "yes", "y": null}]}, "e": "1.5", "f": "two words: x", "g": [""]});
        let wanted = "a:\n  b: []\n  c: {}\n  d:\n  - - 1\n    - 2\n  - x: \"yes\"\n    \"y\": null\ne: \"1.5\"\nf: \"two words: x\"\ng:\n- \"\"";
        assert_eq!(yaml(&value), wanted);
    }

    #[test]
    fn truth_is_gos() {
        for (value, wanted) in
            [(json!(0), false), (json!(0.5), true), (json!(""), false), (json!([]), false), (json!({"a": 1}), true)]
        {
            assert_eq!(truth(&value), wanted, "{value}");
        }
    }
}

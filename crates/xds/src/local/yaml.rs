//! A writer for the part of YAML that the file needs.
//!
//! Block style; every text in double quotes, as JSON writes them, so that no text is mistaken for a number or a truth
//! value. Keys are quoted too unless they are plain words or numbers: stock proxies want ports as numbers.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

/// The value as YAML, with a line break at the end.
pub(super) fn text(value: &impl Serialize) -> String {
    // The types of the file have text or number keys and no way to fail.
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    let mut out = String::new();
    block(&mut out, &value, 0);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (i, (key, inner)) in map.iter().enumerate() {
                if i > 0 {
                    pad(out, indent);
                }
                out.push_str(&self::key(key));
                out.push(':');
                nested(out, inner, indent);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (i, inner) in list.iter().enumerate() {
                if i > 0 {
                    pad(out, indent);
                }
                out.push_str("- ");
                block(out, inner, indent + 2);
            }
        }
        // Numbers, truth values, texts, empty lists and maps look in YAML as they do in JSON.
        plain => {
            // Writing to a String cannot fail.
            let _ok = writeln!(out, "{plain}");
        }
    }
}

fn nested(out: &mut String, inner: &Value, indent: usize) {
    let deep = matches!(inner, Value::Object(m) if !m.is_empty()) || matches!(inner, Value::Array(l) if !l.is_empty());
    if deep {
        out.push('\n');
        pad(out, indent + 2);
        block(out, inner, indent + 2);
    } else {
        out.push(' ');
        block(out, inner, indent);
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn key(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric());
    // Words such as `yes` are no keys of ours; the service and endpoint keys hold `/`.
    if plain { key.to_owned() } else { Value::from(key).to_string() }
}

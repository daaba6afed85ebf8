//! Writes YAML in block style. Keys that are numbers stay numbers: Istio's reader of port maps wants them so, which is
//! why JSON, though YAML as well, does not do.

use serde_json::Value;

/// The document of a value.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0, false);
    out
}

// `inline`: the caller has just written `key:` or `- ` and the value may begin on that line.
fn write(out: &mut String, value: &Value, depth: usize, after_dash: bool) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 || !after_dash {
                    indent(out, depth);
                }
                out.push_str(&key_text(key));
                out.push(':');
                child(out, value, depth);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (at, value) in list.iter().enumerate() {
                if at > 0 || !after_dash {
                    indent(out, depth);
                }
                out.push('-');
                out.push(' ');
                if is_block(value) {
                    write(out, value, depth + 1, true);
                } else {
                    scalar(out, value);
                }
            }
        }
        other => {
            indent(out, depth);
            scalar(out, other);
        }
    }
}

fn child(out: &mut String, value: &Value, depth: usize) {
    if is_block(value) {
        out.push('\n');
        write(out, value, depth + 1, false);
    } else {
        out.push(' ');
        scalar(out, value);
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    }
}

// JSON's scalars and empty collections are YAML's.
fn scalar(out: &mut String, value: &Value) {
    out.push_str(&value.to_string());
    out.push('\n');
}

fn key_text(key: &str) -> String {
    let number = !key.is_empty() && key.len() < 10 && key.bytes().all(|b| b.is_ascii_digit());
    let word = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
    // Words that YAML 1.1 readers take for booleans or null.
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&key.to_lowercase().as_str());
    if number || word && !special { key.to_owned() } else { Value::from(key).to_string() }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn block_style_with_numbers_as_keys() {
        let value = json!({
            "name": "a: b", "n": 1, "ports": {"80": 8080}, "empty": [], "none": {}, "x/y": null,
            "list": [{"a": 1, "b": {"c": [true]}}, "text", [[{"Exact": "q"}]]],
        });
        let expected = r#"empty: []
list:
  - a: 1
    b:
      c:
        - true
  - "text"
  - - - Exact: "q"
"n": 1
name: "a: b"
none: {}
ports:
  80: 8080
"x/y": null
"#;
        assert_eq!(text(&value), expected);
    }
}

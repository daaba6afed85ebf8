//! `--set`, as Helm reads it: `a.b=1,c={x,y}`; a backslash takes the meaning of a comma, a dot or a brace away.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// The overlays of one `--set`.
///
/// # Errors
/// What is not `key=value`, and the parts of Helm's language that are not known here.
pub(super) fn parse(text: &str) -> Result<Vec<Value>> {
    split(text, ',').iter().map(|one| overlay(one)).collect()
}

fn overlay(text: &str) -> Result<Value> {
    let Some((path, value)) = text.split_once('=') else {
        bail!("--set {text}: not of the form path.to.key=value; a comma within a value is written \\,");
    };
    if path.contains('[') {
        bail!("--set {text}: single items of a list cannot be set; give the whole list as {{a,b}}, or a file with -f");
    }
    let keys = split(path, '.');
    if keys.iter().any(String::is_empty) {
        bail!("--set {text}: a key in the path is empty");
    }
    let nest = |inner, key: &String| Value::Object(Map::from_iter([(plain(key), inner)]));
    Ok(keys.iter().rev().fold(scalar(value), nest))
}

/// Parts between the separators that stand outside of braces and behind no backslash. Backslashes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut depth, mut escaped) = (vec![String::new()], 0_usize, false);
    for letter in text.chars() {
        if letter == separator && depth == 0 && !escaped {
            parts.push(String::new());
            continue;
        }
        match letter {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = letter == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

/// Without the backslashes.
fn plain(text: &str) -> String {
    let (mut out, mut letters) = (String::new(), text.chars());
    while let Some(letter) = letters.next() {
        out.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    out
}

/// `{a,b}` is a list, numbers and truth are themselves, all else is text.
fn scalar(text: &str) -> Value {
    if let Some(list) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        return split(list, ',').iter().filter(|t| !t.is_empty()).map(|t| scalar(t.trim())).collect();
    }
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.parse::<i64>().map_or_else(|_| plain(text).into(), Value::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_read_as_helm_reads_them() {
        for (text, wanted) in [
            ("a=1", json!([{"a": 1}])),
            ("a.b=x,c=true", json!([{"a": {"b": "x"}}, {"c": true}])),
            ("a={x,y},b=", json!([{"a": ["x", "y"]}, {"b": ""}])),
            (r"a=x\,y", json!([{"a": "x,y"}])),
            (r"a.prometheus\.io/scrape=no", json!([{"a": {"prometheus.io/scrape": "no"}}])),
            ("a=b=c", json!([{"a": "b=c"}])),
            ("a={}", json!([{"a": []}])),
        ] {
            assert_eq!(Value::from(parse(text).unwrap()), wanted, "{text}");
        }
        for text in ["a", "a=1,b", "a..b=1", "a[0]=1", "=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

//! How Go prints, which Helm's templates show: numbers in `{{ … }}` and in `toJson`, and the letters that `toJson` escapes.

use serde_json::{Number, Value};

/// From here on Go prints a float with an exponent (strconv, format `g` with the shortest precision), and below 1e-4.
const EXPONENT: i32 = 6;

/// A number in text (fmt, `%v`).
pub(super) fn number(number: &Number) -> String {
    match (number.is_f64(), number.as_f64()) {
        (true, Some(float)) => general(float),
        _ => number.to_string(),
    }
}

fn general(float: f64) -> String {
    let (digits, exponent) = parts(float);
    if (-4..EXPONENT).contains(&exponent) {
        return float.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The shortest digits and the exponent.
fn parts(float: f64) -> (String, i32) {
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (digits.to_owned(), exponent.parse().unwrap_or(0))
}

/// A value as encoding/json writes it: keys in order, no spaces, `<`, `>` and `&` escaped for HTML.
pub(super) fn json(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let inside: Vec<String> =
                entries.into_iter().map(|(key, value)| format!("{}:{}", text(key), json(value))).collect();
            format!("{{{}}}", inside.join(","))
        }
        Value::String(s) => text(s),
        Value::Number(n) => match (n.is_f64(), n.as_f64()) {
            (true, Some(float)) => json_float(float),
            _ => n.to_string(),
        },
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

/// encoding/json, `floatEncoder`: as ECMAScript does.
fn json_float(float: f64) -> String {
    let size = float.abs();
    if float == 0.0 || (1e-6..1e21).contains(&size) {
        return float.to_string();
    }
    let (digits, exponent) = parts(float);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{}", exponent.abs())
}

fn text(text: &str) -> String {
    let mut out = String::new();
    for letter in Value::from(text).to_string().chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_as_go_prints_them() {
        // (value, in text, in JSON), as `helm template` shows them.
        for (value, wanted, in_json) in [
            (json!(3), "3", "3"),
            (json!(900.0), "900", "900"),
            (json!(0.01), "0.01", "0.01"),
            (json!(0.00001), "1e-05", "0.00001"),
            (json!(2.5e-7), "2.5e-07", "2.5e-7"),
            (json!(1_500_000.0), "1.5e+06", "1500000"),
            (json!(1e21), "1e+21", "1e+21"),
            (json!(0.0), "0", "0"),
        ] {
            assert_eq!(value.as_number().map(number).as_deref(), Some(wanted));
            assert_eq!(json(&value), in_json);
        }
    }

    #[test]
    fn json_is_escaped_and_ordered_as_gos() {
        let value = json!({"b": [true, null, "a<b>&\u{2028}\"é\n"], "a": {}});
        assert_eq!(json(&value), r#"{"a":{},"b":[true,null,"a\u003cb\u003e\u0026\u2028\"é\n"]}"#);
    }
}

//! Paths (RFC 3986 5.2.4 and 6.2.2; Istio's `pathNormalization` BASE and beyond).

use std::borrow::Cow;

/// What to do with a path that hides something from whoever reads it once: `%2F`, `%5C`, a percent sign that is itself
/// escaped before two hexadecimal digits (`%252F`), bytes that are not UTF-8 (overlong forms), and signs of Unicode
/// that some systems take for a slash, backslash, dot or percent sign.
///
/// **The rule**: where any policy of the Service names paths ([`super::super::RequestPolicies::names_paths`]), such
/// paths are refused, because what the application will make of them cannot be known; elsewhere they are kept as they
/// are (group and artefact names with `%2F` are common), since nothing was promised about paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// Keep them.
    Kept,
    /// Refuse the request.
    Refused,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A control character, plain or escaped.
    #[error("the path holds a control character")]
    Control,
    /// `/..;x/`: some servers drop the parameter and then go up, others do not.
    #[error("the path holds a dot segment with a parameter")]
    DotParameter,
    /// `%25` before two hexadecimal digits, where policies name paths.
    #[error("the path is escaped twice, and a policy names paths here")]
    Doubled,
    /// `%2F` or `%5C`, where policies name paths.
    #[error("the path holds an escaped slash or backslash, and a policy names paths here")]
    EncodedSlash,
    /// A percent sign without two hexadecimal digits.
    #[error("the path holds a percent sign without two hexadecimal digits")]
    Escape,
    /// A `#`: it is never part of a request (RFC 9110 4.2.5).
    #[error("the path holds a fragment")]
    Fragment,
    /// A sign that looks like a slash, backslash, dot or percent sign, where policies name paths.
    #[error("the path holds a sign that some systems take for a slash or dot, and a policy names paths here")]
    LookAlike,
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// Bytes that are not UTF-8, where policies name paths.
    #[error("the path is not UTF-8, and a policy names paths here")]
    NotUtf8,
    /// A `?`: the query belongs beside the path.
    #[error("the path holds a question mark")]
    Query,
}

/// Signs that NFKC or best-fit conversion turns into `.`, `..`, `/`, `\` or `%`.
const LOOK_ALIKES: [char; 9] =
    ['\u{2024}', '\u{2025}', '\u{fe52}', '\u{fe68}', '\u{fe6a}', '\u{ff05}', '\u{ff0e}', '\u{ff0f}', '\u{ff3c}'];

/// The canonical form of a request's path, without its query.
///
/// 1. Escapes of unreserved characters are undone, other escapes get upper-case digits; what may not stand in a path
///    unescaped is escaped. A backslash becomes a slash.
/// 2. Slashes are merged, dot segments are removed; going above the root stays there.
/// 3. Control characters (`%00` too), bad escapes, fragments and dot segments with parameters are refused, and, by
///    `encoded`, whatever is escaped so that it can be read in two ways.
///
/// The empty path is `/` (RFC 3986 6.2.3); `*` (of OPTIONS) is itself. Applying it twice changes nothing.
///
/// # Errors
/// When the path is refused; the request then gets 400.
pub fn path(raw: &str, encoded: Encoded) -> Result<Cow<'_, str>, PathError> {
    if raw.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    if raw == "*" || is_canonical(raw) {
        return Ok(Cow::Borrowed(raw));
    }
    let escaped = escape(raw)?;
    if !escaped.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if encoded == Encoded::Refused {
        refuse_hidden(&escaped)?;
    }
    let resolved = resolve(&escaped)?;
    Ok(if resolved == raw { Cow::Borrowed(raw) } else { Cow::Owned(resolved) })
}

/// Whether the path is plainly in its canonical form already; false when in doubt.
fn is_canonical(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    let twice = |pair: &[u8]| matches!(pair, b"//" | b"/.");
    bytes.first() == Some(&b'/') && bytes.iter().all(|b| may_stand(*b)) && !bytes.windows(2).any(twice)
}

/// Whether a byte may stand in a path as it is (`pchar` or slash of RFC 3986 3.3).
fn may_stand(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'/' | b':' | b'@' | b'!' | b'$' | b'&'..=b',' | b';' | b'=')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Step 1.
fn escape(raw: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match *byte {
            b'%' => {
                let [high, low, tail @ ..] = rest else { return Err(PathError::Escape) };
                let value = hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l).ok_or(PathError::Escape)?;
                rest = tail;
                match value {
                    0..=0x1f | 0x7f => return Err(PathError::Control),
                    v if is_unreserved(v) => out.push(char::from(v)),
                    v => push_escaped(&mut out, v),
                }
            }
            0..=0x1f | 0x7f => return Err(PathError::Control),
            b'#' => return Err(PathError::Fragment),
            b'?' => return Err(PathError::Query),
            b'\\' => out.push('/'),
            b if may_stand(b) => out.push(char::from(b)),
            b => push_escaped(&mut out, b),
        }
    }
    Ok(out)
}

/// Step 3, by [`Encoded::Refused`].
fn refuse_hidden(escaped: &str) -> Result<(), PathError> {
    let bytes = escaped.as_bytes();
    let mut high = false;
    for (at, window) in bytes.windows(3).enumerate() {
        if let [b'%', a, b] = window {
            let doubled = || bytes.get(at + 3..at + 5).is_some_and(|next| next.iter().all(|b| hex(*b).is_some()));
            match [a, b] {
                [b'2', b'F'] | [b'5', b'C'] => return Err(PathError::EncodedSlash),
                [b'2', b'5'] if doubled() => return Err(PathError::Doubled),
                _ => high |= *a >= b'8',
            }
        }
    }
    if high {
        let text = String::from_utf8(unescape_bytes(escaped)).map_err(|_| PathError::NotUtf8)?;
        if text.contains(LOOK_ALIKES) {
            return Err(PathError::LookAlike);
        }
    }
    Ok(())
}

/// Step 2.
fn resolve(escaped: &str) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in escaped.split('/') {
        // Whether the path ends in a slash is what the last segment says.
        open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other if is_dot_with_parameter(other) => return Err(PathError::DotParameter),
            other => kept.push(other),
        }
    }
    let mut out = String::with_capacity(escaped.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if open || out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

fn is_dot_with_parameter(segment: &str) -> bool {
    let rest = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.'));
    rest.is_some_and(|r| r.starts_with(';') || r.starts_with("%3B"))
}

/// A part of a path as a policy writes it, with its escapes as in [`path`] but segments left alone.
pub(in super::super) fn escape_pattern(part: &str) -> Result<String, PathError> {
    let escaped = escape(part)?;
    refuse_hidden(&escaped)?;
    Ok(escaped)
}

/// Every escape undone. Bytes that are no UTF-8 become the replacement sign.
pub(in super::super) fn unescape(escaped: &str) -> Cow<'_, str> {
    if !escaped.contains('%') {
        return Cow::Borrowed(escaped);
    }
    Cow::Owned(String::from_utf8_lossy(&unescape_bytes(escaped)).into_owned())
}

fn unescape_bytes(escaped: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let value = match (byte, rest) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        match value {
            Some(value) => {
                out.push(value);
                rest = rest.get(2..).unwrap_or_default();
            }
            None => out.push(*byte),
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn push_escaped(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;

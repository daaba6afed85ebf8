//! Where tokens stand in a request, and how they are taken out.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::routing as wire;

use super::{alike, header_name};

/// A place where a rule looks for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Cookie(String),
    Header { name: HeaderName, prefix: String },
    Query(String),
}

impl Place {
    fn rank(&self) -> (u8, &str, &str) {
        match self {
            Self::Cookie(name) => (0, name, ""),
            Self::Header { name, prefix } => (1, name.as_str(), prefix),
            Self::Query(name) => (2, name, ""),
        }
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A token that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) text: String,
    /// Everywhere it stands.
    pub(super) places: Vec<Place>,
}

/// There are several.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Several;

impl Place {
    /// Istio's default places, for a rule that names none.
    pub(super) fn defaults() -> [Self; 2] {
        [Self::Header { name: AUTHORIZATION, prefix: "Bearer ".to_owned() }, Self::Query("access_token".to_owned())]
    }

    /// The places of a rule, and what is wrong with others that it names.
    pub(super) fn of(rule: &wire::JwtRule) -> (Vec<Self>, Vec<String>) {
        let mut bad = Vec::new();
        let mut places = Vec::new();
        for (i, header) in rule.from_headers.iter().enumerate() {
            match header_name(&header.name) {
                Ok(name) => places.push(Self::Header { name, prefix: header.prefix.clone() }),
                Err(why) => bad.push(format!("fromHeaders[{i}]: {why}")),
            }
        }
        places.extend(rule.from_params.iter().cloned().map(Self::Query));
        places.extend(rule.from_cookies.iter().cloned().map(Self::Cookie));
        if places.is_empty() && bad.is_empty() {
            places.extend(Self::defaults());
        }
        (places, bad)
    }

    fn tokens(&self, headers: &HeaderMap, query: Option<&str>) -> Vec<String> {
        match self {
            Self::Cookie(name) => crumbs(headers).filter(|(n, _)| n == name).map(|(_, v)| v).collect(),
            Self::Header { name, prefix } => {
                let lines = headers.get_all(name).iter();
                lines.filter_map(|v| after_prefix(v, prefix)).collect()
            }
            Self::Query(name) => {
                let pairs = form_pairs(query.unwrap_or_default());
                pairs.filter(|(_, n, _)| n == name).map(|(_, _, v)| v).collect()
            }
        }
    }

    /// Removes the token from this place; `left` is the query as other places left it.
    pub(super) fn take_out(&self, headers: &mut HeaderMap, query: Option<&str>, left: &mut Option<String>) {
        match self {
            Self::Cookie(name) => {
                let kept: Vec<String> =
                    crumbs(headers).filter(|(n, _)| n != name).map(|(n, v)| format!("{n}={v}")).collect();
                headers.remove(COOKIE);
                // Each part came out of a header value.
                if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_str(&kept.join("; "))) {
                    headers.insert(COOKIE, value);
                }
            }
            Self::Header { name, .. } => {
                let same: Vec<HeaderName> =
                    headers.keys().filter(|n| alike(n.as_str(), name.as_str())).cloned().collect();
                for name in same {
                    headers.remove(name);
                }
            }
            Self::Query(name) => {
                let now = left.take().or_else(|| query.map(ToOwned::to_owned)).unwrap_or_default();
                let kept: Vec<&str> = form_pairs(&now).filter(|(_, n, _)| n != name).map(|(raw, ..)| raw).collect();
                *left = Some(kept.join("&"));
            }
        }
    }
}

/// The request's token, wherever it stands.
///
/// # Errors
/// When there are different ones.
pub(super) fn find(places: &[Place], headers: &HeaderMap, query: Option<&str>) -> Result<Option<Found>, Several> {
    let mut found: Option<Found> = None;
    for place in places {
        for text in place.tokens(headers, query) {
            match &mut found {
                None => found = Some(Found { text, places: vec![place.clone()] }),
                Some(known) if known.text == text => known.places.push(place.clone()),
                Some(_) => return Err(Several),
            }
        }
    }
    Ok(found)
}

/// The token of a header value. The scheme of `Authorization` has no case (RFC 9110 11.1); another scheme is no token.
/// A value that is no text is a token that cannot be valid, not a missing one.
fn after_prefix(value: &HeaderValue, prefix: &str) -> Option<String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let (start, rest) = (text.get(..prefix.len())?, text.get(prefix.len()..)?);
    let fits = if prefix.ends_with(' ') { start.eq_ignore_ascii_case(prefix) } else { start == prefix };
    fits.then(|| rest.trim().to_owned())
}

/// Name and value of every cookie.
fn crumbs(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    let lines: Vec<String> =
        headers.get_all(COOKIE).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
    lines.into_iter().flat_map(|line| {
        let parts: Vec<(String, String)> = line
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
            .collect();
        parts
    })
}

/// Every pair of a query: as it stands, its name and its value without escapes.
fn form_pairs(query: &str) -> impl Iterator<Item = (&str, String, String)> {
    query.split('&').filter(|raw| !raw.is_empty()).map(|raw| {
        let (name, value) = form_urlencoded::parse(raw.as_bytes()).next().unwrap_or_default();
        (raw, name.into_owned(), value.into_owned())
    })
}

//! How policies write texts, paths, hosts and subjects, and what fits them.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use mesh::authz::StringMatch;

use super::canonical::{self, Authority, PathError, escape_pattern, unescape};
use super::claims::Claims;
use super::matching::Fit;

/// Why a value cannot be compiled. Says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("{0:?} is not an address or a CIDR block such as 10.0.0.0/8 or fd00::/64")]
    Block(String),
    #[error("{0:?} holds braces that are neither {{*}} nor {{**}}: a template segment is one of these or plain text")]
    Braces(String),
    #[error("the value is empty: remove it, or write \"*\" for any")]
    Empty,
    #[error("{0:?} is no host that a request can name: {1}")]
    Host(String, canonical::HostError),
    #[error("{0:?} never matches: requests are compared in the form {1:?}")]
    NotCanonical(String, String),
    #[error("{0:?} does not begin with a slash, so it matches no path")]
    NotAbsolute(String),
    #[error("{0:?} is no path that a request can have: {1}")]
    Path(String, PathError),
    #[error("{0:?} is not a port from 1 to 65535")]
    Port(String),
    #[error("{0:?} is not a service account: write namespace/name, without \"*\"")]
    ServiceAccount(String),
    #[error("{0:?} begins with spiffe://: write the identity without it")]
    Scheme(String),
    #[error("{0:?} holds a \"*\" in the middle: it may stand only at the beginning or at the end")]
    Star(String),
    #[error("{0:?}: {{**}} must be the last operator of a template, and every operator a whole segment")]
    Template(String),
}

/// A text in which `*` is an operator wherever it stands, so that one in the middle is a mistake.
pub(crate) fn text(value: &str) -> Result<StringMatch, Flaw> {
    let found = literal(value)?;
    let inner = match &found {
        StringMatch::Exact(x) | StringMatch::Prefix(x) | StringMatch::Suffix(x) => x.contains('*'),
        StringMatch::Presence => false,
    };
    if inner { Err(Flaw::Star(value.to_owned())) } else { Ok(found) }
}

/// A text in which further `*` stand for themselves (`*/*` of an Accept header).
pub(crate) fn literal(value: &str) -> Result<StringMatch, Flaw> {
    Ok(match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
        ("", ..) => return Err(Flaw::Empty),
        ("*", ..) => StringMatch::Presence,
        (_, Some(suffix), _) => StringMatch::Suffix(suffix.into()),
        (_, None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        _ => StringMatch::Exact(value.into()),
    })
}

/// A principal.
pub(crate) fn principal(value: &str) -> Result<StringMatch, Flaw> {
    if value.starts_with("spiffe://") {
        return Err(Flaw::Scheme(value.to_owned()));
    }
    text(value)
}

/// A path of a policy, with what it becomes when escapes are undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPattern {
    written: Arc<str>,
    /// Compared with the canonical path.
    plain: Shape,
    /// Compared with the bare path.
    bare: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Text(StringMatch),
    Template { left: Vec<Piece>, right: Option<Box<str>> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    /// One segment.
    One,
}

impl PathPattern {
    pub(crate) fn parse(value: &str) -> Result<Self, Flaw> {
        if value.contains(['{', '}']) {
            return Self::template(value);
        }
        let flaw = |e| Flaw::Path(value.to_owned(), e);
        let found = text(value)?;
        let part = match &found {
            StringMatch::Exact(x) | StringMatch::Prefix(x) | StringMatch::Suffix(x) => &**x,
            StringMatch::Presence => "",
        };
        let plain = escape_pattern(part).map_err(flaw)?;
        let rooted = !matches!(found, StringMatch::Suffix(_) | StringMatch::Presence);
        if rooted && !plain.starts_with('/') {
            return Err(Flaw::NotAbsolute(value.to_owned()));
        }
        if !may_be_part(&plain, matches!(found, StringMatch::Exact(_) | StringMatch::Suffix(_))) {
            let whole = canonical::path(&plain, canonical::Encoded::Refused).map_err(flaw)?;
            return Err(Flaw::NotCanonical(value.to_owned(), whole.into_owned()));
        }
        let bare = match &found {
            // What is left of a whole path is compared with what is left of the policy's.
            StringMatch::Exact(_) => bare(&plain).unwrap_or_else(|| plain.clone()),
            _ => unescape(&plain).into_owned(),
        };
        let shape = |text: String| {
            Shape::Text(match &found {
                StringMatch::Exact(_) => StringMatch::Exact(text.into()),
                StringMatch::Prefix(_) => StringMatch::Prefix(text.into()),
                StringMatch::Presence => StringMatch::Presence,
                StringMatch::Suffix(_) => StringMatch::Suffix(text.into()),
            })
        };
        Ok(Self { written: value.into(), plain: shape(plain), bare: shape(bare) })
    }

    /// `/foo/{*}/bar/{**}`: operators are whole segments, and of the second kind there is one at the end at most.
    fn template(value: &str) -> Result<Self, Flaw> {
        if !value.starts_with('/') {
            return Err(Flaw::NotAbsolute(value.to_owned()));
        }
        let mut literal = String::new();
        let mut left = Vec::new();
        let mut right = None;
        for segment in value.split('/').skip(1) {
            let closed = right.is_some();
            let into = right.as_mut().unwrap_or(&mut literal);
            into.push('/');
            match segment {
                "{*}" | "{**}" if closed => return Err(Flaw::Template(value.to_owned())),
                "{*}" => {
                    left.push(Piece::Literal(std::mem::take(&mut literal).into()));
                    left.push(Piece::One);
                }
                "{**}" => {
                    left.push(Piece::Literal(std::mem::take(&mut literal).into()));
                    right = Some(String::new());
                }
                plain if plain.contains("{*}") || plain.contains("{**}") => {
                    return Err(Flaw::Template(value.to_owned()));
                }
                plain if plain.contains(['{', '}']) => return Err(Flaw::Braces(value.to_owned())),
                plain if plain.contains('*') => return Err(Flaw::Star(value.to_owned())),
                plain => into.push_str(&escape_pattern(plain).map_err(|e| Flaw::Path(value.to_owned(), e))?),
            }
        }
        if right.is_none() && !literal.is_empty() {
            left.push(Piece::Literal(literal.into()));
        }
        let literals = left.iter().filter_map(|p| if let Piece::Literal(t) = p { Some(&**t) } else { None });
        if let Some(bad) = literals.chain(right.as_deref()).find(|t| !may_be_part(t, false)) {
            return Err(Flaw::NotCanonical(value.to_owned(), bad.replace("//", "/")));
        }
        let undone = |p: &Piece| match p {
            Piece::Literal(text) => Piece::Literal(unescape(text).into()),
            Piece::One => Piece::One,
        };
        let bare = Shape::Template {
            left: left.iter().map(undone).collect(),
            right: right.as_deref().map(|r| unescape(r).into()),
        };
        Ok(Self { written: value.into(), plain: Shape::Template { left, right: right.map(Into::into) }, bare })
    }

    pub(crate) fn fit(&self, path: &Path<'_>) -> Fit {
        let plain = self.plain.matches(path.canonical);
        let unparametered = path.unparametered().map(|p| self.plain.matches(p));
        let bare = || self.bare.matches(path.bare().unwrap_or(path.canonical));
        Fit { certain: plain && unparametered != Some(false), possible: plain || unparametered == Some(true) || bare() }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Whether a part of a pattern can be found in a canonical path; `last` when the path ends with it.
fn may_be_part(plain: &str, last: bool) -> bool {
    let dots = |t: &str| t.contains("/./") || t.contains("/../") || (last && (t.ends_with("/.") || t.ends_with("/..")));
    !plain.contains("//") && !dots(plain)
}

impl Shape {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Template { left, right } => {
                let mut rest = path;
                for piece in left {
                    rest = match piece {
                        Piece::Literal(text) => match rest.strip_prefix(&**text) {
                            Some(after) => after,
                            None => return false,
                        },
                        Piece::One => match rest.find('/').unwrap_or(rest.len()) {
                            0 => return false,
                            end => rest.get(end..).unwrap_or_default(),
                        },
                    };
                }
                right.as_ref().map_or(rest.is_empty(), |right| rest.ends_with(&**right))
            }
            Self::Text(text) => text.matches(path),
        }
    }
}

/// A request's path, with the other forms that a server may make of it. They are made when a rule first asks.
pub(crate) struct Path<'a> {
    pub(crate) canonical: &'a str,
    unparametered: OnceCell<Option<String>>,
    bare: OnceCell<Option<String>>,
}

impl<'a> Path<'a> {
    pub(crate) fn new(canonical: &'a str) -> Self {
        Self { canonical, unparametered: OnceCell::new(), bare: OnceCell::new() }
    }

    /// Without the parameters of its segments and without an escaped query, when it has any.
    fn unparametered(&self) -> Option<&str> {
        self.unparametered.get_or_init(|| unparametered(self.canonical)).as_deref()
    }

    /// What is left when also escapes are undone and trailing slashes, dots and spaces taken away, when it differs.
    fn bare(&self) -> Option<&str> {
        self.bare.get_or_init(|| bare(self.canonical)).as_deref()
    }
}

fn unparametered(path: &str) -> Option<String> {
    if ![";", "%3B", "%3F", "%23"].iter().any(|sign| path.contains(sign)) {
        return None;
    }
    let without: Vec<&str> = without_query(path).split('/').map(without_parameter).collect();
    Some(without.join("/"))
}

/// What a server keeps that undoes escapes before it looks for query and fragment.
fn without_query(path: &str) -> &str {
    let end = [path.find("%3F"), path.find("%23")].into_iter().flatten().min();
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}

fn without_parameter(segment: &str) -> &str {
    let end = [segment.find(';'), segment.find("%3B")].into_iter().flatten().min();
    end.and_then(|end| segment.get(..end)).unwrap_or(segment)
}

fn bare(path: &str) -> Option<String> {
    let may_differ = path.contains([';', '%']) || path.contains("./") || path.ends_with(['.', '/']);
    if !may_differ || path == "/" {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    for segment in without_query(path).split('/') {
        let segment = unescape(without_parameter(segment));
        let segment = segment.trim_end_matches(['.', ' ']);
        if !segment.is_empty() {
            out.push('/');
            out.push_str(segment);
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    (out != path).then_some(out)
}

/// A host of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPattern(StringMatch);

impl HostPattern {
    pub(crate) fn parse(value: &str) -> Result<Self, Flaw> {
        let lower = |x: &Arc<str>| Arc::from(x.to_ascii_lowercase());
        Ok(Self(match text(value)? {
            StringMatch::Exact(x) => {
                let host = canonical::host(&x).map_err(|e| Flaw::Host(value.to_owned(), e))?;
                StringMatch::Exact(host.to_string().into())
            }
            StringMatch::Prefix(x) => StringMatch::Prefix(lower(&x)),
            StringMatch::Presence => StringMatch::Presence,
            StringMatch::Suffix(x) => StringMatch::Suffix(lower(&x).trim_end_matches('.').into()),
        }))
    }

    /// With and without the port that the request named; a request that named none may mean the one it was sent to.
    pub(crate) fn fit(&self, host: &Authority<'_>, sent_to: u16) -> Fit {
        let with = |port: u16| self.0.matches(&format!("{}:{port}", host.host));
        let certain = self.0.matches(&host.host) || host.port.is_some_and(with);
        Fit { certain, possible: certain || (host.port.is_none() && with(sent_to)) }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A principal of a token, `issuer/subject`. The last slash divides them, since issuers are often URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    whole: StringMatch,
    issuer: StringMatch,
    subject: StringMatch,
}

impl Subject {
    pub(crate) fn parse(value: &str) -> Result<Self, Flaw> {
        let whole = text(value)?;
        let one = |part: &str| if part.is_empty() { Ok(StringMatch::Exact("".into())) } else { literal(part) };
        let (issuer, subject) = match (&whole, value.rsplit_once('/')) {
            (StringMatch::Presence, _) => (StringMatch::Presence, StringMatch::Presence),
            (_, Some((issuer, subject))) => (one(issuer)?, one(subject)?),
            (StringMatch::Prefix(_), None) => (whole.clone(), StringMatch::Presence),
            (StringMatch::Suffix(_), None) => (StringMatch::Presence, whole.clone()),
            // Without a slash there is no subject to name, and nothing is certain.
            (StringMatch::Exact(_), None) => (whole.clone(), StringMatch::Exact("".into())),
        };
        Ok(Self { whole, issuer, subject })
    }

    pub(crate) fn fit(&self, claims: &Claims) -> Fit {
        let Some(issuer) = claims.text("iss") else { return Fit::NO };
        let subject = claims.text("sub");
        let certain = self.issuer.matches(issuer) && subject.is_some_and(|s| self.subject.matches(s));
        let whole: Cow<'_, str> = format!("{issuer}/{}", subject.unwrap_or_default()).into();
        Fit { certain, possible: certain || self.whole.matches(&whole) }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

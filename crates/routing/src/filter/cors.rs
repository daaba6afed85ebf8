//! Cross-origin rules of browsers (gateway-api.md 3.3, "CORS"; the Fetch standard, "CORS protocol").

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::filter::redirect::Scheme;
use crate::mistake::Workbench;
use crate::model;

/// Cross-origin rules, checked.
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: Allowed,
    headers: Allowed,
    expose: Allowed,
    max_age: u32,
}

#[derive(Debug)]
enum Origins {
    All,
    These(Vec<Origin>),
}

#[derive(Debug)]
struct Origin {
    scheme: Scheme,
    /// The texts between the stars, lower case; one when there is no star.
    host: Vec<String>,
    port: u16,
}

/// What a header of ours lists.
#[derive(Debug)]
enum Allowed {
    All,
    Nothing,
    These(HeaderValue),
}

const STAR: HeaderValue = HeaderValue::from_static("*");

/// What the API says when nobody else does, in seconds.
const MAX_AGE: u32 = 5;

impl Cors {
    pub(crate) fn new(bench: &mut Workbench, place: &str, cors: &model::Cors) -> Option<Self> {
        let origins = Origins::new(bench, &format!("{place}.allowOrigins"), &cors.allow_origins);
        let methods = Allowed::new(bench, &format!("{place}.allowMethods"), &cors.allow_methods, |m| {
            Method::from_bytes(m.as_bytes()).is_ok()
        });
        let name = |h: &str| HeaderName::from_bytes(h.as_bytes()).is_ok();
        let headers = Allowed::new(bench, &format!("{place}.allowHeaders"), &cors.allow_headers, name);
        let expose = Allowed::new(bench, &format!("{place}.exposeHeaders"), &cors.expose_headers, name);
        Some(Self {
            origins: origins?,
            credentials: cors.allow_credentials,
            methods: methods?,
            headers: headers?,
            expose: expose?,
            max_age: if cors.max_age == 0 { MAX_AGE } else { cors.max_age },
        })
    }

    /// The headers that answer a preflight question; `None` when the request is none. The status is 200 also for an origin
    /// that is not allowed: the browser sees that the headers are missing.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<HeaderMap> {
        let origin = request.get(ORIGIN).filter(|_| *method == Method::OPTIONS)?;
        let wanted = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let mut headers = HeaderMap::new();
        headers.insert(
            VARY,
            HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        );
        if !self.allow(origin, &mut headers) {
            return Some(headers);
        }
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let lists = [
            (ACCESS_CONTROL_ALLOW_METHODS, self.methods.value(self.credentials, Some(wanted))),
            (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.value(self.credentials, asked)),
        ];
        headers.extend(lists.into_iter().filter_map(|(name, value)| Some((name, value?))));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        Some(headers)
    }

    /// Puts the headers for a request from this origin on an answer, in place of what a backend says of its own: who may
    /// read the answer is decided in one place.
    pub fn answer(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            headers.remove(name);
        }
        if !self.same_for_all() {
            // A cache must not give one origin's answer to another, also when this request came from none.
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin else { return };
        if self.allow(origin, headers)
            && let Some(expose) = self.expose.value(self.credentials, None)
        {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }

    /// Whether the answer does not depend on the origin.
    fn same_for_all(&self) -> bool {
        matches!(self.origins, Origins::All) && !self.credentials
    }

    fn allow(&self, origin: &HeaderValue, headers: &mut HeaderMap) -> bool {
        if !self.origins.allow(origin) {
            return false;
        }
        let shown = if self.same_for_all() { STAR } else { origin.clone() };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }
}

impl Allowed {
    fn new(bench: &mut Workbench, place: &str, all: &[String], valid: impl Fn(&str) -> bool) -> Option<Self> {
        if all.is_empty() {
            return Some(Self::Nothing);
        }
        if all.iter().any(|a| a == "*") {
            if all.len() > 1 {
                bench.note(place, "has * beside others; leave one or the other");
            }
            return (all.len() == 1).then_some(Self::All);
        }
        if let Some(bad) = all.iter().find(|a| !valid(a)) {
            bench.note(place, format!("{bad:?} cannot stand in a header"));
            return None;
        }
        let listed = HeaderValue::try_from(all.join(", ")).map_err(|_| "cannot stand in a header");
        bench.keep(place, listed).map(Self::These)
    }

    /// The list, `*`, or with credentials, where browsers do not take `*`, what was asked for.
    fn value(&self, credentials: bool, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::All if credentials => asked.cloned(),
            Self::All => Some(STAR),
            Self::Nothing => None,
            Self::These(list) => Some(list.clone()),
        }
    }
}

impl Origins {
    fn new(bench: &mut Workbench, place: &str, all: &[String]) -> Option<Self> {
        if all.iter().any(|a| a == "*") {
            if all.len() > 1 {
                bench.note(place, "has * beside others; leave one or the other");
            }
            return (all.len() == 1).then_some(Self::All);
        }
        let read: Vec<Option<Origin>> = all.iter().map(|text| Origin::new(bench, place, text)).collect();
        read.into_iter().collect::<Option<_>>().map(Self::These)
    }

    fn allow(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::All => true,
            Self::These(all) => origin.to_str().ok().and_then(parts).is_some_and(|(scheme, host, port)| {
                all.iter().any(|o| o.scheme == scheme && o.port == port && fits(&o.host, &host))
            }),
        }
    }
}

impl Origin {
    fn new(bench: &mut Workbench, place: &str, text: &str) -> Option<Self> {
        let sound = |host: &str| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'*' | b'.' | b'-' | b'_' | b'[' | b']' | b':'))
        };
        let read = parts(text).filter(|(_, host, _)| sound(host));
        if read.is_none() {
            bench.note(place, format!("{text:?} is not scheme://host or scheme://host:port with http or https"));
        }
        let (scheme, host, port) = read?;
        Some(Self { scheme, host: host.split('*').map(str::to_owned).collect(), port })
    }
}

/// Scheme, host in lower case, and port of an origin; `None` for other schemes, and for `null`.
fn parts(origin: &str) -> Option<(Scheme, String, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let (host, port) = match rest.rfind(':') {
        Some(colon) if !rest[colon..].contains(']') => (&rest[..colon], rest[colon + 1..].parse().ok()?),
        _ => (rest, scheme.port()),
    };
    Some((scheme, host.to_ascii_lowercase(), port))
}

/// Whether a host is made of these texts, in order, with anything between them.
fn fits(texts: &[String], host: &str) -> bool {
    let [first, middle @ .., last] = texts else { return texts.first().is_some_and(|t| t == host) };
    let Some(mut rest) = host.strip_prefix(first.as_str()).and_then(|r| r.strip_suffix(last.as_str())) else {
        return false;
    };
    middle.iter().all(|text| match rest.find(text.as_str()) {
        Some(at) => {
            rest = &rest[at + text.len()..];
            true
        }
        None => false,
    })
}

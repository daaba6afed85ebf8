//! Redirects: the request is answered with another address.

use http::uri::Authority;
use http::{HeaderValue, StatusCode};

use crate::filter::path::PathChange;
use crate::filter::rewrite::hostname;
use crate::mistake::Workbench;
use crate::model;
use crate::request::RequestView;

/// A redirect, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    scheme: Option<Scheme>,
    host: Option<Authority>,
    path: Option<PathChange>,
    port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// The schemes that a redirect can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

impl Scheme {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is meant when none is written.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Redirect {
    pub(crate) fn new(bench: &mut Workbench, place: &str, redirect: &model::Redirect) -> Option<Self> {
        let scheme = redirect.scheme.as_deref().map(|s| match s {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => {
                bench.note(&format!("{place}.scheme"), format!("{other:?} is not known here; use http or https"));
                None
            }
        });
        let host = redirect.hostname.as_deref().map(|h| hostname(bench, &format!("{place}.hostname"), h));
        let path = redirect.path.as_ref().map(|p| PathChange::new(bench, &format!("{place}.path"), p));
        let status = match redirect.status.unwrap_or(302) {
            code @ (301 | 302 | 303 | 307 | 308) => StatusCode::from_u16(code).ok(),
            other => {
                bench.note(&format!("{place}.statusCode"), format!("{other} is not one of 301, 302, 303, 307, 308"));
                None
            }
        };
        // All of them are read before any is missed, so that all mistakes are reported.
        Some(Self {
            scheme: wanted(scheme)?,
            host: wanted(host)?,
            path: wanted(path)?,
            port: redirect.port,
            status: status?,
        })
    }

    pub(crate) fn path(&self) -> Option<&PathChange> {
        self.path.as_ref()
    }

    /// The value of `Location`, for a request that came by `scheme` to the Service port `port` ("listener port" in a
    /// mesh) and whose match names the first `prefix` bytes of its path (gateway-api.md 3.3, "Redirect").
    ///
    /// A request without any host (HTTP/1.0), or with one that is no authority, gets an address that begins with the path, which RFC 9110 10.2.2 allows.
    /// `None` when the address cannot stand in a header.
    pub fn location(&self, request: &RequestView<'_>, scheme: Scheme, port: u16, prefix: usize) -> Option<HeaderValue> {
        let target = self.scheme.unwrap_or(scheme);
        let port = self.port.or(self.scheme.map(Scheme::port)).unwrap_or(port);
        let path = match &self.path {
            Some(change) => change.apply(request.path, prefix).0,
            None => request.path.to_owned(),
        };
        let mut location = String::new();
        let host = self.host.as_ref().map(Authority::as_str).or(request.authority.map(without_port));
        // What is no authority would end the address early, or lead elsewhere.
        if let Some(host) = host.filter(|h| Authority::try_from(*h).is_ok()) {
            location = format!("{}://{host}", target.as_str());
            if port != target.port() {
                location.push_str(&format!(":{port}"));
            }
        }
        location.push_str(&path);
        if let Some(query) = request.query {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).ok()
    }
}

/// What was asked for and could be read, or was not asked for.
pub(crate) fn wanted<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
    }
}

/// A host without its port; IPv6 addresses keep their brackets.
fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

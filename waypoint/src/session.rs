//! Session persistence: a client stays with an endpoint (gateway-api.md 3.6). The session is named by a value that means
//! nothing to anybody else: a hash of the endpoint's uid.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use routing::model::SessionPersistence;

use crate::endpoints::{Endpoint, Set};

/// Uid of the endpoint that the client wants to stay with, when it is still there.
pub(crate) fn wanted(session: &SessionPersistence, headers: &HeaderMap, set: &Set) -> Option<Arc<str>> {
    let said = if session.cookie.is_empty() {
        headers.get(session.header.as_str())?.to_str().ok()?
    } else {
        cookie(headers, &session.cookie)?
    };
    let named = set.list.iter().find(|endpoint| token(endpoint) == said);
    named.map(|endpoint| endpoint.workload.uid.clone())
}

/// Names the endpoint that answered.
pub(crate) fn remember(session: &SessionPersistence, endpoint: &Rc<Endpoint>, headers: &mut HeaderMap) {
    let token = token(endpoint);
    if session.cookie.is_empty() {
        let name = session.header.parse::<HeaderName>();
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&token)) {
            headers.insert(name, value);
        }
        return;
    }
    let age = session.lifetime.filter(|_| session.permanent);
    let age = age.map(|lifetime| format!("; Max-Age={}", lifetime.as_secs())).unwrap_or_default();
    let text = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{age}", session.cookie);
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(SET_COOKIE, value);
    }
}

/// FNV-1a of the uid: the same on every replica and in every version, which Rust's own hasher does not promise.
fn token(endpoint: &Endpoint) -> String {
    let hash = endpoint
        .workload
        .uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The value of a cookie (RFC 6265 4.2).
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(http::header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
}

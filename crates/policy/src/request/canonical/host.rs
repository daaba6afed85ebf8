//! Hosts (RFC 3986 3.2, RFC 9110 7.2, RFC 9112 3.2, RFC 9113 8.3.1).

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use http::header::HOST;

/// Longest host name (RFC 1035 3.1: 255 bytes on the wire, 253 as text).
const MAX_HOST: usize = 253;

/// A host in its canonical form, and the port that the request named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Lower case, without a trailing dot; an IPv6 address in brackets, in its shortest form.
    pub host: Cow<'a, str>,
    /// The port, when one was named.
    pub port: Option<u16>,
}

impl Authority<'_> {
    /// A copy that borrows nothing.
    pub fn into_owned(self) -> Authority<'static> {
        Authority { host: Cow::Owned(self.host.into_owned()), port: self.port }
    }
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Why a host is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A character that no host name has.
    #[error("the host holds a character that no host name has")]
    Character,
    /// The request's target (or `:authority`) names one host and the Host header another.
    #[error("the target of the request and its Host header name different hosts")]
    Conflict,
    /// More than one Host header.
    #[error("the request has more than one Host header")]
    Duplicate,
    /// An empty name or an empty part of one.
    #[error("the host is empty or holds an empty label")]
    Empty,
    /// Something in brackets that is no IPv6 address, or a colon too many.
    #[error("the host is not an IPv6 address in brackets, and has more than one colon or a bracket")]
    Ipv6,
    /// No host at all.
    #[error("the request names no host")]
    Missing,
    /// A number that is no IPv4 address of four decimal parts, which systems read differently.
    #[error("the host is a number that is not an IPv4 address of four decimal parts")]
    Number,
    /// The port is no number up to 65535.
    #[error("the port of the host is not a number up to 65535")]
    Port,
    /// Longer than a host name can be.
    #[error("the host is longer than {MAX_HOST} characters")]
    TooLong,
    /// `user@host`.
    #[error("the host holds user information")]
    UserInfo,
}

/// The host that a request is for.
///
/// `target` is the authority of the request's target: `:authority` of HTTP/2, or of a target in absolute form. When
/// there is a Host header as well, both must name the same host and port.
///
/// # Errors
/// When the request names no host, several, or one that is refused; it then gets 400.
pub fn authority<'a>(target: Option<&'a str>, headers: &'a HeaderMap) -> Result<Authority<'a>, HostError> {
    let mut hosts = headers.get_all(HOST).iter();
    let named = hosts.next();
    if hosts.next().is_some() {
        return Err(HostError::Duplicate);
    }
    let named = named.map(|v| v.to_str().map_err(|_| HostError::Character).and_then(host)).transpose()?;
    match (target.map(host).transpose()?, named) {
        (Some(target), Some(named)) if target != named => Err(HostError::Conflict),
        (Some(found), _) | (None, Some(found)) => Ok(found),
        (None, None) => Err(HostError::Missing),
    }
}

/// The canonical form of one `host[:port]`. Applying it twice changes nothing.
///
/// # Errors
/// When it is refused.
pub fn host(raw: &str) -> Result<Authority<'_>, HostError> {
    if raw.contains('@') {
        return Err(HostError::UserInfo);
    }
    if let Some(rest) = raw.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(HostError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::Ipv6)?;
        let port = match after.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if after.is_empty() => None,
            None => return Err(HostError::Ipv6),
        };
        let text = format!("[{address}]");
        let host = if raw.starts_with(&text) { &raw[..text.len()] } else { "" };
        return Ok(Authority { host: if host.is_empty() { Cow::Owned(text) } else { Cow::Borrowed(host) }, port });
    }
    let (name, port) = match raw.split_once(':') {
        Some((name, port)) if !port.contains([':', '[', ']']) => (name, parse_port(port)?),
        Some(_) => return Err(HostError::Ipv6),
        None => (raw, None),
    };
    Ok(Authority { host: name_of(name)?, port })
}

fn parse_port(text: &str) -> Result<Option<u16>, HostError> {
    // An empty port means the default one (RFC 3986 3.2.3).
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    text.parse().map(Some).map_err(|_| HostError::Port)
}

fn name_of(name: &str) -> Result<Cow<'_, str>, HostError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_HOST {
        return Err(HostError::TooLong);
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Err(HostError::Character);
    }
    if name.split('.').any(str::is_empty) {
        return Err(HostError::Empty);
    }
    // A last part that is a number makes it an IPv4 address for many systems, each with its own idea of `0x7f.1`.
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if number && name.parse::<Ipv4Addr>().is_err() {
        return Err(HostError::Number);
    }
    Ok(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;

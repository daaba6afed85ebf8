//! The `:authority` of a CONNECT, and what may be wrong with a request.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest host name (RFC 1035 2.3.4).
const HOST_MAX: usize = 253;

/// Where the bytes of a stream shall go (hbone.md 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address, never v4-mapped.
    Ip(SocketAddr),
    /// A host name in lower case, and a port.
    Host(String, u16),
}

/// Why a request cannot be served as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The host is not a name, an IPv4 address or an IPv6 address in brackets.
    #[error("the authority has no valid host")]
    Host,
    /// More header fields than we take.
    #[error("too many header fields")]
    Fields,
    /// The method is not CONNECT.
    #[error("the method is not CONNECT")]
    Method,
    /// No authority.
    #[error("the request has no authority")]
    NoAuthority,
    /// No port, or one that is not 1 to 65535.
    #[error("the authority has no valid port")]
    Port,
}

impl BadRequest {
    /// The status to answer with: 400 (hbone.md 5), and 431 (RFC 6585 5) for too many fields.
    pub fn status(self) -> u16 {
        match self {
            Self::Fields => 431,
            Self::Host | Self::Method | Self::NoAuthority | Self::Port => 400,
        }
    }
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(addr) => addr.port(),
            Self::Host(_, port) => *port,
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(mesh::addr::canonical_socket(addr))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = BadRequest;

    fn from_str(text: &str) -> Result<Self, BadRequest> {
        if text.is_empty() {
            return Err(BadRequest::NoAuthority);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(BadRequest::Host)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| BadRequest::Host)?;
            let port = port.strip_prefix(':').ok_or(BadRequest::Port)?;
            return Ok(SocketAddr::new(IpAddr::V6(ip), parse_port(port)?).into());
        }
        let (host, port) = text.split_once(':').ok_or(BadRequest::Port)?;
        let port = parse_port(port)?;
        match host.parse::<IpAddr>() {
            Ok(ip) => Ok(SocketAddr::new(ip, port).into()),
            Err(_) if is_host(host) => Ok(Self::Host(host.to_ascii_lowercase(), port)),
            Err(_) => Err(BadRequest::Host),
        }
    }
}

/// Digits only: `u16::from_str` would take a sign.
fn parse_port(text: &str) -> Result<u16, BadRequest> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadRequest::Port);
    }
    text.parse().ok().filter(|p| *p != 0).ok_or(BadRequest::Port)
}

/// Whether this is a host name: letters, digits, `-`, `_` and `.`.
pub(crate) fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= HOST_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        let ip = |t: &str| Authority::Ip(t.parse().unwrap());
        assert_eq!("10.0.0.1:80".parse(), Ok(ip("10.0.0.1:80")));
        assert_eq!("[fd00::1]:65535".parse(), Ok(ip("[fd00::1]:65535")));
        assert_eq!("[::ffff:10.0.0.1]:80".parse(), Ok(ip("10.0.0.1:80")));
        assert_eq!("Web.Shop.svc:1".parse(), Ok(Authority::Host("web.shop.svc".into(), 1)));
    }

    #[test]
    fn every_mistake_has_its_name() {
        for (text, want) in [
            ("", BadRequest::NoAuthority),
            ("10.0.0.1", BadRequest::Port),
            ("10.0.0.1:", BadRequest::Port),
            ("10.0.0.1:0", BadRequest::Port),
            ("10.0.0.1:65536", BadRequest::Port),
            ("10.0.0.1:+80", BadRequest::Port),
            ("[fd00::1]", BadRequest::Port),
            ("[fd00::1]80", BadRequest::Port),
            ("[fd00::1:80", BadRequest::Host),
            ("fd00::1:80", BadRequest::Port),
            ("user@host:80", BadRequest::Host),
            (":80", BadRequest::Host),
            ("a b:80", BadRequest::Host),
        ] {
            assert_eq!(text.parse::<Authority>(), Err(want), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_alike(text in "\\PC{0,60}") {
            if let Ok(a) = text.parse::<Authority>() {
                prop_assert_eq!(a.to_string().parse::<Authority>(), Ok(a));
            }
        }

        #[test]
        fn addresses_survive(ip in any::<IpAddr>(), port in 1u16..) {
            let a = Authority::from(SocketAddr::new(ip, port));
            prop_assert_eq!(a.to_string().parse::<Authority>(), Ok(a));
        }
    }
}

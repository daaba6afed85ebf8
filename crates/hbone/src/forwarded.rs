//! The `forwarded` header (RFC 7239) as far as tunnels use it (hbone.md 4).

use std::fmt;
use std::net::SocketAddr;

use crate::authority::is_host;

/// Bytes of one line that are read; longer lines are ignored.
pub const LINE_MAX: usize = 1024;

/// `for="<ip:port>";host=<service host name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Forwarded {
    /// The application's own address. Written for others to log, **never read**: anybody can claim an address.
    pub source: Option<SocketAddr>,
    /// The service that was addressed.
    pub host: Option<String>,
}

impl Forwarded {
    /// Reads the first `host=` of the lines. `for=` and what is malformed are ignored.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let host = lines.into_iter().filter(|l| l.len() <= LINE_MAX).find_map(host_of);
        Self { source: None, host }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.source.is_none() && self.host.as_deref().is_none_or(|h| !is_host(h))
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if let Some(source) = self.source {
            // Quoted, because of the colon (RFC 7239 4).
            write!(f, "for=\"{source}\"")?;
            between = ";";
        }
        match &self.host {
            Some(host) if is_host(host) => write!(f, "{between}host={host}"),
            _ => Ok(()),
        }
    }
}

fn host_of(line: &str) -> Option<String> {
    let mut rest = line;
    while !rest.is_empty() {
        let (name, tail) = rest.split_at(rest.find(['=', ';', ','])?);
        let Some(tail) = tail.strip_prefix('=') else {
            rest = &tail[1..];
            continue;
        };
        let (value, tail) = value(tail)?;
        if name.trim().eq_ignore_ascii_case("host") && is_host(&value) {
            return Some(value);
        }
        rest = tail.trim_start().strip_prefix([';', ',']).unwrap_or("");
    }
    None
}

/// One token or quoted string (RFC 9110 5.6.4) and what follows it; none when a quote is never closed.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.trim_start().strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(line: &str) -> Option<String> {
        Forwarded::parse([line]).host
    }

    #[test]
    fn the_forms_of_the_wire() {
        let f = Forwarded { source: "[fd00::1]:80".parse().ok(), host: Some("web.shop.svc".into()) };
        assert_eq!(f.to_string(), "for=\"[fd00::1]:80\";host=web.shop.svc");
        assert_eq!(host(&f.to_string()).as_deref(), Some("web.shop.svc"));
        assert_eq!(host("for=\"1.2.3.4:5\""), None);
        assert_eq!(host("For=\"a;host=evil\\\",host=evil\" ; HOST=\"good\"").as_deref(), Some("good"));
        assert_eq!(host("for=a, host=b;by=c").as_deref(), Some("b"));
        assert_eq!(host("junk;host=b").as_deref(), Some("b"));
    }

    #[test]
    fn the_source_is_never_believed() {
        assert_eq!(Forwarded::parse(["for=\"1.2.3.4:5\";host=a"]).source, None);
    }

    #[test]
    fn hosts_that_are_none_are_ignored() {
        for line in ["host=", "host=a b", "host=\"a", "host=\"a\\", "host", "host=a@b", "=;=,=", &"host=a;".repeat(400)]
        {
            assert_eq!(host(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(line in "\\PC{0,80}") {
            let read = Forwarded::parse([&*line]);
            prop_assert_eq!(Forwarded::parse([&*read.to_string()]), read);
        }

        #[test]
        fn structure_does_not_panic(line in "[a;,=\"\\\\ hosthé]{0,60}") {
            Forwarded::parse([&*line]);
        }

        #[test]
        fn hosts_survive(ip in any::<std::net::IpAddr>(), port in any::<u16>(), name in "[a-z0-9._-]{1,60}") {
            let f = Forwarded { source: Some(SocketAddr::new(ip, port)), host: Some(name.clone()) };
            prop_assert_eq!(host(&f.to_string()), Some(name));
        }
    }
}

//! What the proxy needs to be allowed, checked at start: a missing right would otherwise show as pods that cannot be served.

use std::fmt;
use std::io;

/// A capability (capabilities(7)), its bit, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    name: &'static str,
    bit: u32,
    purpose: &'static str,
}

/// Everything beyond an ordinary process; the proxy is root, but not privileged (drop-in.md).
const NEEDED: [Right; 3] = [
    Right {
        name: "NET_ADMIN",
        bit: 12,
        purpose: "transparent sockets that carry the client's address, and their marks",
    },
    Right { name: "NET_RAW", bit: 13, purpose: "binding those sockets to addresses that are not the pod's" },
    Right { name: "SYS_ADMIN", bit: 21, purpose: "entering the network namespaces of pods" },
];

/// For DNS, where Culvert captures: answers come from the name server's own port 53, which is a privileged one.
const FOR_DNS: Right = Right {
    name: "NET_BIND_SERVICE",
    bit: 10,
    purpose: "answering DNS queries from port 53; or set dns.enabled: false",
};

/// Capabilities that the process lacks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Missing(Vec<Right>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("capabilities are missing; add them to the container's securityContext:")?;
        self.0.iter().try_for_each(|right| write!(f, "\n  {} ({})", right.name, right.purpose))
    }
}

/// Checks this process; `dns` = it answers DNS queries that Culvert captured.
///
/// # Errors
/// All that are missing, or that the kernel does not tell.
pub(crate) fn check(dns: bool) -> Result<(), io::Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    missing(&status, dns).map_err(io::Error::other)
}

fn missing(status: &str, dns: bool) -> Result<(), Missing> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let lacking: Vec<Right> =
        NEEDED.into_iter().chain(dns.then_some(FOR_DNS)).filter(|right| held & (1 << right.bit) == 0).collect();
    if lacking.is_empty() { Ok(()) } else { Err(Missing(lacking)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_right_is_named_with_its_purpose() {
        assert_eq!(missing("Name:\tz\nCapEff:\t0000000000203000\n", false), Ok(()));
        assert_eq!(missing("CapEff:\t0000000000203400\n", true), Ok(()));
        assert!(missing("CapEff:\t0000000000203000\n", true).unwrap_err().to_string().contains("NET_BIND_SERVICE"));
        let text = missing("CapEff:\t0000000000001000\n", false).unwrap_err().to_string();
        assert!(
            text.contains("NET_RAW (binding") && text.contains("SYS_ADMIN (entering") && !text.contains("NET_ADMIN"),
            "{text}"
        );
        assert!(missing("", false).is_err());
    }
}

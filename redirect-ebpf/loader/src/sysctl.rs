//! Settings of the pod's namespace. They act only on marked packets, so they stay when a pod leaves.

use std::io;

use crate::EnrollError;

/// Each setting, its value, and whether a kernel may lack it (IPv6 can be compiled out).
const SETTINGS: [(&str, &str, bool); 4] = [
    // The app's accepted socket takes the mark of the proxy's SYN, so that its answers find back to the proxy.
    ("/proc/sys/net/ipv4/tcp_fwmark_accept", "1", false),
    // So does the RST of a closed port: without it the proxy's connect would time out instead of being refused.
    ("/proc/sys/net/ipv4/fwmark_reflect", "1", false),
    ("/proc/sys/net/ipv6/fwmark_reflect", "1", true),
    // Connections waiting in a closing listener move to another one of its reuseport group (a proxy's upgrade).
    ("/proc/sys/net/ipv4/tcp_migrate_req", "1", false),
];

/// What the settings were before, for [`restore`].
pub(crate) type Before = Vec<(&'static str, String)>;

/// Writes the settings. The calling thread must be in the pod's namespace.
pub(crate) fn apply() -> Result<Before, EnrollError> {
    let mut before = Before::new();
    for (path, value, optional) in SETTINGS {
        let failed = |source| EnrollError::Sysctl { path, source };
        let old = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && optional => continue,
            old => old.map_err(failed)?,
        };
        if old.trim() != value {
            if let Err(source) = std::fs::write(path, value) {
                restore(&before);
                return Err(failed(source));
            }
            before.push((path, old));
        }
    }
    Ok(before)
}

/// Puts settings back after a failed enrolment; what cannot be put back is harmless and logged.
pub(crate) fn restore(before: &Before) {
    for (path, value) in before {
        if let Err(error) = std::fs::write(path, value) {
            tracing::warn!(path, %error, "setting of the pod's namespace was not put back");
        }
    }
}

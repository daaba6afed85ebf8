//! Variables whose meaning we cannot keep: refused, because going on without would surprise somebody.

use super::environment::Reader;

/// Flags: name, the value that is refused, why, and what to do.
pub(super) const FLAGS: [(&str, bool, &str, &str); 7] = [
    (
        "ENABLE_ORIG_SRC",
        false,
        "applications always see the client's own address here",
        "leave it out or set it to true",
    ),
    (
        "FAKE_CA",
        true,
        "certificates that nobody signed prove nothing, so this program has no such mode",
        "run Culvert's `ca` (it needs no cluster) and name it in CA_ADDRESS",
    ),
    (
        "INPOD_ENABLED",
        false,
        "pods are only served from inside their own network namespaces",
        "leave it out or set it to true",
    ),
    (
        "INPOD_PORT_REUSE",
        false,
        "every worker has a listener of its own on the same port, which needs SO_REUSEPORT",
        "leave it out or set it to true",
    ),
    (
        "TLS12_ENABLED",
        true,
        "tunnels are TLS 1.3 only",
        "leave it out; peers that speak only TLS 1.2 cannot be reached",
    ),
    ("UNSTABLE_ENABLE_SOCKS5", true, "this version has no SOCKS5 listener", "leave it out"),
    (
        "XDS_ON_DEMAND",
        true,
        "this version always follows everything, which is how it tells a new pod from an address that does not exist",
        "leave it out or set it to false",
    ),
];

/// Reports what is refused.
pub(super) fn report(reader: &mut Reader<'_>) {
    for (name, refused, why, remedy) in FLAGS {
        if reader.flag(name) == Some(refused) {
            reader.wrong(name, why, remedy);
        }
    }
    match reader.given("PROXY_MODE") {
        None | Some("" | "shared") => {}
        Some("dedicated") => reader.wrong(
            "PROXY_MODE",
            "a proxy for one workload in the current network namespace is not supported by this version",
            "use shared, with a node agent that hands pods over",
        ),
        Some(other) => reader.wrong("PROXY_MODE", format!("{other:?} cannot be used"), "use shared"),
    }
    if let Some(policy) = reader.text("COMPLIANCE_POLICY") {
        reader.wrong(
            "COMPLIANCE_POLICY",
            format!("{policy:?} cannot be promised: the key exchange prefers X25519MLKEM768 and falls back to X25519 and P-256"),
            "leave it out",
        );
    }
}

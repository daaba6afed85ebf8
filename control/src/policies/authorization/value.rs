//! Single values of a rule.

use mesh::addr::Cidr;
use mesh::authz::{ServiceAccount, StringMatch};

/// A value that cannot be read: what is wrong, and what to do.
pub(super) struct Wrong(pub(super) &'static str, pub(super) &'static str);

/// `*`, `x*`, `*x` or the whole text (discovery.md 4).
pub(super) fn text(text: &str) -> Result<StringMatch, Wrong> {
    Ok(match (text.strip_prefix('*'), text.strip_suffix('*')) {
        _ if text.is_empty() => return Err(Wrong("is empty", "write a text, or * for any")),
        (Some(""), _) => StringMatch::Presence,
        (Some(end), _) => StringMatch::Suffix(end.into()),
        (None, Some(start)) => StringMatch::Prefix(start.into()),
        (None, None) => StringMatch::Exact(text.into()),
    })
}

/// A trust domain, as what the principals in it begin with: `<trust domain>/ns/...`.
pub(super) fn trust_domain(domain: &str) -> Result<StringMatch, Wrong> {
    match text(domain)? {
        StringMatch::Exact(whole) => Ok(StringMatch::Prefix(format!("{whole}/").into())),
        StringMatch::Suffix(_) => {
            Err(Wrong("begins with *, which node proxies cannot compare", "name the trust domain, or its beginning"))
        }
        other => Ok(other),
    }
}

/// An address or a block of addresses.
pub(super) fn block(text: &str) -> Result<Cidr, Wrong> {
    text.parse().map_err(|_| Wrong("is not an address or a block of addresses", "write it as 10.0.0.1 or 10.0.0.0/8"))
}

/// A port.
pub(super) fn port(text: &str) -> Result<u16, Wrong> {
    let port = text.parse().ok().filter(|p| *p != 0);
    port.ok_or(Wrong("is not a port", "write a number from 1 to 65535"))
}

/// `<namespace>/<name>`, or `<name>` for the policy's own namespace.
pub(super) fn service_account(text: &str, own: &str) -> Result<ServiceAccount, Wrong> {
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    let plain = |t: &str| !t.is_empty() && !t.contains(['/', '*']);
    if !plain(namespace) || !plain(name) {
        return Err(Wrong("is not a service account", "write it as <namespace>/<name> or <name>, without wildcards"));
    }
    Ok(ServiceAccount { namespace: namespace.into(), name: name.into() })
}

//! Which names a client may mean by the one that it asks for.
//!
//! A client's resolver appends its search domains before it asks (`ndots:5` in every pod), so that `api.example.com` first
//! comes as `api.example.com.shop.svc.cluster.local`. A server that strips them itself saves the client up to four
//! questions that have no answer. The search domains are those that a kubelet writes, for the client's namespace
//! (hbone.md 12); what the pod's own resolv.conf says is not known here.

/// One name that may be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// Lower case, no dot at the end.
    pub(crate) name: String,
    /// It came from stripping a search domain: the answer needs a CNAME.
    pub(crate) stripped: bool,
}

/// Every alias of a name, best first: the name itself, then without each search domain, each with its short forms
/// (`svc`, `svc.ns`, `svc.ns.svc`) completed.
pub(crate) fn aliases(name: &str, namespace: &str, domain: &str) -> Vec<Alias> {
    let mut all: Vec<Alias> = Vec::new();
    let mut add = |name: String, stripped| {
        if !all.iter().any(|a| a.name == name) {
            all.push(Alias { name, stripped });
        }
    };
    add(name.to_owned(), false);
    if let Some(full) = completed(name, namespace, domain) {
        add(full, false);
    }
    for search in [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()] {
        let Some(short) = without(name, &search) else { continue };
        add(short.to_owned(), true);
        if let Some(full) = completed(short, namespace, domain) {
            // `cart.shop.svc.cluster.local` is `cart` with a search domain, and is itself already.
            add(full, true);
        }
    }
    all
}

/// The full name of a Kubernetes service that a short form stands for.
fn completed(name: &str, namespace: &str, domain: &str) -> Option<String> {
    let labels: Vec<&str> = name.split('.').collect();
    match labels[..] {
        [_] if !name.is_empty() => Some(format!("{name}.{namespace}.svc.{domain}")),
        [_, _] => Some(format!("{name}.svc.{domain}")),
        [_, _, "svc"] => Some(format!("{name}.{domain}")),
        _ => None,
    }
}

/// The name without a domain at its end; `None` when it does not end so, or is the domain itself.
pub(crate) fn without<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    name.strip_suffix(domain)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

/// The name, then every wildcard that covers it, narrowest first.
pub(crate) fn with_wildcards(name: &str) -> impl Iterator<Item = String> {
    let parents = std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'));
    std::iter::once(name.to_owned()).chain(parents.map(|(_, parent)| format!("*.{parent}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> Vec<String> {
        let all = aliases(name, "shop", "cluster.local");
        all.into_iter().map(|a| format!("{}{}", if a.stripped { "-" } else { "" }, a.name)).collect()
    }

    #[test]
    fn short_forms_are_completed_and_search_domains_stripped() {
        for (name, expected) in [
            ("cart", &["cart", "cart.shop.svc.cluster.local"][..]),
            ("cart.other", &["cart.other", "cart.other.svc.cluster.local"]),
            ("cart.other.svc", &["cart.other.svc", "cart.other.svc.cluster.local"]),
            ("cart.shop.svc.cluster.local", &["cart.shop.svc.cluster.local", "-cart", "-cart.shop", "-cart.shop.svc"]),
            (
                "api.example.com.shop.svc.cluster.local",
                &[
                    "api.example.com.shop.svc.cluster.local",
                    "-api.example.com",
                    "-api.example.com.shop",
                    "-api.example.com.shop.svc",
                ],
            ),
            (
                "cart.other.svc.cluster.local.shop.svc.cluster.local",
                &[
                    "cart.other.svc.cluster.local.shop.svc.cluster.local",
                    "-cart.other.svc.cluster.local",
                    "-cart.other.svc.cluster.local.shop",
                    "-cart.other.svc.cluster.local.shop.svc",
                ],
            ),
            ("cart.other.svc.cluster.local", &["cart.other.svc.cluster.local", "-cart.other", "-cart.other.svc"]),
            ("cluster.local", &["cluster.local", "cluster.local.svc.cluster.local"]),
            ("", &[""]),
            ("mycluster.local", &["mycluster.local", "mycluster.local.svc.cluster.local"]),
        ] {
            assert_eq!(shown(name), expected, "{name}");
        }
    }

    #[test]
    fn wildcards_go_from_narrow_to_wide() {
        let all: Vec<_> = with_wildcards("a.b.example.com").collect();
        assert_eq!(all, ["a.b.example.com", "*.b.example.com", "*.example.com", "*.com"]);
        assert_eq!(with_wildcards("localhost").collect::<Vec<_>>(), ["localhost"]);
    }
}

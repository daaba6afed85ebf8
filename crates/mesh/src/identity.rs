//! SPIFFE identities of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Who a workload is. Parsed once, at the edge; compared by value everywhere else.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is not an identity of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A part holds a character outside what SPIFFE and Kubernetes names allow.
    #[error("{uri:?}: the {part} holds a character that is not allowed there (letters, digits, '.', '-', '_')")]
    Character {
        /// The text as it came.
        uri: String,
        /// Which part is at fault.
        part: &'static str,
    },
    /// A part is missing or empty.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
}

impl Identity {
    /// Puts an identity together from its parts.
    ///
    /// # Errors
    /// When a part is empty or holds a character that a SPIFFE id may not have (SPIFFE-ID 2.1, 2.2).
    pub fn new(
        trust_domain: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        service_account: impl Into<Arc<str>>,
    ) -> Result<Self, IdentityError> {
        let made = Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        let parts = [
            (&made.trust_domain, "trust domain"),
            (&made.namespace, "namespace"),
            (&made.service_account, "service account"),
        ];
        for (text, part) in parts {
            if text.is_empty() {
                return Err(IdentityError::Form(made.to_string()));
            }
            if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
                return Err(IdentityError::Character { uri: made.to_string(), part });
            }
        }
        Ok(made)
    }

    /// The trust domain: the mesh or federation that vouches for this identity.
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &Arc<str> {
        &self.service_account
    }

    /// The identity without its scheme, as policies write principals: `<td>/ns/<ns>/sa/<sa>`.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(uri.to_owned());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            [td, "ns", ns, "sa", sa] => Self::new(td, ns, sa),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_identity_survives_the_round_trip() {
        let text = "spiffe://cluster.local/ns/shop/sa/api-gateway";
        let id: Identity = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/api-gateway");
        assert_eq!((&**id.namespace(), &**id.service_account()), ("shop", "api-gateway"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/a/sa",
            "spiffe://td/NS/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://td/ns/a%2f/sa/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}

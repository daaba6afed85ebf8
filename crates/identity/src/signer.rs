//! Who signs certificates.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mesh::Identity;

/// The answer of a CA, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedChain {
    /// The certificate asked for.
    pub leaf: String,
    /// Certificates between the leaf and a root, in order, one each.
    pub intermediates: Vec<String>,
    /// The root bundle: one or several certificates.
    pub roots: String,
}

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The CA answered that it will not.
    #[error("the CA refused: {code}: {message}")]
    Refused {
        /// gRPC code by name.
        code: String,
        /// The CA's text.
        message: String,
    },
    /// The CA could not be reached or did not answer in time.
    #[error("the CA cannot be reached: {0}")]
    Unreachable(String),
    /// The CA answered something that is no chain.
    #[error("the CA's answer is not usable: {0}")]
    Answer(&'static str),
    /// We lack something to ask with (a token, say).
    #[error("cannot ask the CA: {0}")]
    Local(String),
}

/// What [`Signer::sign`] returns.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<SignedChain, SignError>> + Send + 'a>>;

/// Something that turns a request into a certificate.
pub trait Signer: Send + Sync + 'static {
    /// Asks for a certificate for `identity` that lives for `ttl`.
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: &'a str, ttl: Duration) -> Signing<'a>;
}

impl SignedChain {
    /// Reads the layout of the wire (ca.md 1): leaf, intermediates one per entry, the root bundle as one last entry.
    ///
    /// # Errors
    /// When there are fewer than two entries: one entry has no root, and Istio's ztunnel refuses it too.
    pub fn from_entries(entries: Vec<String>) -> Result<Self, SignError> {
        let mut entries = entries.into_iter();
        let leaf = entries.next().ok_or(SignError::Answer("the certificate chain is empty"))?;
        let mut intermediates: Vec<String> = entries.collect();
        let roots = intermediates.pop().ok_or(SignError::Answer("the certificate chain has no root entry"))?;
        Ok(Self { leaf, intermediates, roots })
    }

    /// The layout of the wire.
    pub fn into_entries(self) -> Vec<String> {
        std::iter::once(self.leaf).chain(self.intermediates).chain([self.roots]).collect()
    }
}

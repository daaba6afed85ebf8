//! Who shows a service account token: TokenReview, remembered for a while.
//!
//! ```text
//! token -> shape and end (claims.rs) -> remembered? (cache.rs) -> the same asked by somebody else? -> TokenReview -> judge
//! ```
//! Claims that are read here are not proven: they may only make an answer worse or shorter (refuse a token that says
//! itself that it has ended, forget an answer when the token ends), never better.

mod cache;
mod cached;
mod claims;
mod judge;

use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::client::{self, CallError};

pub use cached::{Cached, Counts, Limits};

/// The audience of Istio's tokens (ca.md 5): a token made for the API server or for anything else is not accepted.
pub const AUDIENCE: &str = "istio-ca";

/// An answer that needs the network.
pub type Reviewing<'a> = Pin<Box<dyn Future<Output = Result<Reviewed, ReviewError>> + Send + 'a>>;

/// Tells who shows a token.
pub trait Reviewer: Send + Sync + 'static {
    /// Asks. The token is not to be logged.
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a>;
}

/// Who shows a token, as the API server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that the token is bound to. None for tokens made by hand and for those of Secrets: they outlive every
    /// pod, and nobody can be found at fault for them.
    pub pod: Option<Bound>,
    /// The node of that pod (Kubernetes 1.32; before, none).
    pub node: Option<Bound>,
    /// When the token ends, as far as it says so.
    pub expires: Option<SystemTime>,
}

/// An object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its UID: an object of the same name that came later is another one. Empty when the API server does not say.
    pub uid: String,
}

/// A token was not reviewed, or not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The token is no good, now and later.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Nobody can tell now; the caller should try again.
    #[error("tokens cannot be reviewed now: {0}")]
    Unavailable(String),
}

/// Why a token is no good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum Denied {
    #[error("the token is none of Kubernetes: {0}")]
    Malformed(&'static str),
    #[error("the token has expired")]
    Expired,
    #[error("the token is for the audience {token:?}, and {own:?} is needed; project one with that audience")]
    Audience { own: String, token: Vec<String> },
    #[error("the API server does not accept the token: {0}")]
    NotAuthenticated(String),
    #[error("the token is of {0:?}, which is no service account")]
    NotServiceAccount(String),
    #[error("{0:?} is not in the group system:serviceaccounts")]
    NotInGroup(String),
}

/// Asks the API server for every token.
pub struct TokenReviewer {
    client: Client,
    audience: String,
}

impl TokenReviewer {
    /// With the audience that tokens must have. There is no way to leave it out: without one the API server accepts
    /// every token that was made for itself (ca.md 7.3).
    pub fn new(client: Client, audience: impl Into<String>) -> Self {
        Self { client, audience: audience.into() }
    }

    async fn ask(&self, token: &str) -> Result<Reviewed, ReviewError> {
        let claims = claims::read(token)?;
        claims.refuse_ended(SystemTime::now())?;
        let review = TokenReview {
            spec: TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = client::call("review a token", api.create(&PostParams::default(), &review)).await;
        let status = answer.map_err(|error: CallError| ReviewError::Unavailable(error.to_string()))?.status;
        Ok(judge::judge(status.unwrap_or_default(), &claims, &self.audience)?)
    }
}

impl Reviewer for TokenReviewer {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        Box::pin(self.ask(token))
    }
}

impl<R: Reviewer + ?Sized> Reviewer for std::sync::Arc<R> {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        (**self).review(token)
    }
}

#[cfg(test)]
mod tests;

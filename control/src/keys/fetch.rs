//! One fetch.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use identity::channel::TrustedRoots;
use identity::web::WebConnector;
use serde_json::Value;

use super::Vet;
use crate::object::request::KeySource;

/// Time for look-up, connection, request and answer together. An issuer that needs longer is away.
const TIME: Duration = Duration::from_secs(10);

/// Bytes of an answer at most. The largest public sets of keys have some 20 KiB; every waypoint of the policy holds it.
const SIZE: usize = 256 * 1024;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0:?} is not an address of the form https://host/path")]
    Address(String),
    #[error("the answer of {0} is not a set of keys (RFC 7517 5)")]
    NoKeys(String),
    #[error("the metadata of {issuer} {what} (OpenID Connect Discovery 1.0, 4)")]
    Metadata { issuer: String, what: &'static str },
    #[error("{place} did not answer within {}s", TIME.as_secs())]
    Late { place: String },
    #[error("{host} has {address}, which is {why}: the control plane does not call there")]
    Forbidden { host: String, address: SocketAddr, why: &'static str },
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{place} answered {code}; redirects are not followed")]
    Status { place: String, code: StatusCode },
    #[error("{0}: {1}")]
    Http(String, hyper::Error),
    #[error("{0} sent no answer of at most {SIZE} bytes: {1}")]
    Body(String, String),
    #[error("{0}")]
    Roots(String),
}

/// Fetches keys.
pub struct Fetcher {
    vet: Vet,
    roots: TrustedRoots,
}

impl Fetcher {
    /// Trusts these roots, and goes where `vet` lets it.
    pub fn new(vet: Vet, roots: TrustedRoots) -> Self {
        Self { vet, roots }
    }

    /// The keys of a source, as a JSON text.
    pub(super) async fn keys(&self, source: &KeySource) -> Result<Arc<str>, FetchError> {
        let (from, discover) = match source {
            KeySource::Discovery(issuer) => (issuer, true),
            KeySource::Uri(uri) => (uri, false),
            // Nobody wants them of us.
            KeySource::Inline(keys) => return Ok(keys.clone()),
            KeySource::Nowhere(why) => return Err(FetchError::Address(why.to_string())),
        };
        let all = async {
            let uri = if discover { self.discover(from).await? } else { from.to_string() };
            let value = self.get(&uri).await?;
            // Only the keys: what else an issuer may add is not for waypoints.
            let keys = value.get("keys").filter(|k| k.is_array()).ok_or_else(|| FetchError::NoKeys(uri.clone()))?;
            Ok(serde_json::json!({ "keys": keys }).to_string().into())
        };
        tokio::time::timeout(TIME, all).await.map_err(|_| FetchError::Late { place: from.to_string() })?
    }

    /// Where an issuer says that its keys are.
    async fn discover(&self, issuer: &str) -> Result<String, FetchError> {
        let metadata = self.get(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
        let wrong = |what| FetchError::Metadata { issuer: issuer.to_owned(), what };
        if metadata["issuer"].as_str().is_none_or(|i| i.trim_end_matches('/') != issuer.trim_end_matches('/')) {
            return Err(wrong("is of another issuer"));
        }
        let uri = metadata["jwks_uri"].as_str().ok_or_else(|| wrong("has no jwks_uri"))?;
        Ok(uri.to_owned())
    }

    async fn get(&self, address: &str) -> Result<Value, FetchError> {
        let wrong = || FetchError::Address(address.chars().take(256).collect());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong());
        }
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(443);
        let place = authority.to_string();
        let io = |e| FetchError::Io(place.clone(), e);
        let stream = self.connect(host, port).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| FetchError::Http(place.clone(), e))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "culvert-control")
            .body(Empty::<Bytes>::new())
            .map_err(|e| io(io::Error::other(e)))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| FetchError::Http(place.clone(), e))?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status { place: place.clone(), code: response.status() });
            }
            let body = Limited::new(response.into_body(), SIZE).collect().await;
            let body = body.map_err(|e| FetchError::Body(place.clone(), e.to_string()))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|e| FetchError::Body(place.clone(), e.to_string()))
        };
        // The connection lives as long as the answer is awaited.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(e) => Err(FetchError::Http(place.clone(), e)),
            },
        }
    }

    /// Connects to the first of the host's addresses that takes it. All must pass: a name that leads inside with one of its
    /// addresses is not to be trusted with the others.
    async fn connect(
        &self,
        host: &str,
        port: u16,
    ) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>, FetchError> {
        let io = |e| FetchError::Io(host.to_owned(), e);
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(io)?.collect();
        for address in &addresses {
            self.vet.pass(*address).map_err(|why| FetchError::Forbidden {
                host: host.to_owned(),
                address: *address,
                why,
            })?;
        }
        let connector = WebConnector::new(&self.roots).map_err(FetchError::Roots)?;
        let mut last = io(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for address in addresses {
            match connector.connect(address, host).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = io(e),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests;

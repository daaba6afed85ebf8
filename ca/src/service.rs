//! The wire: Istio's CreateCertificate.

use std::sync::Arc;

use identity::Clock;
use identity::server::RemoteAddr;
use mesh::Identity;
use proto::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::audit::{Audit, Decision, Grant};
use crate::authority::Issued;
use crate::caller::{Authenticator, Caller, Credentials, NodePods};
use crate::csr::PublicKey;
use crate::decide;
use crate::limit::{Limiter, RateLimit};
use crate::refusal::Refusal;
use crate::signers::Signers;

/// A request has a CSR of at most 16 KiB and little else.
const LARGEST_MESSAGE: usize = 64 << 10;

/// What a service is made of; none has a default, so none can be forgotten.
pub struct Parts {
    /// Signs.
    pub signers: Arc<dyn Signers>,
    /// Says who calls.
    pub authenticator: Arc<dyn Authenticator>,
    /// Says who runs where.
    pub pods: Arc<dyn NodePods>,
    /// Ids of the clusters whose callers are ours; the empty id is always ours.
    pub clusters: Vec<String>,
    /// How often a caller may ask.
    pub rate: RateLimit,
    /// Where decisions go.
    pub audit: Arc<dyn Audit>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The certificate service.
#[derive(Clone)]
pub struct CaService(Arc<Inner>);

struct Inner {
    parts: Parts,
    limiter: Limiter,
}

/// What is known of a request so far, for the audit.
#[derive(Default)]
struct Known {
    caller: Option<Caller>,
    identity: Option<Identity>,
}

impl CaService {
    /// Puts a service together.
    pub fn new(parts: Parts) -> Self {
        let limiter = Limiter::new(parts.rate);
        Self(Arc::new(Inner { parts, limiter }))
    }

    /// As a gRPC server, for [`identity::server::serve`].
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(LARGEST_MESSAGE)
    }

    async fn issue(
        &self,
        headers: &MetadataMap,
        message: &IstioCertificateRequest,
        known: &mut Known,
    ) -> Result<Issued, Refusal> {
        let Inner { parts, limiter } = &*self.0;
        let token = bearer(headers)?;
        our_cluster(headers, &parts.clusters)?;
        let caller = parts.authenticator.authenticate(Credentials { token }).await?;
        known.caller = Some(caller.clone());
        let now = parts.clock.now();
        if !limiter.take(&caller, now) {
            return Err(Refusal::RateLimited);
        }
        let wanted = decide::wanted(message.metadata.as_ref())?;
        known.identity.clone_from(&wanted);
        let authority = parts.signers.now();
        let granted = decide::allowed(&caller, wanted, authority.trust_domain(), &*parts.pods).await?;
        known.identity = Some(granted.identity.clone());
        let key = PublicKey::from_csr_pem(&message.csr)?;
        key.wants_no_more_than(&granted)?;
        let until = now + authority.ttl().life(message.validity_duration)?;
        let authority = parts.signers.until(until).await?;
        authority.issue(&key, &granted.identity, &granted.names, message.validity_duration, now)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let remote = request.extensions().get::<RemoteAddr>().map(|remote| remote.0);
        let (headers, _, message) = request.into_parts();
        let mut known = Known::default();
        let outcome = self.issue(&headers, &message, &mut known).await;
        let grant = |issued: &Issued| Grant { serial: issued.serial.clone(), not_after: issued.not_after };
        self.0.parts.audit.record(&Decision {
            remote,
            caller: known.caller,
            identity: known.identity,
            outcome: outcome.as_ref().map(grant).map_err(Clone::clone),
        });
        match outcome {
            Ok(issued) => Ok(Response::new(IstioCertificateResponse { cert_chain: issued.chain.into_entries() })),
            Err(refusal) => Err(refusal.status()),
        }
    }
}

fn bearer(headers: &MetadataMap) -> Result<&str, Refusal> {
    let mut all = headers.get_all("authorization").iter();
    let one = all.next().ok_or(Refusal::NoCredential)?;
    if all.next().is_some() {
        return Err(Refusal::SeveralCredentials);
    }
    let text = one.to_str().map_err(|_| Refusal::NotBearer)?;
    let token = text.strip_prefix("Bearer ").or_else(|| (text == "Bearer").then_some("")).ok_or(Refusal::NotBearer)?;
    if token.trim().is_empty() { Err(Refusal::EmptyToken) } else { Ok(token.trim()) }
}

fn our_cluster(headers: &MetadataMap, clusters: &[String]) -> Result<(), Refusal> {
    let mut all = headers.get_all("clusterid").iter();
    let Some(id) = all.next() else { return Ok(()) };
    let id = id.to_str().map_err(|_| Refusal::ClusterMalformed)?;
    if all.next().is_some() {
        return Err(Refusal::ClusterMalformed);
    }
    if id.is_empty() || clusters.iter().any(|known| known == id) {
        return Ok(());
    }
    Err(Refusal::UnknownCluster(id.chars().take(64).collect()))
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "forgeries_tests.rs"]
mod forgeries;

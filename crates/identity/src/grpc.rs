//! Asks a CA over gRPC: Istio's CreateCertificate (ca.md 1, 4).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mesh::Identity;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::ca::IstioCertificateRequest;
use proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};

use crate::channel::{ChannelConfig, ChannelError, GrpcChannel, grpc_channel};
use crate::signer::{SignError, SignedChain, Signer, Signing};

/// What a [`GrpcSigner`] needs.
#[derive(Clone, Debug)]
pub struct GrpcSignerConfig {
    /// How to reach the CA.
    pub channel: ChannelConfig,
    /// File of the bearer token, read again for each request. `None` sends no token.
    pub token_file: Option<PathBuf>,
    /// Sent as `clusterid`.
    pub cluster_id: String,
    /// Further metadata (`CA_HEADER_*`).
    pub headers: Vec<(String, String)>,
    /// Whether to name the identity (`ImpersonatedIdentity`): true for a node's proxy, false for a workload that asks
    /// for itself.
    pub impersonate: bool,
}

/// A [`Signer`] that speaks Istio's certificate service.
pub struct GrpcSigner {
    config: GrpcSignerConfig,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    channel: GrpcChannel,
}

impl GrpcSigner {
    /// Prepares; connects with the first request.
    ///
    /// # Errors
    /// When the address or a header is malformed, or the address is plain text where that is not allowed.
    pub fn new(config: GrpcSignerConfig) -> Result<Self, ChannelError> {
        let channel = grpc_channel(&config.channel)?;
        let mut headers = Vec::new();
        for (name, value) in
            std::iter::once(&("clusterid".to_owned(), config.cluster_id.clone())).chain(&config.headers)
        {
            let bad = || ChannelError::Header { name: name.clone() };
            headers.push((name.to_ascii_lowercase().parse().map_err(|_| bad())?, value.parse().map_err(|_| bad())?));
        }
        Ok(Self { config, headers, channel })
    }

    async fn ask(&self, identity: &Identity, csr: &str, ttl: Duration) -> Result<SignedChain, SignError> {
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: self.config.impersonate.then(|| impersonated(identity)),
        });
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        if let Some(bearer) = self.bearer().await? {
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(request).await.map_err(|status| refused(&status))?;
        SignedChain::from_entries(answer.into_inner().cert_chain)
    }

    async fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>, SignError> {
        let Some(file) = &self.config.token_file else { return Ok(None) };
        let local = |why: String| SignError::Local(format!("token file {}: {why}", file.display()));
        let token = tokio::fs::read_to_string(file).await.map_err(|e| local(e.to_string()))?;
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| local("not a token".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Signer for GrpcSigner {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: &'a str, ttl: Duration) -> Signing<'a> {
        Box::pin(self.ask(identity, csr_pem, ttl))
    }
}

fn impersonated(identity: &Identity) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), value)]) }
}

fn refused(status: &tonic::Status) -> SignError {
    use std::error::Error;
    // A failure to connect comes as a status too; its cause says what failed.
    let mut message = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    if status.code() == tonic::Code::Unavailable || status.source().is_some() {
        SignError::Unreachable(message)
    } else {
        SignError::Refused { code: format!("{:?}", status.code()), message }
    }
}

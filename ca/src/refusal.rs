//! Why a request was refused: one variant per reason.

use std::time::Duration;

use mesh::{Identity, IdentityError};
use tonic::{Code, Status};

/// A refusal. Its text is for the audit log; the wire gets [`Refusal::status`] (ca.md 3: the reason stays in the log).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum Refusal {
    // Who calls.
    #[error("no authorization header")]
    NoCredential,
    #[error("several authorization headers")]
    SeveralCredentials,
    #[error("the authorization header is not of the form Bearer <token>")]
    NotBearer,
    #[error("the token is empty")]
    EmptyToken,
    #[error("the token is not known")]
    UnknownToken,
    #[error("the token is none of Kubernetes: {0}")]
    TokenMalformed(&'static str),
    #[error("the token has expired")]
    TokenExpired,
    #[error("the token is for the audience {token:?}, and {own:?} is needed")]
    TokenAudience { own: String, token: Vec<String> },
    #[error("the API server does not accept the token: {0}")]
    TokenRejected(String),
    #[error("the token is of {0:?}, which is no service account")]
    NotServiceAccount(String),
    #[error("{0:?} is not in the group of service accounts")]
    NotInGroup(String),
    #[error("the token is bound to no pod, so nobody can tell who shows it; use a projected one")]
    TokenUnbound,
    #[error("the caller's pod {0} does not exist")]
    CallerPodGone(String),
    #[error("the caller's pod {pod} was replaced: the token is of the one with UID {token}, now {now} has the name")]
    CallerPodReplaced { pod: String, token: String, now: String },
    #[error("the caller's pod {pod} has the service account {now}, the token is of {token}")]
    CallerPodAccount { pod: String, token: String, now: String },
    #[error("the caller's pod {0} has finished")]
    CallerPodFinished(String),
    #[error("the token is of node {token}, and the caller's pod {pod} is on {now}")]
    CallerPodNode { pod: String, token: String, now: String },
    #[error("the caller is no proxy, waypoint, gateway or listed account; its node's proxy asks for it")]
    NotListed,
    #[error("several clusterid headers, or one that is not text")]
    ClusterMalformed,
    #[error("cluster {0:?} is not ours")]
    UnknownCluster(String),
    #[error("callers cannot be told: {0}")]
    AuthenticatorDown(String),
    #[error("the caller asks too often")]
    RateLimited,
    // Which identity.
    #[error("metadata field {0:?} is not supported")]
    UnsupportedMetadata(String),
    #[error("ImpersonatedIdentity is not text")]
    ImpersonatedNotText,
    #[error("ImpersonatedIdentity: {0}")]
    ImpersonatedMalformed(IdentityError),
    #[error("{wanted} is of another trust domain than {own}")]
    TrustDomain { own: String, wanted: Identity },
    #[error("the caller may not act for others, and asks for {0}")]
    MayNotImpersonate(Identity),
    #[error("the caller may only act for pods of its node, and names none")]
    MayNotIssueForItself,
    #[error("the caller's node is not known")]
    CallerWithoutNode,
    #[error("no pod of {0} exists")]
    NoSuchPod(Identity),
    #[error("pods of {wanted} run, but none on the caller's node {node}")]
    PodElsewhere { wanted: Identity, node: String },
    #[error("the pods of {wanted} on node {node} are all finished")]
    PodFinished { wanted: Identity, node: String },
    #[error("pods cannot be told: {0}")]
    PodsUnknown(String),
    // Whose key.
    #[error("the certificate request is empty")]
    CsrEmpty,
    #[error("the certificate request has {0} bytes, at most {1} are read")]
    CsrTooLarge(usize, usize),
    #[error("the certificate request is not PEM")]
    CsrNotPem,
    #[error("the PEM block is a {0:?} and not a CERTIFICATE REQUEST")]
    CsrWrongBlock(String),
    #[error("the PEM holds {0} blocks, exactly one is allowed")]
    CsrSeveral(usize),
    #[error("the certificate request cannot be parsed")]
    CsrUnparsable,
    #[error("{0} bytes follow the certificate request")]
    CsrTrailing(usize),
    #[error("the request is signed by an algorithm that is not accepted ({0})")]
    CsrSignatureAlgorithm(String),
    #[error("the signature of the request does not fit its key: no proof of possession")]
    CsrSignature,
    #[error("RSA keys need 2048 to {max} bits, this one has {bits}")]
    RsaSize { bits: usize, max: usize },
    #[error("the RSA exponent is not acceptable")]
    RsaExponent,
    #[error("curve {0} is not accepted, use P-256 or P-384")]
    Curve(String),
    #[error("keys of algorithm {0} are not accepted, use ECDSA P-256 or P-384, Ed25519, or RSA")]
    KeyAlgorithm(String),
    #[error("the public key is malformed")]
    KeyMalformed,
    #[error("the request asks to be an authority")]
    CsrWantsAuthority,
    #[error("the request asks for {0}, which its caller may not have")]
    CsrOtherName(String),
    // How long.
    #[error("a life of {}s was asked for, the longest is {}s", .asked.as_secs(), .longest.as_secs())]
    TtlTooLong { asked: Duration, longest: Duration },
    #[error("the signing certificate has expired")]
    SignerExpired,
    #[error("the end of the certificate could not be noted, without which a change of the root would be blind: {0}")]
    EndNotNoted(String),
    #[error("signing failed: {0}")]
    Signing(String),
}

impl Refusal {
    /// A short fixed name, for the metric label and for tests.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::SeveralCredentials => "several_credentials",
            Self::NotBearer => "not_bearer",
            Self::EmptyToken => "empty_token",
            Self::UnknownToken => "unknown_token",
            Self::TokenMalformed(_) => "token_malformed",
            Self::TokenExpired => "token_expired",
            Self::TokenAudience { .. } => "token_audience",
            Self::TokenRejected(_) => "token_rejected",
            Self::NotServiceAccount(_) => "not_service_account",
            Self::NotInGroup(_) => "not_in_group",
            Self::TokenUnbound => "token_unbound",
            Self::CallerPodGone(_) => "caller_pod_gone",
            Self::CallerPodReplaced { .. } => "caller_pod_replaced",
            Self::CallerPodAccount { .. } => "caller_pod_account",
            Self::CallerPodFinished(_) => "caller_pod_finished",
            Self::CallerPodNode { .. } => "caller_pod_node",
            Self::NotListed => "not_listed",
            Self::ClusterMalformed => "cluster_malformed",
            Self::UnknownCluster(_) => "unknown_cluster",
            Self::AuthenticatorDown(_) => "authenticator_down",
            Self::RateLimited => "rate_limited",
            Self::UnsupportedMetadata(_) => "unsupported_metadata",
            Self::ImpersonatedNotText => "impersonated_not_text",
            Self::ImpersonatedMalformed(_) => "impersonated_malformed",
            Self::TrustDomain { .. } => "trust_domain",
            Self::MayNotImpersonate(_) => "may_not_impersonate",
            Self::MayNotIssueForItself => "may_not_issue_for_itself",
            Self::CallerWithoutNode => "caller_without_node",
            Self::NoSuchPod(_) => "no_such_pod",
            Self::PodElsewhere { .. } => "pod_elsewhere",
            Self::PodFinished { .. } => "pod_finished",
            Self::PodsUnknown(_) => "pods_unknown",
            Self::CsrEmpty => "csr_empty",
            Self::CsrTooLarge(..) => "csr_too_large",
            Self::CsrNotPem => "csr_not_pem",
            Self::CsrWrongBlock(_) => "csr_wrong_block",
            Self::CsrSeveral(_) => "csr_several",
            Self::CsrUnparsable => "csr_unparsable",
            Self::CsrTrailing(_) => "csr_trailing",
            Self::CsrSignatureAlgorithm(_) => "csr_signature_algorithm",
            Self::CsrSignature => "csr_signature",
            Self::RsaSize { .. } => "rsa_size",
            Self::RsaExponent => "rsa_exponent",
            Self::Curve(_) => "curve",
            Self::KeyAlgorithm(_) => "key_algorithm",
            Self::KeyMalformed => "key_malformed",
            Self::CsrWantsAuthority => "csr_wants_authority",
            Self::CsrOtherName(_) => "csr_other_name",
            Self::TtlTooLong { .. } => "ttl_too_long",
            Self::SignerExpired => "signer_expired",
            Self::EndNotNoted(_) => "end_not_noted",
            Self::Signing(_) => "signing",
        }
    }

    /// What the wire gets: Istio's codes and texts (ca.md 3).
    pub fn status(&self) -> Status {
        match self {
            Self::NoCredential
            | Self::SeveralCredentials
            | Self::NotBearer
            | Self::EmptyToken
            | Self::UnknownToken
            | Self::TokenMalformed(_)
            | Self::TokenExpired
            | Self::TokenAudience { .. }
            | Self::TokenRejected(_)
            | Self::NotServiceAccount(_)
            | Self::NotInGroup(_)
            | Self::TokenUnbound
            | Self::CallerPodGone(_)
            | Self::CallerPodReplaced { .. }
            | Self::CallerPodAccount { .. }
            | Self::CallerPodFinished(_)
            | Self::CallerPodNode { .. }
            | Self::NotListed
            | Self::ClusterMalformed
            | Self::UnknownCluster(_)
            | Self::MayNotIssueForItself => Status::unauthenticated("request authenticate failure"),
            Self::UnsupportedMetadata(_)
            | Self::ImpersonatedNotText
            | Self::ImpersonatedMalformed(_)
            | Self::TrustDomain { .. }
            | Self::MayNotImpersonate(_)
            | Self::CallerWithoutNode
            | Self::NoSuchPod(_)
            | Self::PodElsewhere { .. }
            | Self::PodFinished { .. } => Status::unauthenticated("request impersonation authentication failure"),
            // Not the caller's fault: it should try again.
            Self::AuthenticatorDown(_) | Self::PodsUnknown(_) | Self::EndNotNoted(_) => {
                Status::unavailable("not ready")
            }
            Self::RateLimited => Status::resource_exhausted("too many requests"),
            Self::SignerExpired | Self::Signing(_) => sign_error(Code::Internal, "cannot sign now"),
            Self::TtlTooLong { .. } => sign_error(Code::InvalidArgument, "requested TTL is too long"),
            _ => sign_error(Code::InvalidArgument, "certificate request is not acceptable"),
        }
    }
}

fn sign_error(code: Code, text: &str) -> Status {
    Status::new(code, format!("CSR signing error ({text})"))
}

//! What can go wrong, and who has to act.

use std::io;

use mesh::outcome::Blame;
use rustls::{AlertDescription, CertificateError};

use crate::chain::ChainFault;
use crate::spiffe::SpiffeFault;
use crate::verify::PeerFault;

/// What broke an open connection. Found inside the `io::Error` (`error.get_ref()`, then `downcast_ref`).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StreamError {
    /// The stream ended without `close_notify`: the peer died, or somebody cut it.
    #[error("the connection was cut: it ended without close_notify")]
    Truncated,
    /// The peer sent an alert. Right after a client's handshake it is the server's verdict on our certificate.
    #[error("the peer sent the TLS alert {0:?}")]
    Alert(AlertDescription),
    /// What came is not TLS, was tampered with, or breaks its rules.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// The TLS library was in a state that must not be.
    #[error("TLS failed: the library is in an unexpected state")]
    Internal,
}

impl StreamError {
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Truncated => io::ErrorKind::UnexpectedEof,
            Self::Alert(_) => io::ErrorKind::ConnectionAborted,
            Self::Tls(_) => io::ErrorKind::InvalidData,
            Self::Internal => io::ErrorKind::Other,
        }
    }
}

impl From<rustls::Error> for StreamError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            other => Self::Tls(other),
        }
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream below failed.
    #[error("connection lost in the TLS handshake: {0}")]
    Io(#[from] io::Error),
    /// The peer closed in the middle. A plain-text client of port 15008, a health check, or a process that died.
    #[error("the peer closed the connection in the TLS handshake")]
    Closed,
    /// We refuse the peer's certificate.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The peer does not speak h2 (hbone.md 2).
    #[error("the peer does not speak h2 (ALPN)")]
    Alpn,
    /// The peer refuses us or what we offered.
    #[error("the peer refused the handshake with the TLS alert {0:?}")]
    Alert(AlertDescription),
    /// What came is not TLS 1.3 as the mesh speaks it.
    #[error("TLS handshake failed: {0}")]
    Tls(rustls::Error),
    /// Our own configuration or library failed.
    #[error("TLS could not be set up: {0}")]
    Setup(&'static str),
}

impl HandshakeError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Setup(_) => Blame::Mesh,
            // An alert about a certificate is about ours: expired, revoked, of another mesh.
            Self::Alert(alert) if about_our_certificate(*alert) => Blame::Mesh,
            _ => Blame::Peer,
        }
    }

    /// Whether another attempt at once may do better: only when the stream was lost.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed)
    }
}

impl From<StreamError> for HandshakeError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Truncated => Self::Closed,
            StreamError::Alert(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            StreamError::Alert(alert) => Self::Alert(alert),
            StreamError::Internal => Self::Setup("the TLS library is in an unexpected state"),
            StreamError::Tls(error) => tls(error),
        }
    }
}

fn tls(error: rustls::Error) -> HandshakeError {
    match error {
        rustls::Error::NoCertificatesPresented => HandshakeError::NoCertificate,
        rustls::Error::NoApplicationProtocol => HandshakeError::Alpn,
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<PeerFault>() {
                Some(fault) => HandshakeError::Peer(fault.clone()),
                None => HandshakeError::Tls(rustls::Error::InvalidCertificate(CertificateError::Other(other))),
            }
        }
        rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => {
            HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::Unparsable))
        }
        rustls::Error::InvalidCertificate(bad) => {
            HandshakeError::Peer(PeerFault::Chain(ChainFault::Malformed(bad.to_string())))
        }
        other => HandshakeError::Tls(other),
    }
}

fn about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

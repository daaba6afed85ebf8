//! From a raw stream to a secured one with a known peer.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{IpAddr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::SecureStream;
use super::error::{HandshakeError, StreamError};
use super::records::{Connection, Step};
use crate::certificate::ALPN_H2;
use crate::spiffe::Peer;
use crate::verify::PeerFault;

/// Accepts a peer with [`crate::Certificate::server_config`]. The caller sets the time limit: dropping the future drops
/// the stream.
///
/// # Errors
/// When the peer is not of this mesh, does not speak as the mesh does, or goes away.
pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    config: Arc<ServerConfig>,
) -> Result<(SecureStream<IO>, Peer), HandshakeError> {
    let tls = UnbufferedServerConnection::new(config).map_err(HandshakeError::Tls)?;
    shake(SecureStream::new(io, Connection::Server(Box::new(tls)))).await
}

/// Opens to a peer with [`crate::Certificate::client_config`], which says who it must be.
///
/// In TLS 1.3 a client is done before the server has judged it: a refusal of our certificate comes with the first
/// read, as [`StreamError::Alert`].
///
/// # Errors
/// When the peer is not who was expected, does not speak as the mesh does, or goes away.
pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    config: Arc<ClientConfig>,
) -> Result<(SecureStream<IO>, Peer), HandshakeError> {
    // Neither sent nor checked (hbone.md 2): the verifier knows the peer by its SPIFFE name.
    let nobody = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let tls = UnbufferedClientConnection::new(config, nobody).map_err(HandshakeError::Tls)?;
    shake(SecureStream::new(io, Connection::Client(Box::new(tls)))).await
}

async fn shake<IO: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SecureStream<IO>,
) -> Result<(SecureStream<IO>, Peer), HandshakeError> {
    if let Err(error) = poll_fn(|cx| stream.poll_shake(cx)).await {
        // The peer should learn why, if the socket takes it at once; what we report is the error, not this.
        if !matches!(error, HandshakeError::Alert(_)) {
            stream.tls.fetch_alert(&mut stream.incoming, &mut stream.outgoing);
        }
        let told = poll_fn(|cx| Poll::Ready(stream.poll_drain(cx))).await;
        tracing::trace!(?told, "alert sent");
        return Err(error);
    }
    if stream.tls.alpn() != Some(ALPN_H2) {
        return Err(HandshakeError::Alpn);
    }
    let leaf = stream.tls.peer_certificates().and_then(|chain| chain.first()).ok_or(HandshakeError::NoCertificate)?;
    let peer = Peer::read(leaf).map_err(PeerFault::from)?;
    Ok((stream, peer))
}

impl<IO: AsyncRead + AsyncWrite + Unpin> SecureStream<IO> {
    fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        let mut nothing = ReadBuf::new(&mut []);
        loop {
            match self.step(&mut nothing)? {
                Step::Again => {}
                Step::Blocked => {
                    ready!(self.poll_drain(cx))?;
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Err(StreamError::Truncated.into()));
                    }
                }
                Step::Ready => {
                    // The client's last flight. It need not be waited for, but an error here is clearer than later.
                    ready!(self.poll_drain(cx))?;
                    self.incoming.release();
                    return Poll::Ready(Ok(()));
                }
                Step::PeerClosed | Step::Closed => return Poll::Ready(Err(HandshakeError::Closed)),
            }
        }
    }
}

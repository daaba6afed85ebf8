//! One step of TLS, the same for both roles.

use std::io::IoSlice;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls_pki_types::CertificateDer;
use tokio::io::ReadBuf;

use super::error::StreamError;
use super::{MOST_PLAINTEXT, RECORD};
use crate::pool::{self, Queue};

/// Room for what TLS says for itself: a whole flight of ours is below 8 KiB with a chain of three certificates; the
/// library says if it needs more.
const FLIGHT: usize = 4 << 10;

/// What sealing adds to a record: header 5, content type 1, tag 16 (RFC 8446 5.2, AES-GCM).
const SEAL: usize = 22;

/// A key update that goes first: header and body, sealed.
const KEY_UPDATE: usize = 5 + SEAL;

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done; there may be more.
    Again,
    /// No whole record is left, and application data may be sent.
    Ready,
    /// No whole record is left, and the handshake waits for the peer.
    Blocked,
    /// The peer's `close_notify` came.
    PeerClosed,
    /// Both `close_notify` went.
    Closed,
}

/// A connection of either role. Boxed: about 1 KiB that no future should carry.
pub(super) enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Runs a step and lets `$body` act on its status; both roles, one text.
macro_rules! process {
    ($self:expr, $incoming:expr, $status:ident => $body:expr) => {
        match $self {
            Connection::Client(tls) => {
                let $status = tls.process_tls_records($incoming.filled_mut());
                $body
            }
            Connection::Server(tls) => {
                let $status = tls.process_tls_records($incoming.filled_mut());
                $body
            }
        }
    };
}

impl Connection {
    pub(super) fn step(
        &mut self,
        incoming: &mut Queue,
        into: &mut ReadBuf<'_>,
        plain: &mut Queue,
        outgoing: &mut Queue,
    ) -> Result<Step, StreamError> {
        let (discard, step) = process!(self, incoming, status => act(status, into, plain, outgoing));
        incoming.consume(discard);
        step
    }

    /// Seals as much of `bufs` as one write may take. Whole records inside a slice are sealed from where they are; where
    /// a slice ends inside a record it is joined with the next, so that a frame's header and its payload share one.
    pub(super) fn seal(
        &mut self,
        bufs: &[IoSlice<'_>],
        incoming: &mut Queue,
        outgoing: &mut Queue,
    ) -> Result<usize, StreamError> {
        let offered: usize = bufs.iter().map(|b| b.len()).sum::<usize>().min(MOST_PLAINTEXT);
        if offered == 0 {
            return Ok(0);
        }
        outgoing.space(sealed(offered) + KEY_UPDATE);
        let mut gather = Gather::new(bufs, offered);
        while let Some(piece) = gather.next() {
            self.seal_one(piece, incoming, outgoing)?;
        }
        Ok(offered)
    }

    /// Queues `close_notify`.
    pub(super) fn close(&mut self, incoming: &mut Queue, outgoing: &mut Queue) -> Result<(), StreamError> {
        let space = outgoing.space(FLIGHT);
        let (discard, written) =
            process!(self, incoming, status => traffic(status, |write| write.queue_close_notify(space)));
        incoming.consume(discard);
        outgoing.fill(written?);
        Ok(())
    }

    /// After an error: moves the alert for the peer into `outgoing`. Best effort, the error is what counts.
    ///
    /// `incoming` must be the buffer of the failed step: the library remembers places in it. One round: an alert is one
    /// message, and everything before it was fetched by earlier steps.
    pub(super) fn fetch_alert(&mut self, incoming: &mut Queue, outgoing: &mut Queue) {
        let written = process!(self, incoming, status => match status.state {
            Ok(ConnectionState::EncodeTlsData(mut encode)) => {
                encode.encode(outgoing.space(FLIGHT)).unwrap_or_default()
            }
            _ => 0,
        });
        outgoing.fill(written);
    }

    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Client(tls) => tls.peer_certificates(),
            Self::Server(tls) => tls.peer_certificates(),
        }
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Client(tls) => tls.alpn_protocol(),
            Self::Server(tls) => tls.alpn_protocol(),
        }
    }

    pub(super) fn key_exchange(&self) -> Option<rustls::NamedGroup> {
        let group = match self {
            Self::Client(tls) => tls.negotiated_key_exchange_group(),
            Self::Server(tls) => tls.negotiated_key_exchange_group(),
        };
        group.map(|g| g.name())
    }

    /// Asks for new keys of our direction; the update is queued like any other record.
    #[cfg(test)]
    pub(super) fn refresh_keys(&mut self, incoming: &mut Queue) -> Result<(), StreamError> {
        let (discard, done) = process!(self, incoming, status => (status.discard, match status.state {
            Ok(ConnectionState::WriteTraffic(write)) => write.refresh_traffic_keys().map_err(StreamError::from),
            other => Err(unexpected(other.map(|_| ()))),
        }));
        incoming.consume(discard);
        done
    }

    fn seal_one(&mut self, piece: &[u8], incoming: &mut Queue, outgoing: &mut Queue) -> Result<(), StreamError> {
        let space = outgoing.space(sealed(piece.len()) + KEY_UPDATE);
        let (discard, written) =
            process!(self, incoming, status => traffic(status, |write| write.encrypt(piece, space)));
        incoming.consume(discard);
        outgoing.fill(written?);
        Ok(())
    }
}

/// The size of `plaintext` bytes once sealed.
fn sealed(plaintext: usize) -> usize {
    plaintext + plaintext.div_ceil(RECORD) * SEAL
}

/// Acts on one status of either role.
fn act<D>(
    status: UnbufferedStatus<'_, '_, D>,
    into: &mut ReadBuf<'_>,
    plain: &mut Queue,
    outgoing: &mut Queue,
) -> (usize, Result<Step, StreamError>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut read)) => loop {
            match read.next_record() {
                None => break Ok(Step::Again),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(record)) => {
                    discard += record.discard;
                    // Order: what already waits in `plain` goes first.
                    let direct = if plain.is_empty() { record.payload.len().min(into.remaining()) } else { 0 };
                    into.put_slice(&record.payload[..direct]);
                    if direct < record.payload.len() {
                        plain.push(&record.payload[direct..]);
                    }
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut encode)) => {
            let mut written = encode.encode(outgoing.space(FLIGHT));
            if let Err(EncodeError::InsufficientSize(more)) = &written {
                written = encode.encode(outgoing.space(more.required_size));
            }
            written.map_err(|_| StreamError::Internal).map(|written| {
                outgoing.fill(written);
                Step::Again
            })
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // It stands in `outgoing`, in order, and nothing overtakes it.
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Ready),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is never enabled, and later versions of the library may add states.
        Ok(_) => Err(StreamError::Internal),
    };
    (discard, step)
}

/// Writes in a state that allows it; `settle` has led there.
fn traffic<D>(
    status: UnbufferedStatus<'_, '_, D>,
    write: impl FnOnce(&mut WriteTraffic<'_, D>) -> Result<usize, EncryptError>,
) -> (usize, Result<usize, StreamError>) {
    let written = match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => write(&mut traffic).map_err(|_| StreamError::Internal),
        other => Err(unexpected(other.map(|_| ()))),
    };
    (status.discard, written)
}

fn unexpected(state: Result<(), rustls::Error>) -> StreamError {
    state.err().map_or(StreamError::Internal, StreamError::from)
}

/// Cuts slices into pieces for sealing.
struct Gather<'a, 'b> {
    bufs: &'a [IoSlice<'b>],
    /// Position in the first slice.
    at: usize,
    left: usize,
    joined: Box<[u8]>,
}

impl<'a, 'b> Gather<'a, 'b> {
    fn new(bufs: &'a [IoSlice<'b>], left: usize) -> Self {
        Self { bufs, at: 0, left, joined: Box::default() }
    }

    /// The next piece: whole records of one slice, or the end of the input, or one record joined from several slices.
    fn next(&mut self) -> Option<&[u8]> {
        while let [first, rest @ ..] = self.bufs
            && self.at == first.len()
            && self.left > 0
        {
            (self.bufs, self.at) = (rest, 0);
        }
        if self.left == 0 {
            return None;
        }
        let first: &'a [u8] = &self.bufs.first()?[self.at..];
        let last = first.len() >= self.left;
        let direct = if last { self.left } else { first.len() / RECORD * RECORD };
        if direct > 0 {
            self.at += direct;
            self.left -= direct;
            return Some(&first[..direct]);
        }
        Some(self.join())
    }

    fn join(&mut self) -> &[u8] {
        if self.joined.is_empty() {
            self.joined = pool::take(RECORD);
        }
        let mut filled = 0;
        while filled < RECORD && self.left > 0 {
            let [first, rest @ ..] = self.bufs else { break };
            let count = (first.len() - self.at).min(RECORD - filled).min(self.left);
            self.joined[filled..filled + count].copy_from_slice(&first[self.at..self.at + count]);
            filled += count;
            self.left -= count;
            self.at += count;
            if self.at == first.len() {
                (self.bufs, self.at) = (rest, 0);
            }
        }
        &self.joined[..filled]
    }
}

impl Drop for Gather<'_, '_> {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.joined));
    }
}

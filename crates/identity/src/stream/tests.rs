//! The stream against itself and against rustls' own, over links of all shapes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::certificate::Certificate;
use crate::chain::ChainFault;
use crate::crl::Crl;
use crate::spiffe::SpiffeFault;
use crate::test_ca::{TestCa, id};
use crate::verify::PeerFault;
use crate::{Key, issued};
use mesh::{Blame, Identity};

const HOUR: Duration = Duration::from_secs(3600);

fn certificate_with(ca: &TestCa, who: &Identity, crl: &watch::Sender<Arc<Crl>>) -> Certificate {
    let key = Key::generate().unwrap();
    let chain = ca.issue(who, &key.csr_pem(who).unwrap(), HOUR);
    issued::accept(who, &key, chain, SystemTime::now(), crl.subscribe()).unwrap()
}

fn certificate(ca: &TestCa, who: &Identity) -> Certificate {
    certificate_with(ca, who, &watch::Sender::default())
}

/// A client `web` and a server `cart` of one mesh.
fn pair() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let ca = TestCa::new("root");
    (certificate(&ca, &id("web")).client_config(&[id("cart")]).unwrap(), certificate(&ca, &id("cart")).server_config())
}

async fn both<C, S>(
    near: C,
    far: S,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (SecureStream<C>, SecureStream<S>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client, server) = tokio::join!(connect(near, client), accept(far, server));
    let ((client, to), (server, from)) = (client.unwrap(), server.unwrap());
    assert_eq!((to.identity, from.identity), (id("cart"), id("web")));
    (client, server)
}

async fn linked() -> (SecureStream<DuplexStream>, SecureStream<DuplexStream>) {
    let (near, far) = duplex(64 << 10);
    let (client, server) = pair();
    both(near, far, client, server).await
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// The two outcomes of a handshake of ours with ours that should fail.
async fn failed(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Option<HandshakeError>, Option<HandshakeError>) {
    let (near, far) = duplex(64 << 10);
    let (client, server) = tokio::join!(connect(near, client), accept(far, server));
    (client.err(), server.err())
}

mod bytes;
mod refusals;
mod spoiled;

use bytes::exchange;

#[tokio::test]
async fn bulk_both_ways_between_our_two_ends() {
    let (near, far) = tcp().await;
    let (client, server) = pair();
    let (a, b) = both(near, far, client, server).await;
    assert_eq!(a.key_exchange(), Some(NamedGroup::X25519MLKEM768));
    exchange(a, b, 64 << 20, 300 << 10).await;
}

#[tokio::test]
async fn bulk_both_ways_against_the_buffered_client() {
    let (near, far) = tcp().await;
    let (client, server) = pair();
    let name = ServerName::try_from("ignored.example").unwrap();
    let (theirs, ours) = tokio::join!(TlsConnector::from(client).connect(name, near), accept(far, server));
    exchange(theirs.unwrap(), ours.unwrap().0, 64 << 20, 100 << 10).await;
}

#[tokio::test]
async fn bulk_both_ways_against_the_buffered_server() {
    let (near, far) = tcp().await;
    let (client, server) = pair();
    let (ours, theirs) = tokio::join!(connect(near, client), TlsAcceptor::from(server).accept(far));
    exchange(ours.unwrap().0, theirs.unwrap(), 64 << 20, 100 << 10).await;
}

#[tokio::test]
async fn tiny_pieces_through_a_tiny_pipe() {
    let (near, far) = duplex(7);
    let (client, server) = pair();
    let (a, b) = both(near, far, client, server).await;
    exchange(a, b, 20_000, 13).await;
}

#[tokio::test]
async fn a_header_and_its_payload_share_a_record() {
    let (near, far) = duplex(1 << 20);
    let (client, server) = pair();
    let (mut a, _b) = both(near, far, client, server).await;
    let (header, payload) = ([1; 9], vec![2; 40_000]);
    let written = a.write_vectored(&[IoSlice::new(&header), IoSlice::new(&payload)]).await.unwrap();
    assert_eq!(written, 40_009);
    a.flush().await.unwrap();
    // Read the sealed bytes themselves: three records of at most 16 KiB, the first one full.
    let mut raw = _b;
    let wire = 40_009 + 3 * 22;
    let mut sealed = vec![0; wire];
    raw.get_mut().read_exact(&mut sealed).await.unwrap();
    let mut lengths = Vec::new();
    let mut at = 0;
    while at < wire {
        assert_eq!(sealed[at..at + 3], [23, 3, 3]);
        let length = usize::from(u16::from_be_bytes([sealed[at + 3], sealed[at + 4]]));
        lengths.push(length - 17);
        at += 5 + length;
    }
    assert_eq!(lengths, [16_384, 16_384, 40_009 - 32_768]);
}

#[tokio::test]
async fn one_write_takes_many_slices_and_a_whole_tunnel_frame() {
    let (near, far) = duplex(1 << 20);
    let (client, server) = pair();
    let (mut a, mut b) = both(near, far, client, server).await;
    let pieces: Vec<Vec<u8>> = (0..100).map(|i| vec![i as u8; 1 + i * 97]).collect();
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
    let all = pieces.concat();
    let written = a.write_vectored(&slices).await.unwrap();
    assert_eq!(written, MOST_PLAINTEXT.min(all.len()));
    assert_eq!(written, 257 << 10);
    a.flush().await.unwrap();
    let mut got = vec![0; written];
    b.read_exact(&mut got).await.unwrap();
    assert!(got == all[..written]);
    // The head of a tunnel's largest frame and its payload: nothing is left for a second write.
    let (head, payload) = ([1; 9], vec![2; 256 << 10]);
    let written = a.write_vectored(&[IoSlice::new(&head), IoSlice::new(&payload)]).await.unwrap();
    assert_eq!(written, head.len() + payload.len());
    a.flush().await.unwrap();
    let mut got = vec![0; written];
    b.read_exact(&mut got).await.unwrap();
    assert!(got[..9] == head && got[9..] == payload);
}

#[tokio::test]
async fn each_direction_closes_by_itself() {
    let (mut a, mut b) = linked().await;
    a.write_all(b"last words").await.unwrap();
    a.shutdown().await.unwrap();
    let mut got = Vec::new();
    b.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    assert_eq!(a.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    got.clear();
    let answer = async {
        b.write_all(&vec![5; 100_000]).await.unwrap();
        b.shutdown().await.unwrap();
    };
    tokio::join!(answer, async { a.read_to_end(&mut got).await.unwrap() });
    assert_eq!(got.len(), 100_000);
    assert_eq!(a.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_cut_is_not_an_end() {
    let (mut a, mut b) = linked().await;
    a.write_all(b"begin").await.unwrap();
    a.flush().await.unwrap();
    drop(a);
    let mut got = Vec::new();
    let error = b.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((error.kind(), got.as_slice()), (io::ErrorKind::UnexpectedEof, b"begin".as_slice()));
    let inner = error.get_ref().unwrap().downcast_ref::<StreamError>();
    assert_eq!(inner, Some(&StreamError::Truncated));
    assert_eq!(b.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "and it stays one");
}

#[tokio::test]
async fn tampering_is_noticed_and_told() {
    let (mut a, mut b) = linked().await;
    // A record that nobody sealed.
    a.get_mut().write_all(&[23, 3, 3, 0, 30]).await.unwrap();
    a.get_mut().write_all(&[9; 30]).await.unwrap();
    let error = b.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let told = a.read(&mut [0; 8]).await.unwrap_err();
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(told.get_ref().unwrap().downcast_ref(), Some(&StreamError::Alert(alert)));
    assert!(b.write(b"x").await.is_err());
}

#[tokio::test]
async fn key_updates_are_followed_in_both_directions() {
    let (mut a, mut b) = linked().await;
    for round in 0..5_u8 {
        a.tls.refresh_keys(&mut a.incoming).unwrap();
        a.write_all(&[round; 50_000]).await.unwrap();
        a.flush().await.unwrap();
        let mut got = vec![0; 50_000];
        b.read_exact(&mut got).await.unwrap();
        assert!(got.iter().all(|byte| *byte == round));
        b.tls.refresh_keys(&mut b.incoming).unwrap();
        b.write_all(&[round; 10]).await.unwrap();
        b.flush().await.unwrap();
        a.read_exact(&mut got[..10]).await.unwrap();
        assert_eq!(got[..10], [round; 10]);
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut a, mut b) = linked().await;
    assert_eq!((a.buffered(), b.buffered()), (0, 0));
    a.write_all(&vec![1; 200_000][..60_000]).await.unwrap();
    a.flush().await.unwrap();
    b.read_exact(&mut vec![0; 60_000]).await.unwrap();
    let mut byte = [0];
    let idle = tokio::time::timeout(Duration::from_millis(10), b.read(&mut byte)).await;
    assert!(idle.is_err());
    assert_eq!((a.buffered(), b.buffered()), (0, 0));
}

#[tokio::test]
async fn a_writer_does_not_lose_what_waits_to_be_read() {
    // The peer's records wait undecrypted while we write: writing must decrypt them aside, in order.
    let (mut a, mut b) = linked().await;
    a.write_all(&[7; 30_000]).await.unwrap();
    a.write_all(&[8; 10_000]).await.unwrap();
    a.flush().await.unwrap();
    let mut first = [0; 10];
    b.read_exact(&mut first).await.unwrap();
    for _ in 0..3 {
        b.write_all(b"answer").await.unwrap();
    }
    b.flush().await.unwrap();
    let mut rest = vec![0; 39_990];
    b.read_exact(&mut rest).await.unwrap();
    assert!(rest[..29_990].iter().all(|byte| *byte == 7) && rest[29_990..].iter().all(|byte| *byte == 8));
    let mut got = [0; 18];
    a.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"answeransweranswer");
}

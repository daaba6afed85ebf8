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

/// Writes `total` bytes of a known sequence in random pieces, plain and vectored.
async fn pour(mut to: impl AsyncWrite + Unpin, seed: u64, total: usize, largest: usize) {
    let (mut data, mut sizes) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed ^ 1));
    let mut left = total;
    while left > 0 {
        let mut piece = vec![0; sizes.random_range(1..=largest).min(left)];
        data.fill_bytes_each(&mut piece);
        left -= piece.len();
        if sizes.random() {
            to.write_all(&piece).await.unwrap();
        } else {
            let cut = sizes.random_range(0..=piece.len().min(40));
            let mut slices = [IoSlice::new(&piece[..cut]), IoSlice::new(&[]), IoSlice::new(&piece[cut..])];
            let mut rest = &mut slices[..];
            while rest.iter().any(|s| !s.is_empty()) {
                let written = to.write_vectored(rest).await.unwrap();
                assert!(written > 0);
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        if sizes.random_ratio(1, 8) {
            to.flush().await.unwrap();
        }
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end and compares.
async fn drink(mut from: impl AsyncRead + Unpin, seed: u64, total: usize, largest: usize) {
    let (mut data, mut sizes) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed ^ 2));
    let (mut buf, mut wanted) = (vec![0; largest], vec![0; largest]);
    let mut got = 0;
    loop {
        let size = sizes.random_range(1..=largest);
        let count = from.read(&mut buf[..size]).await.unwrap();
        if count == 0 {
            break;
        }
        data.fill_bytes_each(&mut wanted[..count]);
        assert!(buf[..count] == wanted[..count], "bytes differ after {got}");
        got += count;
    }
    assert_eq!(got, total);
}

trait FillEach {
    fn fill_bytes_each(&mut self, buf: &mut [u8]);
}

impl FillEach for StdRng {
    /// The same sequence however it is cut.
    fn fill_bytes_each(&mut self, buf: &mut [u8]) {
        for byte in buf {
            *byte = self.next_u32() as u8;
        }
    }
}

/// Both directions at once, of two ends of any make.
async fn exchange<A, B>(a: A, b: B, total: usize, largest: usize)
where
    A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ((a_read, a_write), (b_read, b_write)) = (tokio::io::split(a), tokio::io::split(b));
    let tasks = [
        tokio::spawn(pour(a_write, 7, total, largest)),
        tokio::spawn(pour(b_write, 8, total, largest)),
        tokio::spawn(drink(b_read, 7, total, largest)),
        tokio::spawn(drink(a_read, 8, total, largest)),
    ];
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(240), task).await.expect("in time").unwrap();
    }
}

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

#[tokio::test]
async fn who_is_not_expected_is_refused() {
    let ca = TestCa::new("root");
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    for expected in [vec![id("other")], vec![], vec![Identity::new("other.domain", "shop", "cart").unwrap()]] {
        let (client, _) = failed(web.client_config(&expected).unwrap(), cart.server_config()).await;
        let Some(HandshakeError::Peer(PeerFault::Identity { got, .. })) = client else { panic!("{client:?}") };
        assert_eq!(got, id("cart"));
    }
    let (client, server) = failed(web.client_config(&[id("a"), id("cart")]).unwrap(), cart.server_config()).await;
    assert!(client.is_none() && server.is_none());
}

#[tokio::test]
async fn a_certificate_of_another_root_or_trust_domain_is_refused() {
    let (ca, strange) = (TestCa::new("root"), TestCa::new("strange"));
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    let fake = certificate(&strange, &id("cart"));
    let (client, server) = failed(web.client_config(&[id("cart")]).unwrap(), fake.server_config()).await;
    assert!(matches!(client, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::UnknownIssuer)))), "{client:?}");
    assert_eq!(server.unwrap().blame(), Blame::Mesh, "the server is told that its certificate is the matter");

    let foreign = certificate(&ca, &Identity::new("other.domain", "shop", "web").unwrap());
    // It must trust the server for the server to see it at all; its own rule would refuse first.
    let (client, _) = failed(foreign.client_config(&[id("cart")]).unwrap(), cart.server_config()).await;
    assert!(matches!(client, Some(HandshakeError::Peer(PeerFault::TrustDomain { .. }))), "{client:?}");
    let mut open = (*foreign.client_config(&[id("cart")]).unwrap()).clone();
    open.dangerous().set_certificate_verifier(Arc::new(Anybody));
    let (_, server) = failed(Arc::new(open), cart.server_config()).await;
    assert!(matches!(server, Some(HandshakeError::Peer(PeerFault::TrustDomain { .. }))), "{server:?}");
}

#[tokio::test]
async fn expired_wrong_purpose_and_nameless_clients_are_refused() {
    let now = SystemTime::now();
    let judge = |change: fn(&mut crate::test_ca::Behaviour, SystemTime)| async move {
        let ca = TestCa::new("root");
        let server = certificate(&ca, &id("cart")).server_config();
        ca.behave(|b| change(b, now));
        let key = Key::generate().unwrap();
        let chain = ca.issue(&id("web"), &key.csr_pem(&id("web")).unwrap(), HOUR);
        let ders = crate::chain::certificates(chain.leaf.as_bytes()).unwrap();
        failed(Arc::new(careless(Some((ders, key)), &[b"h2"])), server).await.1
    };
    let expired = judge(|b, now| b.times = Some((now - 2 * HOUR, now - HOUR))).await;
    assert!(matches!(expired, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::Expired)))), "{expired:?}");
    let early = judge(|b, now| b.times = Some((now + HOUR, now + 2 * HOUR))).await;
    assert!(matches!(early, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::NotYetValid)))), "{early:?}");
    let usage = judge(|b, _| b.usages = Some(vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth])).await;
    assert!(matches!(usage, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::Usage)))), "{usage:?}");
    let nameless = judge(|b, _| b.names = Some(vec![])).await;
    assert!(matches!(nameless, Some(HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::None)))), "{nameless:?}");
    let two = judge(|b, _| b.names = Some(vec![id("web").to_string(), id("cart").to_string()])).await;
    assert!(matches!(two, Some(HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::Several(2))))), "{two:?}");
    assert_eq!(two.unwrap().blame(), Blame::Peer);
    let strange = judge(|b, _| b.names = Some(vec!["https://cluster.local/ns/shop/sa/web".to_owned()])).await;
    assert!(matches!(strange, Some(HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::Identity(_))))), "{strange:?}");
}

#[tokio::test]
async fn no_certificate_no_h2_and_no_tls_are_told_apart() {
    let server = certificate(&TestCa::new("root"), &id("cart")).server_config();
    let (_, none) = failed(Arc::new(careless(None, &[b"h2"])), server.clone()).await;
    assert!(matches!(none, Some(HandshakeError::NoCertificate)), "{none:?}");
    let ca = TestCa::new("root");
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut client = (*web.client_config(&[id("cart")]).unwrap()).clone();
        client.alpn_protocols = offered;
        let (_, alpn) = failed(Arc::new(client), cart.server_config()).await;
        assert!(matches!(alpn, Some(HandshakeError::Alpn)), "{alpn:?}");
    }
    let mut old = (*cart.server_config()).clone();
    old.alpn_protocols = Vec::new();
    let (alpn, _) = failed(web.client_config(&[id("cart")]).unwrap(), Arc::new(old)).await;
    assert!(matches!(alpn, Some(HandshakeError::Alpn)), "{alpn:?}");

    let (mut near, far) = duplex(4096);
    near.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(matches!(accept(far, server.clone()).await.err(), Some(HandshakeError::Tls(_))));
    let (near, far) = duplex(4096);
    drop(near);
    let gone = accept(far, server).await.err().unwrap();
    assert!(matches!(gone, HandshakeError::Closed | HandshakeError::Io(_)) && gone.retryable(), "{gone:?}");
}

#[tokio::test]
async fn a_server_that_refuses_the_client_is_heard_with_the_first_read() {
    let (ca, strange) = (TestCa::new("root"), TestCa::new("strange"));
    let cart = certificate(&ca, &id("cart"));
    let mut client = (*certificate(&strange, &id("web")).client_config(&[id("cart")]).unwrap()).clone();
    client.dangerous().set_certificate_verifier(Arc::new(Anybody));
    let (near, far) = duplex(64 << 10);
    let (ours, theirs) = tokio::join!(connect(near, Arc::new(client)), accept(far, cart.server_config()));
    assert!(theirs.is_err());
    let (mut stream, _) = ours.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    let inner = error.get_ref().unwrap().downcast_ref::<StreamError>();
    assert!(matches!(inner, Some(StreamError::Alert(_))), "{error}");
}

#[tokio::test]
async fn only_tls_13_with_aes_gcm_is_spoken() {
    let cart = certificate(&TestCa::new("root"), &id("cart"));
    let mut chacha = (*crate::provider()).clone();
    chacha.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    let default = rustls::crypto::aws_lc_rs::default_provider();
    for (provider, version) in [(chacha, &rustls::version::TLS13), (default, &rustls::version::TLS12)] {
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        assert!(failed(Arc::new(client), cart.server_config()).await.1.is_some());
    }
    let ca = TestCa::new("root");
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    for (group, name) in [
        (rustls::crypto::aws_lc_rs::kx_group::X25519, NamedGroup::X25519),
        (rustls::crypto::aws_lc_rs::kx_group::SECP256R1, NamedGroup::secp256r1),
    ] {
        let mut classic = (*crate::provider()).clone();
        classic.kx_groups = vec![group];
        let mut client = careless_with(Arc::new(classic), None, &[b"h2"]);
        client.client_auth_cert_resolver = web.client_config(&[id("cart")]).unwrap().client_auth_cert_resolver.clone();
        let (near, far) = duplex(64 << 10);
        let (a, b) = tokio::join!(connect(near, Arc::new(client)), accept(far, cart.server_config()));
        assert_eq!((a.unwrap().0.key_exchange(), b.unwrap().0.key_exchange()), (Some(name), Some(name)));
    }
}

#[tokio::test]
async fn a_revocation_list_refuses_new_and_names_live_connections() {
    let (ca, crl) = (TestCa::new("root"), watch::Sender::new(Arc::new(Crl::default())));
    let [web, cart, third] = ["web", "cart", "third"].map(|name| certificate_with(&ca, &id(name), &crl));
    let (near, far) = duplex(64 << 10);
    let client = web.client_config(&[id("cart")]).unwrap();
    let (ours, theirs) = tokio::join!(connect(near, client.clone()), accept(far, cart.server_config()));
    let (live, server_peer) = (ours.unwrap().0, theirs.unwrap().1);
    assert!(!crl.borrow().revokes(&server_peer));
    let list = Crl::from_pem(ca.revoke(std::slice::from_ref(&server_peer.serial)).as_bytes()).unwrap();
    assert_eq!(list.serials(), [web.serial()]);
    crl.send_replace(Arc::new(list));
    assert!(crl.borrow().revokes(&server_peer));
    drop(live);
    let (_, server) = failed(client, cart.server_config()).await;
    assert!(matches!(server, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::Revoked)))), "{server:?}");
    let (client, server) = failed(third.client_config(&[id("cart")]).unwrap(), cart.server_config()).await;
    assert!(client.is_none() && server.is_none(), "others go on");
    // A list of another issuer says nothing about ours.
    crl.send_replace(Arc::new(Crl::from_pem(TestCa::new("else").revoke(&[server_peer.serial]).as_bytes()).unwrap()));
    let (client, server) = failed(web.client_config(&[id("cart")]).unwrap(), cart.server_config()).await;
    assert!(client.is_none() && server.is_none());
    assert!(Crl::from_pem(b"").is_err() && Crl::from_pem(ca.root.as_bytes()).is_err());
}

/// Copies bytes and spoils one of them.
async fn spoil(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, at: usize, with: u8) {
    let (mut buf, mut seen) = (vec![0; 4096], 0);
    while let Ok(count @ 1..) = from.read(&mut buf).await {
        if (seen..seen + count).contains(&at) {
            buf[at - seen] ^= with;
        }
        seen += count;
        if to.write_all(&buf[..count]).await.is_err() {
            break;
        }
    }
    // Whoever reads sees the end; a peer that is gone already does not care.
    to.shutdown().await.ok();
}

#[tokio::test]
async fn a_spoiled_byte_anywhere_ends_in_an_error_and_never_in_a_panic() {
    let (client, server) = pair();
    let mut random = StdRng::seed_from_u64(42);
    let mut broken = 0;
    for round in 0..400 {
        let ((near, near_wire), (far, far_wire)) = (duplex(32 << 10), duplex(32 << 10));
        let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near_wire), tokio::io::split(far_wire));
        let (at, with) = (random.random_range(0..1600), random.random_range(1..=255));
        let (up, down) = if round % 2 == 0 { (at, usize::MAX) } else { (usize::MAX, at) };
        let wires = async { tokio::join!(spoil(from_near, to_far, up, with), spoil(from_far, to_near, down, with)) };
        let calls = async {
            let (mut stream, _) = connect(near, client.clone()).await.map_err(io::Error::other)?;
            stream.write_all(b"ping").await?;
            stream.flush().await?;
            let mut got = [0; 4];
            stream.read_exact(&mut got).await?;
            Ok::<_, io::Error>(got)
        };
        let serves = async {
            let (mut stream, _) = accept(far, server.clone()).await.map_err(io::Error::other)?;
            let mut got = [0; 4];
            stream.read_exact(&mut got).await?;
            stream.write_all(&got).await?;
            stream.shutdown().await
        };
        let all = async { tokio::join!(wires, calls, serves) };
        // A length that was made larger leaves both ends waiting for more: that ends by the caller's time limit.
        match tokio::time::timeout(Duration::from_millis(300), all).await {
            Ok((_, Ok(got), _)) => assert_eq!(&got, b"ping"),
            Ok((_, Err(_), _)) | Err(_) => broken += 1,
        }
    }
    assert!(broken > 100, "most places matter: {broken}");
}

/// Accepts every server: a client that does not follow our rules.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crate::provider().signature_verification_algorithms.supported_schemes()
    }
}

type Shown = Option<(Vec<rustls_pki_types::CertificateDer<'static>>, Key)>;

fn careless(shown: Shown, alpn: &[&[u8]]) -> ClientConfig {
    careless_with(crate::provider(), shown, alpn)
}

fn careless_with(provider: Arc<rustls::crypto::CryptoProvider>, shown: Shown, alpn: &[&[u8]]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some((chain, key)) => {
            let certified = rustls::sign::CertifiedKey::new(chain, key.for_tls());
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}

//! What the tests share: a runtime, scripted peers on the level of frames, and a dialler with a far end in the test.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;

use crate::{
    Bond, Broken, ClientLimits, Dial, DialTimings, Dialled, Head, Headers, Opened, Pool, PoolKey, PoolStats, RecvHalf,
    ResponseHeaders, SendHalf, Server, ServerLimits, TunnelStream, serve,
};

/// Runs a test on one thread; a test that hangs fails.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("test hangs") })
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

/// One frame as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, id: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, id, payload: payload.into() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_uint(self.payload.len() as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.id);
        out.extend_from_slice(&self.payload);
        out
    }

    /// The last four bytes: the code of RST_STREAM, and of GOAWAY without debug data.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A header field, as a literal without indexing and without Huffman (RFC 7541 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        // Prefix of seven bits (RFC 7541 5.1).
        if text.len() < 127 {
            out.push(text.len() as u8);
        } else {
            out.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                out.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            out.push(rest as u8);
        }
        out.extend_from_slice(text.as_bytes());
    }
    out
}

pub(crate) fn connect_block(authority: &str) -> Vec<u8> {
    [field(":method", "CONNECT"), field(":authority", authority)].concat()
}

/// A peer that does what the test says, frame by frame.
pub(crate) struct RawPeer {
    pub(crate) io: DuplexStream,
}

impl RawPeer {
    /// A client that has said hello.
    pub(crate) async fn client(mut io: DuplexStream) -> Self {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut peer = Self { io };
        peer.send(SETTINGS, 0, 0, []).await;
        peer
    }

    /// A server that has said hello.
    pub(crate) async fn server(mut io: DuplexStream) -> Self {
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await.unwrap();
        let mut peer = Self { io };
        peer.send(SETTINGS, 0, 0, []).await;
        peer
    }

    /// Sends; a connection that the other end has closed swallows it.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, id: u32, payload: impl Into<Vec<u8>>) {
        if let Err(e) = self.io.write_all(&Frame::new(kind, flags, id, payload).bytes()).await {
            assert_eq!(e.kind(), std::io::ErrorKind::BrokenPipe);
        }
    }

    /// The next frame; none when the other end has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await.ok()?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], id, payload })
    }

    /// The next frame of a kind; others are passed over, settings are acknowledged.
    pub(crate) async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("connection closed");
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(SETTINGS, ACK, 0, []).await;
            }
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end and returns all frames.
    pub(crate) async fn drain(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

/// A client of the HTTP/2 library itself, with its driver running.
pub(crate) async fn h2_client(io: DuplexStream) -> h2::client::SendRequest<Bytes> {
    h2_client_with(io, h2::client::Builder::new()).await
}

pub(crate) async fn h2_client_with(io: DuplexStream, builder: h2::client::Builder) -> h2::client::SendRequest<Bytes> {
    let (requests, connection) = builder.handshake(io).await.unwrap();
    spawn_local(async move {
        // How it ends is seen by the streams.
        drop(connection.await);
    });
    requests
}

pub(crate) fn head(authority: &str) -> Head {
    Head { authority: authority.into(), headers: Headers::default() }
}

pub(crate) fn connect_request(authority: &str) -> http::Request<()> {
    head(authority).request().unwrap()
}

pub(crate) fn key(destination: &str) -> PoolKey {
    PoolKey {
        destination: destination.into(),
        source: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        tunnel: mesh::TunnelAddr::new("10.0.0.1:15008".parse().unwrap()),
        expected: [].into(),
        source_ip: None,
    }
}

/// A dialler whose far ends come out of the receiver.
#[derive(Clone)]
pub(crate) struct Wire {
    far: mpsc::UnboundedSender<DuplexStream>,
    /// Dials begun.
    pub(crate) dials: Rc<Cell<usize>>,
    /// Each dial to a destination called `gated` takes one permit.
    pub(crate) gate: Rc<Semaphore>,
    /// What dials fail with.
    pub(crate) error: Rc<RefCell<Option<String>>>,
    /// What connections rest on.
    pub(crate) bond: Rc<RefCell<Rc<dyn Bond>>>,
}

impl Wire {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<DuplexStream>) {
        let (far, ends) = mpsc::unbounded_channel();
        let gate = Rc::new(Semaphore::new(0));
        let peer: mesh::Identity = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
        let bond = Rc::new(RefCell::new(Rc::new(peer) as Rc<dyn Bond>));
        (Self { far, dials: Rc::default(), gate, error: Rc::default(), bond }, ends)
    }
}

impl Dial for Wire {
    type Io = DuplexStream;
    type Error = String;

    async fn dial(&self, key: &PoolKey) -> Result<Dialled<DuplexStream>, String> {
        self.dials.set(self.dials.get() + 1);
        if &*key.destination == "gated" {
            self.gate.acquire().await.unwrap().forget();
        }
        if let Some(error) = &*self.error.borrow() {
            return Err(error.clone());
        }
        let (near, far) = tokio::io::duplex(256 * 1024);
        self.far.send(far).map_err(|_| "nobody listens".to_owned())?;
        let bond = self.bond.borrow().clone();
        Ok(Dialled { io: near, bond, timings: DialTimings { connect: Duration::from_millis(1), ..Default::default() } })
    }
}

/// Serves every stream with an echo.
pub(crate) async fn echo_all(mut server: Server) {
    while let Some(Ok(request)) = server.accept().await {
        spawn_local(async move {
            let Ok(stream) = request.accept(&ResponseHeaders::default()) else { return };
            let (recv, send) = stream.split();
            if let Err(broken) = echo(recv, send).await {
                // The other end's wish.
                tracing::trace!(%broken, "echo ended");
            }
        });
    }
}

pub(crate) async fn echo(mut recv: RecvHalf, mut send: SendHalf) -> Result<(), Broken> {
    while let Some(bytes) = recv.data().await? {
        let len = bytes.len();
        send.send_all(bytes).await?;
        recv.release(len);
    }
    send.finish()
}

/// Reads to FIN.
pub(crate) async fn read_all(recv: &mut RecvHalf) -> Result<Vec<u8>, Broken> {
    let mut all = Vec::new();
    while let Some(bytes) = recv.data().await? {
        recv.release(bytes.len());
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Kinds and ids near the legal ones, so that more than the first check is reached.
pub(crate) fn any_frame() -> impl Strategy<Value = Frame> {
    (0u8..11, any::<u8>(), 0u32..6, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, flags, id, payload)| Frame::new(kind, flags, id, payload))
}

/// A pool whose every connection ends at a server that echoes.
pub(crate) fn echoing(limits: ClientLimits) -> (Pool<Wire>, Wire) {
    let (wire, mut ends) = Wire::new();
    spawn_local(async move {
        while let Some(io) = ends.recv().await {
            spawn_local(echo_all(serve(io, ServerLimits::default())));
        }
    });
    (Pool::new(wire.clone(), limits), wire)
}

/// A pool whose connections end in the test's hands.
pub(crate) fn scripted(limits: ClientLimits) -> (Pool<Wire>, Wire, UnboundedReceiver<DuplexStream>) {
    let (wire, ends) = Wire::new();
    (Pool::new(wire.clone(), limits), wire, ends)
}

pub(crate) fn no_spread() -> ClientLimits {
    ClientLimits { spread_connections: 1, ..ClientLimits::default() }
}

pub(crate) async fn open(pool: &Pool<Wire>, destination: &str) -> Opened {
    pool.open(&key(destination), &head("10.0.0.1:80")).await.unwrap()
}

/// Waits until the pool's counts are as wanted.
pub(crate) async fn until(pool: &Pool<Wire>, what: impl Fn(&PoolStats) -> bool) {
    while !what(&pool.stats()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn roundtrip(opened: Opened, bytes: Vec<u8>) {
    let (mut recv, mut send) = opened.stream.split();
    let want = bytes.clone();
    let sending = spawn_local(async move {
        send.send_all(bytes.into()).await.unwrap();
        send.finish().unwrap();
        send
    });
    assert!(read_all(&mut recv).await.unwrap() == want);
    sending.await.unwrap();
}

pub(crate) async fn accept(server: &mut Server) -> TunnelStream {
    server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap()
}

//! Look-ups over UDP.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use ::dns::Expected;
use net::socket::{self, CapturedUdp};
use tokio::net::UdpSocket;

use super::{Names, OURS, PORT, Step, upstream, upstreams};
use crate::here::Here;

/// Queries taken in a row before other work of the thread has its turn: some 100 µs of it.
const IN_A_ROW: usize = 32;

/// A socket that a pod's queries come to.
pub(crate) enum Socket {
    /// Of every address, with the destination of each query.
    Captured(CapturedUdp),
    /// Of loopback; answers leave from it.
    Redirected(UdpSocket),
}

/// A query, as it came.
struct Asked {
    len: usize,
    from: SocketAddr,
    /// The server that was asked, where that is known.
    server: Option<SocketAddr>,
}

impl Socket {
    /// `None` for a family that the pod has not.
    pub(super) fn captured(here: &Here, ipv6: bool) -> io::Result<Option<Self>> {
        let made = CapturedUdp::bind(here.pod.netns(), ipv6, OURS, None);
        made.map(|socket| socket.map(Self::Captured)).map_err(|e| {
            let what = format!("cannot serve look-ups on port {OURS} inside the pod {}: {e}", here.pod.uid());
            io::Error::new(e.kind(), what)
        })
    }

    pub(super) fn redirected(here: &Here, at: SocketAddr) -> io::Result<Self> {
        socket::udp_at(here.pod.netns(), at, here.shared.egress_mark()).map(Self::Redirected)
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Captured(socket) => socket.readable().await,
            Self::Redirected(socket) => socket.readable().await,
        }
    }

    fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<Asked>> {
        match self {
            Self::Captured(socket) => {
                let got = socket.try_recv(buffer)?;
                Ok(got.map(|d| Asked { len: d.len, from: d.from, server: Some(d.to.0) }))
            }
            Self::Redirected(socket) => match socket.try_recv_from(buffer) {
                Ok((len, from)) => Ok(Some(Asked { len, from, server: None })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Sends an answer as from the server that was asked.
    fn answer(&self, here: &Here, from: SocketAddr, server: Option<SocketAddr>, bytes: &[u8]) {
        let sent = match (self, server) {
            (Self::Captured(_), Some(server)) => socket::answer_as(here.pod.netns(), server, from, bytes),
            // The answer to one client is too small to fill the buffer of a socket; if others have, it is lost as any
            // datagram may be.
            (Self::Redirected(socket), _) => socket.try_send_to(bytes, from).map(drop),
            (Self::Captured(_), None) => Ok(()),
        };
        if let Err(error) = sent {
            tracing::debug!(pod = %here.pod.uid(), client = %from, %error, "answer not sent");
        }
    }
}

/// Serves until the pod is gone or the next proxy has taken over and nobody waits any more.
pub(super) async fn serve(here: Rc<Here>, socket: Socket) {
    let Some(names) = here.shared.names.clone() else { return };
    let _alive = here.worker.enter();
    let socket = Rc::new(socket);
    let mut superseded = pin!(here.shared.superseded());
    loop {
        tokio::select! {
            ready = socket.readable() => if ready.is_err() { return },
            () = here.pod.gone() => return,
            () = &mut superseded => break,
        }
        take(&names, &here, &socket);
        tokio::task::yield_now().await;
    }
    // What was sent to us before the next generation had its socket is answered, then we close.
    while take(&names, &here, &socket) {}
}

/// Takes some of what waits; whether there may be more.
fn take(names: &Arc<Names>, here: &Rc<Here>, socket: &Rc<Socket>) -> bool {
    for _ in 0..IN_A_ROW {
        let mut scratch = here.worker.datagram.borrow_mut();
        match socket.try_recv(&mut scratch) {
            Ok(Some(asked)) => {
                if let Some(query) = scratch.get(..asked.len) {
                    one(names, here, socket, &asked, query);
                }
            }
            Ok(None) => return false,
            // An error of an earlier answer that comes back by ICMP, for one: the next query may be fine.
            Err(error) => tracing::debug!(pod = %here.pod.uid(), %error, "query not received"),
        }
    }
    true
}

fn one(names: &Arc<Names>, here: &Rc<Here>, socket: &Rc<Socket>, asked: &Asked, query: &[u8]) {
    // Who sends to our port from elsewhere was not captured: he is no client of this pod's, and sending his query on to
    // ourselves would never end.
    if asked.server.is_some_and(|server| server.port() != PORT) {
        return names.metrics.ended("ignored");
    }
    match names.step(here, query) {
        Step::Answer(request, answer) => {
            socket.answer(here, asked.from, asked.server, &answer.encode_udp(&request));
        }
        Step::Malformed(answer) => socket.answer(here, asked.from, asked.server, &answer),
        Step::Forward(expected) => forward(names, here, socket, asked, expected, query),
        Step::Drop => {}
    }
}

/// Sends a query on, on a task of its own.
fn forward(names: &Arc<Names>, here: &Rc<Here>, socket: &Rc<Socket>, asked: &Asked, expected: Expected, query: &[u8]) {
    let Some(share) = here.pod.budget().lookup() else {
        // The application asks again, as after any loss.
        tracing::debug!(pod = %here.pod.uid(), "too many look-ups of this pod under way");
        return names.metrics.ended("budget_exhausted");
    };
    let (names, here, socket, query) = (names.clone(), here.clone(), socket.clone(), query.to_vec());
    let (from, server) = (asked.from, asked.server);
    tokio::task::spawn_local(async move {
        let (_share, _alive) = (share, here.worker.enter());
        let servers = upstreams(&names, server.as_ref());
        let answer = tokio::select! {
            answer = upstream::ask(&names, &here, servers, &query, &expected) => answer,
            () = here.pod.gone() => return,
        };
        // Without one the client has stopped waiting by now.
        if let Some(answer) = answer {
            socket.answer(&here, from, server, &answer);
        }
    });
}

//! The node proxy's end: learns which pods are its own.
//!
//! ```text
//!                    connected, hello sent            request            answer sent
//!   Away ──────────────────────────────────► Asked? ─────────► Answering ───────────► Asked?
//!    ▲  │ refused: wait 10 ms, doubled to 15 s   │                 │
//!    │  └──► Away                                │ closed, broken  │ closed, broken
//!    └───────────────────────────────────────────┴─────────────────┘   Event::Disconnected
//! ```
//! Pods keep running while the agent is away; after a reconnect a new snapshot tells which of them are left.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::zds::workload_request::Payload;
use proto::zds::workload_response::Payload as Answer;
use proto::zds::{Ack as WireAck, AddWorkload, Version, WorkloadRequest, WorkloadResponse, ZdsHello};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::socket::{Failure, Packet, Socket};
use crate::{MAX_PACKET, Violation, WorkloadInfo, uid_is_fit};

/// First and longest wait between two attempts to connect (cni-zds.md 2).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(15));

/// What the agent says, and what becomes of the connection.
#[derive(Debug)]
pub enum Event {
    /// A pod of ours. The same uid again with another network namespace is a pod whose sandbox was made anew; with the
    /// same one it is nothing new.
    Add {
        /// UID of the pod.
        uid: Arc<str>,
        /// Its names.
        info: WorkloadInfo,
        /// Its network namespace.
        netns: OwnedFd,
        /// To be answered when its listeners stand.
        ack: Ack,
    },
    /// The connection stands and hello was said. A snapshot follows.
    Connected,
    /// A pod is gone: stop it. Before the snapshot is complete this only takes its name off the list.
    Del {
        /// UID of the pod.
        uid: Arc<str>,
        /// To be answered when it is let go.
        ack: Ack,
    },
    /// The connection ended, or the agent cannot be reached. Running pods stay; the next call connects again.
    Disconnected(Disconnected),
    /// A pod that we may have from an earlier connection still exists. Comes only within a snapshot.
    Keep {
        /// UID of the pod.
        uid: Arc<str>,
        /// To be answered at once.
        ack: Ack,
    },
    /// All pods were named; those that were not are gone.
    SnapshotSent {
        /// To be answered when the others are stopped.
        ack: Ack,
    },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Disconnected {
    /// The agent closed it.
    #[error("closed by the node agent")]
    Closed,
    /// Nobody listens, or the system failed.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The agent broke the rules of the wire.
    #[error("the node agent broke the protocol: {0}")]
    Violation(#[from] Violation),
}

impl From<Failure> for Disconnected {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed => Self::Closed,
            Failure::Io(e) => Self::System(e),
            Failure::Violation(v) => Self::Violation(v),
        }
    }
}

/// The answer to one request; to be given once, from any task. Sent by the next call of [`Client::next`]. Dropped without
/// an answer it says that there was none.
#[derive(Debug)]
pub struct Ack(oneshot::Sender<Result<(), String>>);

impl Ack {
    /// It is done.
    pub fn ok(self) {
        // The connection may be gone; then nobody waits for the answer.
        drop(self.0.send(Ok(())));
    }

    /// It could not be done. An added pod is then sent again by the agent. The text is cut to fit a packet.
    pub fn failed(self, error: impl Into<String>) {
        drop(self.0.send(Err(error.into())));
    }
}

/// The connection to the agent, made and remade as needed.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    state: State,
    wait: Duration,
}

#[derive(Debug)]
enum State {
    /// Not connected; not before that time.
    Away(Instant),
    /// Connected; hello is still to be sent.
    Hello(Socket),
    Connected(Connection),
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    phase: Phase,
    /// Whether the snapshot is complete.
    live: bool,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for a request.
    Listening,
    /// Waiting for the caller's answer.
    Answering(oneshot::Receiver<Result<(), String>>),
    /// The answer is to be sent.
    Replying(Vec<u8>),
}

impl Client {
    /// A client that connects when it is first asked for an event. Needs a tokio runtime.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: State::Away(Instant::now()), wait: BACKOFF.0 }
    }

    /// The next event. First sends the answer to the one before, waiting for it to be given. May be dropped and called
    /// again without loss.
    pub async fn next(&mut self) -> Event {
        match self.advance().await {
            Ok(event) => event,
            Err(reason) => {
                self.state = State::Away(Instant::now() + self.wait);
                self.wait = (self.wait * 2).min(BACKOFF.1);
                Event::Disconnected(reason)
            }
        }
    }

    async fn advance(&mut self) -> Result<Event, Disconnected> {
        loop {
            match &mut self.state {
                State::Away(until) => {
                    sleep_until(*until).await;
                    self.state = State::Hello(Socket::connect(&self.path)?);
                }
                State::Hello(socket) => {
                    socket.send(&ZdsHello { version: Version::V1 as i32 }.encode_to_vec(), None).await?;
                    let State::Hello(socket) = std::mem::replace(&mut self.state, State::Away(Instant::now())) else {
                        continue;
                    };
                    self.state = State::Connected(Connection { socket, phase: Phase::Listening, live: false });
                    return Ok(Event::Connected);
                }
                State::Connected(connection) => {
                    let event = connection.next().await?;
                    // It speaks our protocol, so the next loss is a new one.
                    self.wait = BACKOFF.0;
                    return Ok(event);
                }
            }
        }
    }
}

impl Connection {
    async fn next(&mut self) -> Result<Event, Disconnected> {
        loop {
            match &mut self.phase {
                Phase::Listening => {
                    let packet = self.socket.receive().await?;
                    let (sender, receiver) = oneshot::channel();
                    let event = self.event(packet, Ack(sender))?;
                    self.phase = Phase::Answering(receiver);
                    return Ok(event);
                }
                Phase::Answering(receiver) => {
                    let answer = tokio::select! {
                        answer = receiver => answer,
                        early = self.socket.receive() => return Err(match early {
                            Ok(_) => Violation::Order("a request came before the one before it was answered").into(),
                            Err(failure) => failure.into(),
                        }),
                    };
                    let answer = answer.unwrap_or_else(|_| Err("the proxy gave no answer".to_owned()));
                    self.phase = Phase::Replying(response(answer));
                }
                Phase::Replying(bytes) => {
                    self.socket.send(bytes, None).await?;
                    self.phase = Phase::Listening;
                }
            }
        }
    }

    fn event(&mut self, packet: Packet, ack: Ack) -> Result<Event, Violation> {
        let Packet { bytes, mut descriptors } = packet;
        let request = WorkloadRequest::decode(&*bytes).map_err(|e| Violation::Unreadable(e.to_string()))?;
        let payload = request.payload.ok_or(Violation::Empty("request"))?;
        let (message, expected) = match &payload {
            Payload::Add(_) => ("add", 1),
            Payload::Del(_) => ("del", 0),
            Payload::Keep(_) => ("keep", 0),
            Payload::SnapshotSent(_) => ("snapshot_sent", 0),
        };
        let count = descriptors.len();
        let wrong = Violation::Descriptors { message, count, expected };
        if count != expected {
            return Err(wrong);
        }
        match payload {
            Payload::Add(add) => {
                let netns = descriptors.pop().ok_or(wrong)?;
                let (uid, info) = names(add)?;
                Ok(Event::Add { uid, info, netns, ack })
            }
            Payload::Del(del) => Ok(Event::Del { uid: fit_uid(message, del.uid)?, ack }),
            Payload::Keep(_) if self.live => Err(Violation::Order("a keep after the snapshot")),
            Payload::Keep(keep) => Ok(Event::Keep { uid: fit_uid(message, keep.uid)?, ack }),
            Payload::SnapshotSent(_) if self.live => Err(Violation::Order("a second end of the snapshot")),
            Payload::SnapshotSent(_) => {
                self.live = true;
                Ok(Event::SnapshotSent { ack })
            }
        }
    }
}

fn names(add: AddWorkload) -> Result<(Arc<str>, WorkloadInfo), Violation> {
    let uid = fit_uid("add", add.uid)?;
    let wire = add.workload_info.ok_or(Violation::Field { message: "add", field: "workload_info" })?;
    let name = |field, text: String| {
        // May be empty (a static pod has no service account): that is one pod's trouble, not the connection's.
        let fits = text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Arc::<str>::from(text)) } else { Err(Violation::Field { message: "add", field }) }
    };
    let info = WorkloadInfo {
        name: name("name", wire.name)?,
        namespace: name("namespace", wire.namespace)?,
        service_account: name("service_account", wire.service_account)?,
    };
    Ok((uid, info))
}

fn fit_uid(message: &'static str, uid: String) -> Result<Arc<str>, Violation> {
    if uid_is_fit(&uid) { Ok(uid.into()) } else { Err(Violation::Field { message, field: "uid" }) }
}

fn response(answer: Result<(), String>) -> Vec<u8> {
    let mut error = match answer {
        Ok(()) => String::new(),
        Err(text) if text.is_empty() => "failed".to_owned(),
        Err(text) => text,
    };
    // Two nested length-delimited fields take 3 bytes each at this size.
    let longest = MAX_PACKET - 6;
    if error.len() > longest {
        let end = (0..=longest).rev().find(|i| error.is_char_boundary(*i)).unwrap_or(0);
        error.truncate(end);
    }
    WorkloadResponse { payload: Some(Answer::Ack(WireAck { error })) }.encode_to_vec()
}

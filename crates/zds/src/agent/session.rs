//! One connected proxy.

use std::os::fd::AsFd;
use std::sync::Arc;

use prost::Message;
use proto::zds::workload_request::Payload;
use proto::zds::workload_response::Payload as Answer;
use proto::zds::{DelWorkload, KeepWorkload, SnapshotSent, Version, WorkloadRequest, WorkloadResponse, ZdsHello};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::state::{Ledger, Shared, Step};
use super::{Event, Gone, Options, Peer, Proceed};
use crate::Violation;
use crate::socket::{Failure, Packet, Socket};

/// Serves one proxy until one of the two is gone, and says why.
pub(super) async fn run(
    socket: Socket,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
    options: Options,
    events: mpsc::UnboundedSender<Event>,
) {
    let bell = shared.listen();
    let mut session = Session { socket, peer, shared, options, events, bell };
    let stop = stopped(session.bell.clone());
    let reason = tokio::select! {
        reason = session.serve() => reason,
        () = stop => Gone::Stopped,
    };
    session.shared.leave(session.peer.connection);
    session.tell(Event::Gone { peer: session.peer.clone(), reason });
}

/// Waits until the server is gone.
pub(super) async fn stopped(mut bell: watch::Receiver<bool>) {
    // An error means that the other side of the bell is gone, which is a stop too.
    drop(bell.wait_for(|stop| *stop).await);
}

struct Session {
    socket: Socket,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
    options: Options,
    events: mpsc::UnboundedSender<Event>,
    bell: watch::Receiver<bool>,
}

impl Session {
    async fn serve(&mut self) -> Gone {
        match self.stages().await {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    async fn stages(&mut self) -> Result<std::convert::Infallible, Gone> {
        self.hello().await?;
        let rank = self.proceed().await?;
        let connection = self.peer.connection;
        self.shared.join(rank, connection);
        let mut ledger = Ledger::new(connection, self.options.retry);
        loop {
            // Seen before the state is looked at, so that no change falls in between.
            self.bell.borrow_and_update();
            match ledger.step(&self.shared, Instant::now()) {
                Step::Wait(until) => self.idle(until).await?,
                Step::Add { uid, generation, message, netns } => {
                    ledger.telling(&uid, generation);
                    let answer = self.ask(&message, Some(&netns)).await?;
                    self.answered(&mut ledger, &uid, answer);
                }
                Step::Keep { uid, generation } => {
                    ledger.telling(&uid, generation);
                    let keep = Payload::Keep(KeepWorkload { uid: uid.to_string() });
                    let answer = self.ask(&encode(keep), None).await?;
                    self.answered(&mut ledger, &uid, answer);
                }
                Step::Del { uid } => {
                    let error =
                        self.ask(&encode(Payload::Del(DelWorkload { uid: uid.to_string() })), None).await?.err();
                    ledger.removed(&uid);
                    self.tell(Event::Removed { connection, uid, error });
                }
                Step::SnapshotSent => {
                    if let Err(text) = self.ask(&encode(Payload::SnapshotSent(SnapshotSent {})), None).await? {
                        tracing::warn!(connection, error = text, "the proxy did not take the end of the snapshot");
                    }
                    ledger.snapshot_acked();
                    self.tell(Event::SnapshotAcked { connection });
                }
            }
        }
    }

    async fn hello(&self) -> Result<(), Gone> {
        let packet = self.packet("hello").await?;
        bare("hello", &packet)?;
        let hello = ZdsHello::decode(&*packet.bytes).map_err(|e| Violation::Unreadable(e.to_string()))?;
        if hello.version == Version::V1 as i32 { Ok(()) } else { Err(Violation::Version(hello.version).into()) }
    }

    /// Waits until the caller is ready for this proxy; its rank.
    async fn proceed(&self) -> Result<u64, Gone> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Event::Connected { peer: self.peer.clone(), proceed: Proceed(sender) });
        tokio::select! {
            answer = receiver => match answer {
                Ok(Ok(rank)) => Ok(rank),
                Ok(Err(reason)) => Err(Gone::Refused(reason)),
                Err(_) => Err(Gone::Refused("nobody answered for the agent".to_owned())),
            },
            early = self.socket.receive() => Err(unasked(early)),
        }
    }

    /// Waits for something to do. A proxy says nothing unless asked, so whatever is readable is the end.
    async fn idle(&mut self, until: Option<Instant>) -> Result<(), Gone> {
        let timer = async {
            match until {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            early = self.socket.receive() => Err(unasked(early)),
            changed = self.bell.changed() => changed.map_err(|_| Gone::Stopped),
            () = timer => Ok(()),
        }
    }

    /// Sends one request and waits for its answer.
    async fn ask(&self, bytes: &[u8], netns: Option<&std::os::fd::OwnedFd>) -> Result<Result<(), String>, Gone> {
        let send = self.socket.send(bytes, netns.map(AsFd::as_fd));
        timeout(self.options.write_timeout, send).await.map_err(|_| Gone::TimedOut("room to write"))??;
        let packet = self.packet("acknowledgement").await?;
        bare("acknowledgement", &packet)?;
        let read = WorkloadResponse::decode(&*packet.bytes).map_err(|e| Violation::Unreadable(e.to_string()))?;
        match read.payload {
            Some(Answer::Ack(ack)) if ack.error.is_empty() => Ok(Ok(())),
            Some(Answer::Ack(ack)) => Ok(Err(ack.error)),
            None => Err(Violation::Empty("acknowledgement").into()),
        }
    }

    async fn packet(&self, what: &'static str) -> Result<Packet, Gone> {
        match timeout(self.options.ack_timeout, self.socket.receive()).await {
            Ok(packet) => packet.map_err(Gone::from),
            Err(_) => Err(Gone::TimedOut(what)),
        }
    }

    fn answered(&self, ledger: &mut Ledger, uid: &Arc<str>, answer: Result<(), String>) {
        let connection = self.peer.connection;
        match answer {
            Ok(()) => {
                ledger.accepted(uid);
                self.tell(Event::Acked { connection, uid: uid.clone() });
            }
            Err(error) => {
                let retry_in = ledger.rejected(uid, Instant::now());
                self.tell(Event::Nacked { connection, uid: uid.clone(), error, retry_in });
            }
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more when the caller has dropped the receiver; the proxies are served all the same.
        drop(self.events.send(event));
    }
}

impl From<Failure> for Gone {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed => Self::Closed,
            Failure::Io(e) => Self::System(e),
            Failure::Violation(v) => Self::Violation(v),
        }
    }
}

fn unasked(received: Result<Packet, Failure>) -> Gone {
    match received {
        Ok(_) => Violation::Order("the proxy spoke without having been asked").into(),
        Err(failure) => failure.into(),
    }
}

/// No message of a proxy carries file descriptors.
fn bare(message: &'static str, packet: &Packet) -> Result<(), Violation> {
    match packet.descriptors.len() {
        0 => Ok(()),
        count => Err(Violation::Descriptors { message, count, expected: 0 }),
    }
}

fn encode(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

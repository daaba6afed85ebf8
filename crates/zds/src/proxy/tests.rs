use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use proto::zds::{DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo as WireInfo};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::time::timeout;

use super::*;
use crate::agent::{self, Options, Server};
use crate::socket;

/// Longer than any run of these tests should need; reached only when an event never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A scripted agent.
struct Agent {
    folder: TempDir,
    listener: UnixListener,
}

impl Agent {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fd = socket::unbound().unwrap();
        rustix::net::bind(&fd, &rustix::net::SocketAddrUnix::new(folder.path().join("z")).unwrap()).unwrap();
        rustix::net::listen(&fd, 4).unwrap();
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(fd)).unwrap();
        Self { folder, listener }
    }

    fn client(&self) -> Client {
        Client::new(&self.folder.path().join("z"))
    }

    /// Both ends of a connection after hello.
    async fn pair(&self, client: &mut Client) -> Link {
        // A connection that ended with its first request does not shorten the wait; these tests have no time for that.
        client.state = State::Away(Instant::now());
        assert!(matches!(next(client).await, Event::Connected));
        let link = Link(Socket::new(timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap().0));
        let hello = ZdsHello::decode(&*link.0.receive().await.unwrap().bytes).unwrap();
        assert_eq!(hello.version, Version::V1 as i32);
        link
    }
}

struct Link(Socket);

impl Link {
    async fn send(&self, payload: Payload, descriptor: Option<BorrowedFd<'_>>) {
        self.0.send(&WorkloadRequest { payload: Some(payload) }.encode_to_vec(), descriptor).await.unwrap();
    }

    async fn answer(&self) -> String {
        let packet = timeout(PATIENCE, self.0.receive()).await.unwrap().unwrap();
        let Some(Answer::Ack(ack)) = WorkloadResponse::decode(&*packet.bytes).unwrap().payload else {
            panic!("an ack")
        };
        ack.error
    }
}

async fn next(client: &mut Client) -> Event {
    timeout(PATIENCE, client.next()).await.expect("an event")
}

async fn violation(client: &mut Client) -> Violation {
    match next(client).await {
        Event::Disconnected(Disconnected::Violation(v)) => v,
        other => panic!("{other:?}"),
    }
}

fn netns() -> File {
    File::open("/proc/self/ns/net").unwrap()
}

fn add(uid: &str) -> Payload {
    let info = WireInfo { name: "web".into(), namespace: "shop".into(), service_account: "sa".into() };
    Payload::Add(AddWorkload { uid: uid.into(), workload_info: Some(info) })
}

fn keep(uid: &str) -> Payload {
    Payload::Keep(KeepWorkload { uid: uid.into() })
}

/// Both ends here are ours: only the bytes themselves tell whether Istio's ends read them.
#[test]
fn the_bytes_are_those_of_istios_programs() {
    let request = |payload| WorkloadRequest { payload: Some(payload) }.encode_to_vec();
    let answer =
        |error: &str| WorkloadResponse { payload: Some(Answer::Ack(WireAck { error: error.into() })) }.encode_to_vec();
    for (made, bytes) in [
        (ZdsHello { version: Version::V1 as i32 }.encode_to_vec(), &b"\x08\x01"[..]),
        (request(add("u1")), b"\x0a\x15\x0a\x02u1\x12\x0f\x0a\x03web\x12\x04shop\x1a\x02sa"),
        (request(keep("u1")), b"\x2a\x04\x0a\x02u1"),
        (request(Payload::Del(DelWorkload { uid: "u1".into() })), b"\x12\x04\x12\x02u1"),
        (request(Payload::SnapshotSent(SnapshotSent {})), b"\x1a\x00"),
        (answer(""), b"\x0a\x00"),
        (answer("e"), b"\x0a\x03\x0a\x01e"),
    ] {
        assert_eq!(made, bytes);
    }
}

#[tokio::test]
async fn requests_come_one_by_one_and_each_is_answered() {
    let agent = Agent::new();
    let mut client = agent.client();
    let link = agent.pair(&mut client).await;

    link.send(add("u1"), Some(netns().as_fd())).await;
    let Event::Add { uid, info, netns: ns, ack } = next(&mut client).await else { panic!("add") };
    assert_eq!((&*uid, &*info.name), ("u1", "web"));
    assert_eq!(info.identity("td").unwrap().to_string(), "spiffe://td/ns/shop/sa/sa");
    assert_eq!(File::from(ns).metadata().unwrap().ino(), netns().metadata().unwrap().ino());
    ack.ok();
    let (answer, event) = tokio::join!(
        async {
            let answer = link.answer().await;
            link.send(keep("u2"), None).await;
            answer
        },
        next(&mut client)
    );
    assert_eq!(answer, "");
    let Event::Keep { uid, ack } = event else { panic!("keep: {event:?}") };
    assert_eq!(&*uid, "u2");
    ack.failed("é".repeat(2000));
    let (answer, event) = tokio::join!(
        async {
            let answer = link.answer().await;
            link.send(Payload::SnapshotSent(SnapshotSent {}), None).await;
            answer
        },
        next(&mut client)
    );
    assert_eq!(answer, "é".repeat((MAX_PACKET - 6) / 2), "cut to fit a packet, between characters");
    let Event::SnapshotSent { ack } = event else { panic!("snapshot: {event:?}") };
    // Forgotten, not answered.
    drop(ack);
    let (answer, event) = tokio::join!(
        async {
            let answer = link.answer().await;
            link.send(Payload::Del(DelWorkload { uid: "u1".into() }), None).await;
            answer
        },
        next(&mut client)
    );
    assert_eq!(answer, "the proxy gave no answer");
    let Event::Del { uid, ack } = event else { panic!("del: {event:?}") };
    assert_eq!(&*uid, "u1");
    ack.ok();
    let (answer, event) = tokio::join!(
        async {
            let answer = link.answer().await;
            drop(link);
            answer
        },
        next(&mut client)
    );
    assert_eq!(answer, "");
    assert!(matches!(event, Event::Disconnected(Disconnected::Closed)), "{event:?}");
}

#[tokio::test]
async fn an_answer_may_take_its_time_and_the_call_may_be_dropped() {
    let agent = Agent::new();
    let mut client = agent.client();
    let link = agent.pair(&mut client).await;
    link.send(add("u1"), Some(netns().as_fd())).await;
    let Event::Add { ack, .. } = next(&mut client).await else { panic!("add") };
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(5), client.next()).await.is_err(), "nothing to tell yet");
    }
    ack.ok();
    assert!(timeout(Duration::from_millis(50), client.next()).await.is_err());
    assert_eq!(link.answer().await, "");
}

#[tokio::test]
async fn what_breaks_the_rules_ends_the_connection_and_the_next_one_starts_anew() {
    let agent = Agent::new();
    let mut client = agent.client();
    let ns = netns();
    let no_info = Payload::Add(AddWorkload { uid: "u".into(), workload_info: None });
    for (payload, descriptor) in [
        (add("u"), None),
        (keep("u"), Some(ns.as_fd())),
        (Payload::Del(DelWorkload { uid: "u".into() }), Some(ns.as_fd())),
        (Payload::SnapshotSent(SnapshotSent {}), Some(ns.as_fd())),
    ] {
        let link = agent.pair(&mut client).await;
        link.send(payload, descriptor).await;
        assert!(matches!(violation(&mut client).await, Violation::Descriptors { .. }));
    }
    for payload in [no_info, add(""), add("a b"), add(&"u".repeat(crate::MAX_UID + 1))] {
        let link = agent.pair(&mut client).await;
        link.send(payload, Some(ns.as_fd())).await;
        assert!(matches!(violation(&mut client).await, Violation::Field { .. }));
    }
    let link = agent.pair(&mut client).await;
    link.0.send(&[0x48, 1], None).await.unwrap();
    assert_eq!(violation(&mut client).await, Violation::Empty("request"));
    let link = agent.pair(&mut client).await;
    link.0.send(&[0xff], None).await.unwrap();
    assert!(matches!(violation(&mut client).await, Violation::Unreadable(_)));
    let link = agent.pair(&mut client).await;
    link.0.send(&[0; MAX_PACKET + 1], None).await.unwrap();
    assert_eq!(violation(&mut client).await, Violation::Truncated);
}

#[tokio::test]
async fn requests_at_the_wrong_time_end_the_connection() {
    let agent = Agent::new();
    let mut client = agent.client();
    for second in [keep("u"), Payload::SnapshotSent(SnapshotSent {})] {
        let link = agent.pair(&mut client).await;
        link.send(Payload::SnapshotSent(SnapshotSent {}), None).await;
        let Event::SnapshotSent { ack } = next(&mut client).await else { panic!("snapshot") };
        ack.ok();
        link.send(second, None).await;
        // The answer goes out first, so it may be that both are there at once.
        assert!(matches!(violation(&mut client).await, Violation::Order(_)));
    }
    let link = agent.pair(&mut client).await;
    link.send(keep("a"), None).await;
    let Event::Keep { ack, .. } = next(&mut client).await else { panic!("keep") };
    link.send(keep("b"), None).await;
    assert!(matches!(violation(&mut client).await, Violation::Order(_)), "two outstanding");
    ack.ok();
}

#[tokio::test]
async fn an_absent_agent_is_tried_again_with_growing_waits() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::new(&folder.path().join("z"));
    let start = Instant::now();
    for _ in 0..4 {
        assert!(matches!(next(&mut client).await, Event::Disconnected(Disconnected::System(_))));
    }
    // 10 + 20 + 40 ms lie between four attempts.
    assert!(start.elapsed() >= Duration::from_millis(70), "{:?}", start.elapsed());
    assert_eq!(client.wait, Duration::from_millis(160));
    client.wait = BACKOFF.1;
    client.state = State::Away(Instant::now());
    next(&mut client).await;
    assert_eq!(client.wait, BACKOFF.1, "no longer than the longest");
}

#[tokio::test]
async fn both_ends_work_together_across_a_restart_of_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("z.sock");
    let mut client = Client::new(&path);
    let options = || Options { accept_interval: Duration::from_millis(1), ..Options::new(|_| Ok(())) };
    let info = WorkloadInfo { name: "web".into(), namespace: "shop".into(), service_account: "sa".into() };
    for round in 0..2 {
        let (server, mut events) = Server::bind(&path, options()).unwrap();
        for i in 0..20 {
            server.add(&format!("u{i}"), &info, Arc::new(netns().into())).unwrap();
        }
        let agent = async {
            loop {
                match events.recv().await.unwrap() {
                    agent::Event::Connected { proceed, .. } => proceed.go(0),
                    agent::Event::SnapshotAcked { .. } => break,
                    agent::Event::Acked { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let proxy = async {
            let mut uids = Vec::new();
            loop {
                match client.next().await {
                    Event::Add { uid, ack, .. } => {
                        uids.push(uid);
                        ack.ok();
                    }
                    Event::SnapshotSent { ack } => {
                        ack.ok();
                        // Keep going until the answer is out: the agent then has nothing more to say.
                        if timeout(Duration::from_millis(100), client.next()).await.is_err() {
                            break uids;
                        }
                    }
                    Event::Connected | Event::Disconnected(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let ((), uids) = timeout(PATIENCE, async { tokio::join!(agent, proxy) }).await.unwrap();
        assert_eq!(uids.len(), 20, "round {round}");
    }
}

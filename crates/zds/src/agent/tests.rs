use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use prost::Message;
use proto::zds::workload_request::Payload;
use proto::zds::workload_response::Payload as Answer;
use proto::zds::{Ack, Version, WorkloadRequest, WorkloadResponse, ZdsHello};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::*;
use crate::Violation;
use crate::socket::{Failure, Packet, Socket};

/// Longer than any run of these tests should need; reached only when an event never comes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Agent {
    folder: TempDir,
    server: Option<Server>,
    events: UnboundedReceiver<Event>,
}

impl Agent {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, events) = Server::bind(&folder.path().join("z.sock"), options).unwrap();
        Self { folder, server: Some(server), events }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("z.sock")
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("a living agent")
    }

    async fn gone(&mut self) -> Gone {
        loop {
            if let Event::Gone { reason, .. } = self.event().await {
                return reason;
            }
        }
    }

    /// A proxy that has said hello and may get pods.
    async fn proxy(&mut self) -> Proxy {
        let proxy = Proxy::connect(&self.path()).await;
        loop {
            if let Event::Connected { proceed, .. } = self.event().await {
                proceed.go(0);
                return proxy;
            }
        }
    }
}

fn options() -> Options {
    Options { accept_interval: Duration::from_millis(1), ..Options::new(|_| Ok(())) }
}

fn info(name: &str) -> WorkloadInfo {
    WorkloadInfo { name: name.into(), namespace: "shop".into(), service_account: "web".into() }
}

fn netns() -> Arc<OwnedFd> {
    Arc::new(File::open("/proc/self/ns/net").unwrap().into())
}

struct Proxy(Socket);

impl Proxy {
    async fn connect(path: &Path) -> Self {
        let proxy = Self(Socket::connect(path).unwrap());
        proxy.0.send(&ZdsHello { version: Version::V1 as i32 }.encode_to_vec(), None).await.unwrap();
        proxy
    }

    async fn packet(&self) -> Result<Packet, Failure> {
        timeout(PATIENCE, self.0.receive()).await.expect("a packet")
    }

    async fn request(&self) -> (Payload, Vec<OwnedFd>) {
        let packet = self.packet().await.unwrap();
        (WorkloadRequest::decode(&*packet.bytes).unwrap().payload.unwrap(), packet.descriptors)
    }

    async fn answer(&self, error: &str) {
        let ack = WorkloadResponse { payload: Some(Answer::Ack(Ack { error: error.into() })) };
        self.0.send(&ack.encode_to_vec(), None).await.unwrap();
    }

    /// Takes one request as text, acknowledged.
    async fn take(&self) -> String {
        self.take_with("").await
    }

    async fn take_with(&self, error: &str) -> String {
        let (payload, descriptors) = self.request().await;
        let text = match payload {
            Payload::Add(a) => {
                let ns = File::from(descriptors.into_iter().next().expect("a network namespace"));
                assert_eq!(
                    ns.metadata().unwrap().ino(),
                    File::open("/proc/self/ns/net").unwrap().metadata().unwrap().ino()
                );
                format!("add {} {}", a.uid, a.workload_info.unwrap().name)
            }
            other => {
                assert!(descriptors.is_empty(), "only add carries a descriptor");
                match other {
                    Payload::Del(d) => format!("del {}", d.uid),
                    Payload::Keep(k) => format!("keep {}", k.uid),
                    _ => "snapshot".to_owned(),
                }
            }
        };
        self.answer(error).await;
        text
    }
}

#[tokio::test]
async fn a_proxy_gets_all_pods_then_the_end_of_the_snapshot_then_changes() {
    let mut agent = Agent::new();
    agent.server().add("u1", &info("a"), netns()).unwrap();
    agent.server().keep("u2").unwrap();
    let proxy = agent.proxy().await;
    assert_eq!(proxy.take().await, "add u1 a");
    assert_eq!(proxy.take().await, "keep u2");
    assert_eq!(proxy.take().await, "snapshot");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(agent.event().await);
    }
    assert!(matches!(&seen[0], Event::Acked { uid, connection: 1 } if &**uid == "u1"), "{seen:?}");
    assert!(matches!(&seen[2], Event::SnapshotAcked { connection: 1 }), "{seen:?}");
    agent.server().add("u3", &info("c"), netns()).unwrap();
    assert_eq!(proxy.take().await, "add u3 c");
    // A keep after the snapshot would be against the rules: nothing is sent until the namespace is there.
    agent.server().keep("u4").unwrap();
    assert!(agent.server().remove("u1"));
    assert!(!agent.server().remove("never"));
    assert_eq!(proxy.take().await, "del u1");
    agent.server().add("u4", &info("d"), netns()).unwrap();
    assert_eq!(proxy.take().await, "add u4 d");
    // The same uid in a new sandbox.
    agent.server().add("u4", &info("d"), netns()).unwrap();
    assert_eq!(proxy.take().await, "add u4 d");
}

#[tokio::test]
async fn no_pod_is_sent_before_the_caller_says_so_and_the_peer_is_who_the_kernel_says() {
    let mut agent = Agent::new();
    agent.server().add("u1", &info("a"), netns()).unwrap();
    let proxy = Proxy::connect(&agent.path()).await;
    let Event::Connected { peer, proceed } = agent.event().await else { panic!("connected") };
    assert_eq!(peer.pid, Some(std::process::id()));
    assert_eq!(peer.uid, std::fs::metadata("/proc/self").unwrap().uid());
    assert!(agent.server().connections().is_empty());
    assert!(timeout(Duration::from_millis(50), proxy.0.receive()).await.is_err(), "silence");
    proceed.go(0);
    assert_eq!(proxy.take().await, "add u1 a");
    assert_eq!(agent.server().connections(), [1]);
}

#[tokio::test]
async fn a_peer_that_the_caller_does_not_want_is_cut_off() {
    let me = std::process::id();
    let strict = Options::new(move |peer| if peer.pid == Some(me) { Err(format!("not {me}")) } else { Ok(()) });
    let mut agent = Agent::with(strict);
    let proxy = Proxy(Socket::connect(&agent.path()).unwrap());
    assert!(matches!(proxy.packet().await, Err(Failure::Closed)));
    assert!(matches!(agent.gone().await, Gone::Refused(text) if text == format!("not {me}")));

    let mut agent = Agent::new();
    let proxy = Proxy::connect(&agent.path()).await;
    let Event::Connected { proceed, .. } = agent.event().await else { panic!("connected") };
    proceed.refuse("no cgroup");
    assert!(matches!(proxy.packet().await, Err(Failure::Closed)));
    assert!(matches!(agent.gone().await, Gone::Refused(text) if text == "no cgroup"));
}

#[tokio::test]
async fn of_two_proxies_the_newest_gets_adds_and_both_get_removals() {
    let mut agent = Agent::new();
    agent.server().add("u1", &info("a"), netns()).unwrap();
    let old = agent.proxy().await;
    assert_eq!(old.take().await, "add u1 a");
    assert_eq!(old.take().await, "snapshot");
    let new = agent.proxy().await;
    assert_eq!(new.take().await, "add u1 a");
    assert_eq!(new.take().await, "snapshot");
    agent.server().add("u2", &info("b"), netns()).unwrap();
    assert_eq!(new.take().await, "add u2 b");
    agent.server().remove("u1");
    assert_eq!(old.take().await, "del u1", "u2 was not sent to the old one");
    assert_eq!(new.take().await, "del u1");
    // The new one dies: the old one has the node again and learns what it lacks.
    drop(new);
    assert_eq!(old.take().await, "add u2 b");
}

#[tokio::test]
async fn a_pod_that_the_proxy_could_not_take_is_sent_again_until_it_can() {
    let mut agent = Agent::new();
    agent.server().add("u1", &info("a"), netns()).unwrap();
    let proxy = agent.proxy().await;
    assert_eq!(proxy.take_with("port in use").await, "add u1 a");
    // The snapshot is not held up by it.
    assert_eq!(proxy.take().await, "snapshot");
    for _ in 0..3 {
        assert_eq!(proxy.take_with("still").await, "add u1 a");
    }
    assert_eq!(proxy.take().await, "add u1 a");
    let mut waits = Vec::new();
    loop {
        match agent.event().await {
            Event::Nacked { retry_in, uid, .. } => {
                assert_eq!(&*uid, "u1");
                waits.push(retry_in.as_millis());
            }
            Event::Acked { .. } => break,
            Event::SnapshotAcked { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, [5, 10, 20, 40]);
    // It was refused at first but told, so its end is told as well.
    agent.server().remove("u1");
    assert_eq!(proxy.take().await, "del u1");
}

#[tokio::test]
async fn a_reconnecting_proxy_gets_a_new_snapshot() {
    let mut agent = Agent::new();
    agent.server().add("u1", &info("a"), netns()).unwrap();
    agent.server().add("u2", &info("b"), netns()).unwrap();
    let proxy = agent.proxy().await;
    for text in ["add u1 a", "add u2 b", "snapshot"] {
        assert_eq!(proxy.take().await, text);
    }
    drop(proxy);
    assert!(matches!(agent.gone().await, Gone::Closed));
    agent.server().remove("u1");
    let proxy = agent.proxy().await;
    for text in ["add u2 b", "snapshot"] {
        assert_eq!(proxy.take().await, text);
    }
}

#[tokio::test]
async fn a_proxy_that_breaks_the_rules_is_cut_off() {
    let mut agent = Agent::new();
    // Another version.
    let proxy = Proxy(Socket::connect(&agent.path()).unwrap());
    proxy.0.send(&[8, 7], None).await.unwrap();
    assert!(matches!(agent.gone().await, Gone::Violation(Violation::Version(7))));
    // Not a message.
    let proxy = Proxy(Socket::connect(&agent.path()).unwrap());
    proxy.0.send(&[0xff, 0xff], None).await.unwrap();
    assert!(matches!(agent.gone().await, Gone::Violation(Violation::Unreadable(_))));
    // A descriptor with the hello.
    let proxy = Proxy(Socket::connect(&agent.path()).unwrap());
    proxy.0.send(&[8, 1], Some(netns().as_fd())).await.unwrap();
    assert!(matches!(agent.gone().await, Gone::Violation(Violation::Descriptors { count: 1, expected: 0, .. })));
    // A packet that does not fit.
    let proxy = Proxy(Socket::connect(&agent.path()).unwrap());
    proxy.0.send(&[0; MAX + 1], None).await.unwrap();
    assert!(matches!(agent.gone().await, Gone::Violation(Violation::Truncated)));
    // Something said without having been asked.
    let proxy = agent.proxy().await;
    assert_eq!(proxy.take().await, "snapshot");
    proxy.answer("").await;
    assert!(matches!(agent.gone().await, Gone::Violation(Violation::Order(_))));
    // An answer without content.
    agent.server().add("u1", &info("a"), netns()).unwrap();
    let proxy = agent.proxy().await;
    proxy.request().await;
    // Field 9, unknown: a response with bytes and no payload.
    proxy.0.send(&[0x48, 1], None).await.unwrap();
    assert!(matches!(agent.gone().await, Gone::Violation(Violation::Empty(_))));
}

const MAX: usize = crate::MAX_PACKET;

#[tokio::test]
async fn a_proxy_that_does_not_answer_is_dropped_and_others_are_served() {
    let short = Options { ack_timeout: Duration::from_millis(100), ..options() };
    let mut agent = Agent::with(short);
    agent.server().add("u1", &info("a"), netns()).unwrap();
    let silent = Proxy(Socket::connect(&agent.path()).unwrap());
    assert!(matches!(agent.gone().await, Gone::TimedOut("hello")));
    drop(silent);
    let stuck = agent.proxy().await;
    stuck.request().await;
    let good = agent.proxy().await;
    assert_eq!(good.take().await, "add u1 a");
    assert_eq!(good.take().await, "snapshot");
    assert!(matches!(agent.gone().await, Gone::TimedOut("acknowledgement")));
    assert_eq!(agent.server().connections(), [3]);
}

#[tokio::test]
async fn too_many_descriptors_are_seen_and_none_is_leaked() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut agent = Agent::new();
    let ns = netns();
    // The first connection makes whatever the runtime makes once.
    drop(agent.proxy().await);
    agent.gone().await;
    // Other tests of this process open and close files too: wait for the number to come back.
    let before = count();
    for _ in 0..50 {
        let proxy = Socket::connect(&agent.path()).unwrap();
        // More than there is room for: the kernel cuts off.
        let descriptors = [ns.as_fd(); 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let sent =
            rustix::net::sendmsg(proxy.stream().as_fd(), &[IoSlice::new(&[8, 1])], &mut control, SendFlags::empty());
        assert_eq!(sent, Ok(2));
        assert!(matches!(agent.gone().await, Gone::Violation(Violation::Truncated)));
        agent.server().add("u", &info("a"), netns()).unwrap();
        agent.server().remove("u");
    }
    // 50 rounds with one leaked descriptor each would leave at least 50 more.
    assert!(count() < before + 40, "{before} before, {} after", count());
}

#[tokio::test]
async fn pods_that_do_not_fit_the_wire_are_refused() {
    let agent = Agent::new();
    let server = agent.server();
    let refused = |uid: &str| matches!(server.add(uid, &info("a"), netns()), Err(PodError::Uid(_)));
    assert!(refused("") && refused("a b") && refused(&"x".repeat(crate::MAX_UID + 1)));
    assert!(matches!(server.keep("\n"), Err(PodError::Uid(_))));
    let long = info(&"n".repeat(MAX));
    assert!(matches!(server.add("u", &long, netns()), Err(PodError::TooLong { size, .. }) if size > MAX));
}

#[tokio::test]
async fn the_socket_file_has_its_mode_and_its_owner() {
    let agent = Agent::new();
    assert_eq!(std::fs::metadata(agent.path()).unwrap().permissions().mode() & 0o777, 0o600);
    // A living agent keeps its place.
    let second = Server::bind(&agent.path(), options());
    assert!(matches!(second, Err(BindError::InUse(_))), "{second:?}");
    // Something else is left alone.
    let file = agent.folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Server::bind(&file, options()), Err(BindError::NotASocket(_))));
    assert!(matches!(Server::bind(&agent.folder.path().join("n".repeat(120)), options()), Err(BindError::TooLong(_))));
}

#[tokio::test]
async fn a_dead_agents_file_is_replaced_and_ones_own_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("z.sock");
    // What a killed agent leaves behind: the file of a socket that nobody holds any more.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (server, events) = Server::bind(&path, options()).unwrap();
    let mut agent = Agent { folder, server: Some(server), events };
    let proxy = agent.proxy().await;
    assert_eq!(proxy.take().await, "snapshot");
    agent.server = None;
    assert!(!path.exists());
    assert!(matches!(proxy.packet().await, Err(Failure::Closed)));
    assert!(matches!(agent.gone().await, Gone::Stopped));
}

#[tokio::test]
async fn proxies_at_two_sockets_are_one_succession() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("old.sock"), folder.path().join("new.sock")];
    let (server, mut events) = Server::bind_all(&paths, options()).unwrap();
    let mut proxies = Vec::new();
    for (number, path) in (1..).zip(&paths) {
        let proxy = Proxy::connect(path).await;
        loop {
            if let Event::Connected { peer, proceed } = timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
                assert_eq!(peer.connection, number);
                proceed.go(0);
                break;
            }
        }
        assert_eq!(proxy.take().await, "snapshot");
        proxies.push(proxy);
    }
    server.add("u1", &info("a"), netns()).unwrap();
    assert_eq!(proxies[1].take().await, "add u1 a");
    let quiet = timeout(Duration::from_millis(50), proxies[0].0.receive()).await;
    assert!(quiet.is_err(), "the older proxy was told too");
    drop(server);
    assert!(paths.iter().all(|path| !path.exists()), "socket files are left");
}

#[tokio::test]
async fn an_older_proxy_that_comes_back_later_gets_no_new_pods() {
    let mut agent = Agent::new();
    let mut proxies = Vec::new();
    for rank in [8, 7] {
        let proxy = Proxy::connect(&agent.path()).await;
        loop {
            if let Event::Connected { proceed, .. } = agent.event().await {
                proceed.go(rank);
                break;
            }
        }
        assert_eq!(proxy.take().await, "snapshot");
        proxies.push(proxy);
    }
    agent.server().add("u1", &info("a"), netns()).unwrap();
    assert_eq!(proxies[0].take().await, "add u1 a");
    let quiet = timeout(Duration::from_millis(50), proxies[1].0.receive()).await;
    assert!(quiet.is_err(), "the older proxy was told too");
    // It is what is left when the younger one goes.
    drop(proxies.remove(0));
    assert_eq!(proxies[0].take().await, "add u1 a");
}

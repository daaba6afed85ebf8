//! Two namespaces: a pod whose look-ups are handed over, and a name server.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use chassis::Drain;
use identity::{Manager, SignError, Signer, Signing};
use mesh::{Identity, NetworkAddress, Service, Workload};
use net::netns::NetNs;
use telemetry::Telemetry;
use xds::Change;

use crate::budget::{Budget, Limits};
use crate::config::Config;
use crate::dns::Names;
use crate::here::{self, Here};
use crate::pod::{Pod, PodInfo};

pub(super) const SOON: Duration = Duration::from_secs(5);
pub(super) const POD: &str = "10.9.8.2";
const POD6: &str = "fd00:9:8::2";
pub(super) const SERVER: &str = "10.9.8.1:53";
pub(super) const SERVER6: &str = "[fd00:9:8::1]:53";

/// A pod's namespace and a server's, joined by a veth; both end with it.
pub(super) struct Lab {
    pub(super) pod: String,
    pub(super) server: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.pod, &self.server] {
            run(&format!("ip netns del {name}"));
        }
    }
}

fn run(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output();
    match done {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("{line}: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            eprintln!("{line}: {error}");
            false
        }
    }
}

fn must(line: &str) {
    assert!(run(line), "{line}");
}

impl Lab {
    pub(super) fn up() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if !is_root || !run("nft --version") {
            eprintln!("SKIPPED: needs root and nft");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |role: &str| format!("zdns-{}-{number}-{role}", std::process::id());
        let lab = Self { pod: name("pod"), server: name("server") };
        must(&format!("ip netns add {}", lab.pod));
        must(&format!("ip netns add {}", lab.server));
        must(&format!("ip -n {} link add eth0 type veth peer name eth0 netns {}", lab.pod, lab.server));
        for (netns, last) in [(&lab.pod, 2), (&lab.server, 1)] {
            must(&format!("ip -n {netns} link set lo up"));
            must(&format!("ip -n {netns} addr add 10.9.8.{last}/24 dev eth0"));
            must(&format!("ip -n {netns} addr add fd00:9:8::{last}/64 dev eth0 nodad"));
            must(&format!("ip -n {netns} link set eth0 up"));
        }
        // Only what the pod itself sends: without `iif lo` the kernel's check of the way back (fib_validate_source) would
        // take the same rule for a server's answer, find a local route, and drop the answer as a martian.
        for version in ["-4", "-6"] {
            let ip = format!("ip -n {} {version}", lab.pod);
            for protocol in ["udp", "tcp"] {
                must(&format!(
                    "{ip} rule add pref 100 iif lo fwmark 0x539/0xfff ipproto {protocol} dport 53 lookup main"
                ));
                must(&format!("{ip} rule add pref 101 iif lo ipproto {protocol} dport 53 lookup 100"));
            }
            let (all, own) = if version == "-4" { ("0.0.0.0/0", POD) } else { ("::/0", POD6) };
            must(&format!("{ip} route add local {all} dev lo src {own} table 100"));
        }
        let rules = "add table inet t; add chain inet t pre { type filter hook prerouting priority -150; };
            add rule inet t pre iif lo udp sport 53 accept;
            add rule inet t pre iif lo meta nfproto ipv4 udp dport 53 tproxy ip to :15053 accept;
            add rule inet t pre iif lo meta nfproto ipv6 udp dport 53 tproxy ip6 to :15053 accept;
            add rule inet t pre iif lo meta nfproto ipv4 tcp dport 53 tproxy ip to :15001 accept";
        let steered = Command::new("ip").args(["netns", "exec", &lab.pod, "nft", rules]).status();
        if !steered.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: the kernel has no nft tproxy");
            return None;
        }
        Some(lab)
    }

    pub(super) fn inside<T>(name: &str, make: impl FnOnce() -> T) -> T {
        NetNs::open(format!("/run/netns/{name}")).unwrap().run(make).unwrap()
    }

    /// A resolver's socket, connected to a server.
    pub(super) fn app(&self, server: &str) -> UdpSocket {
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = Self::inside(&self.pod, || UdpSocket::bind(any).unwrap());
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    /// A name server that answers every query by `reply`, over UDP, until a query for `stop` comes.
    pub(super) fn udp_server(
        &self,
        at: &'static str,
        reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> JoinHandle<Vec<SocketAddr>> {
        let socket = Self::inside(&self.server, || UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(SOON)).unwrap();
        std::thread::spawn(move || {
            let (mut buffer, mut clients) = ([0; 4096], Vec::new());
            loop {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                clients.push(from);
                let query = &buffer[..len];
                for answer in reply(query) {
                    socket.send_to(&answer, from).unwrap();
                }
                if query.windows(4).any(|w| w == b"stop") {
                    return clients;
                }
            }
        })
    }

    pub(super) fn here(&self, limits: Limits) -> Rc<Here> {
        let config = "node: n1\nlocalText: ''\nca: {address: 'https://c:1', rootFile: /r, tokenFile: /t}\n";
        let config: Config = document::parse("test.yaml", config).unwrap();
        let telemetry = Telemetry::new(telemetry::Config::default());
        let names = Names::new(&config, &telemetry).unwrap().map(Arc::new);
        let shared = Arc::new(here::Shared {
            pods: Arc::default(),
            world: Arc::default(),
            identities: Manager::new(identity::Config::default(), Arc::new(NoSigner)),
            telemetry,
            drain: Drain::new().signal(),
            names,
            config,
        });
        shared.world.apply(world());
        let info = PodInfo { name: "web".into(), namespace: "shop".into(), service_account: "web".into() };
        let netns = NetNs::open(format!("/run/netns/{}", self.pod)).unwrap();
        let pod = Arc::new(Pod::new("uid-web".into(), info, netns, Budget::new(limits)));
        Rc::new(Here::new(shared, Rc::default(), pod))
    }
}

struct NoSigner;

impl Signer for NoSigner {
    fn sign<'a>(&'a self, _: &'a Identity, _: &'a str, _: Duration) -> Signing<'a> {
        Box::pin(async { Err(SignError::Local("not in this test".to_owned())) })
    }
}

fn world() -> Change {
    let service = |host: &str, vips: &[&str]| Service {
        name: "x".into(),
        namespace: "shop".into(),
        hostname: host.into(),
        vips: vips.iter().map(|vip| NetworkAddress::new("", vip.parse().unwrap())).collect(),
        ..Service::default()
    };
    let mut endpoint = Workload {
        uid: "Kubernetes//Pod/shop/db-0".into(),
        name: "db-0".into(),
        namespace: "shop".into(),
        addresses: vec!["10.244.0.9".parse().unwrap()],
        ..Workload::default()
    };
    endpoint.services.insert("shop/db.shop.svc.cluster.local".into(), Default::default());
    Change {
        services: vec![
            service("cart.shop.svc.cluster.local", &["10.96.0.7", "fd00:96::7"]),
            service("db.shop.svc.cluster.local", &[]),
            service("api.example.com", &["240.240.0.1"]),
        ],
        workloads: vec![
            endpoint,
            Workload {
                uid: "Kubernetes//Pod/shop/web".into(),
                name: "web".into(),
                namespace: "shop".into(),
                service_account: "web".into(),
                ..Workload::default()
            },
        ],
        ..Change::default()
    }
}

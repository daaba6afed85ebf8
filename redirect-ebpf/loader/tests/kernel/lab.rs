//! Namespaces: pod — node — peer, IPv4 and IPv6, with the redirector loaded at the cgroup of this test process.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redirect_loader::{Counters, HostLink, Link, LoadConfig, PodSpec, Reason, Redirector};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::actor::{Proxy, canonical};

pub const POD4: &str = "10.77.0.2";
pub const POD6: &str = "fd77::2";
pub const NODE4: &str = "10.77.0.1";
pub const NODE6: &str = "fd77::1";
pub const PEER4: &str = "10.78.0.2";
pub const PEER6: &str = "fd78::2";

pub const NODE_MAC: &str = "02:00:00:00:00:01";
pub const POD_MAC: &str = "02:00:00:00:00:02";

/// Longest wait for something that happens at once on a healthy machine.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// What "refused at once" means; a lost SYN would be sent again after 1 s.
pub const AT_ONCE: Duration = Duration::from_millis(500);

/// Labs that are made now use clsact filters instead of tcx links.
pub static CLSACT: AtomicBool = AtomicBool::new(false);

const CGROUP2: &str = "/sys/fs/cgroup/unified";

/// The cgroup of this test process; the process goes back where it came from at the end.
pub struct OwnCgroup {
    root: PathBuf,
    before: PathBuf,
}

impl OwnCgroup {
    pub fn enter() -> Self {
        let root = cgroup_root();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let before = mount_point().join(own.trim_start_matches('/'));
        std::fs::create_dir_all(root.join("app")).unwrap();
        std::fs::write(root.join("app/cgroup.procs"), std::process::id().to_string()).unwrap();
        Self { root, before }
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let moved = std::fs::write(self.before.join("cgroup.procs"), std::process::id().to_string());
        let removed = std::fs::remove_dir(self.root.join("app")).and_then(|()| std::fs::remove_dir(&self.root));
        if let Err(error) = moved.and(removed) {
            eprintln!("cgroup {} was not removed: {error}", self.root.display());
        }
    }
}

pub fn mount_point() -> PathBuf {
    let hybrid = Path::new(CGROUP2);
    if hybrid.exists() { hybrid.into() } else { "/sys/fs/cgroup".into() }
}

fn cgroup_root() -> PathBuf {
    mount_point().join(format!("culvert-test-{}", std::process::id()))
}

pub struct Lab {
    name: String,
    /// `None` while a test plays a dead agent.
    pub redirector: Option<Redirector>,
    pub config: LoadConfig,
    /// Whether `enroll` switches DNS on.
    pub dns: bool,
    bpffs: tempfile::TempDir,
    cgroups: Vec<PathBuf>,
}

impl Lab {
    /// Namespaces, links and a loaded redirector; nothing enrolled.
    pub fn new() -> Self {
        let mut lab = Self::unloaded();
        lab.load();
        lab
    }

    /// The same without a redirector.
    pub fn unloaded() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("cv{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let bpffs = tempfile::tempdir().unwrap();
        let config = LoadConfig { cgroup_root: cgroup_root(), bpffs: bpffs.path().into() };
        let lab = Self { name, redirector: None, config, dns: false, bpffs, cgroups: Vec::new() };
        lab.links();
        lab
    }

    /// Loads the redirector, as a new agent does.
    pub fn load(&mut self) {
        let mut redirector = Redirector::load(&self.config).unwrap_or_else(|e| panic!("{e:#?}"));
        if CLSACT.load(Ordering::Relaxed) {
            redirector.prefer_clsact();
        }
        redirector.set_host(self.netns("node").as_fd()).unwrap();
        self.redirector = Some(redirector);
    }

    /// As `new`, with the pod enrolled and a proxy of generation 1 listening and active.
    pub fn captured() -> (Self, Proxy) {
        let mut lab = Self::new();
        lab.enroll();
        let mut proxy = lab.proxy(1);
        proxy.listen_all();
        lab.activate(1);
        (lab, proxy)
    }

    fn links(&self) {
        let (pod, node, peer) = (self.ns("pod"), self.ns("node"), self.ns("peer"));
        for ns in [&pod, &node, &peer] {
            ip(&format!("netns add {ns}"));
            ip(&format!("-n {ns} link set lo up"));
        }
        for role in ["pod", "node", "peer"] {
            // Link-local addresses would be tentative for a second, and neighbour discovery waits for them.
            self.run(role, || std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
        }
        // Fixed addresses, so that tests can write Ethernet frames.
        ip(&format!(
            "-n {node} link add pod0 address {NODE_MAC} type veth peer name eth0 address {POD_MAC} netns {pod}"
        ));
        ip(&format!("-n {node} link add up0 type veth peer name eth0 netns {peer}"));
        for (ns, device, v4, v6) in [
            (&pod, "eth0", POD4, POD6),
            (&node, "pod0", NODE4, "fd77::1"),
            (&node, "up0", "10.78.0.1", "fd78::1"),
            (&peer, "eth0", PEER4, PEER6),
        ] {
            ip(&format!("-n {ns} link set {device} up"));
            ip(&format!("-n {ns} addr add {v4}/24 dev {device}"));
            ip(&format!("-n {ns} addr add {v6}/64 dev {device} nodad"));
        }
        ip(&format!("-n {pod} route add default via {NODE4}"));
        ip(&format!("-n {pod} -6 route add default via fd77::1"));
        ip(&format!("-n {peer} route add default via 10.78.0.1"));
        ip(&format!("-n {peer} -6 route add default via fd78::1"));
        self.run("node", || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
    }

    pub fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    pub fn path(&self, role: &str) -> PathBuf {
        Path::new("/run/netns").join(self.ns(role))
    }

    pub fn netns(&self, role: &str) -> File {
        File::open(self.path(role)).unwrap()
    }

    /// Runs something on a thread in one of the namespaces.
    pub fn run<T: Send>(&self, role: &str, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns(role);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn redirector(&mut self) -> &mut Redirector {
        self.redirector.as_mut().unwrap()
    }

    pub fn enroll(&mut self) {
        self.enroll_with(None, true).unwrap();
    }

    pub fn enroll_with(
        &mut self,
        generation: Option<u32>,
        keep_established: bool,
    ) -> Result<redirect_loader::Enrolled, redirect_loader::EnrollError> {
        let (pod, node) = (self.netns("pod"), self.netns("node"));
        let addresses = [POD4.parse::<IpAddr>().unwrap(), POD6.parse().unwrap()];
        let dns = self.dns;
        self.redirector().enroll(&PodSpec {
            uid: "11111111-2222-3333-4444-555555555555",
            netns: pod.as_fd(),
            addresses: &addresses,
            host_link: HostLink { netns: node.as_fd(), link: Link::Name("pod0") },
            generation,
            keep_established,
            dns,
        })
    }

    pub fn cookie(&self) -> u64 {
        redirect_loader::cookie_of(self.netns("pod").as_fd()).unwrap()
    }

    /// A registered proxy in the pod's namespace.
    pub fn proxy(&mut self, generation: u32) -> Proxy {
        let cgroup = self.cgroup(&format!("proxy-{generation}"));
        let id = std::fs::metadata(&cgroup).unwrap().ino();
        self.redirector().register_proxy(id, generation).unwrap();
        Proxy::start(generation, &cgroup, &self.path("pod"))
    }

    /// A process in a cgroup of its own below the root, in one of the namespaces.
    pub fn process(&mut self, name: &str, role: &str) -> Proxy {
        let cgroup = self.cgroup(name);
        Proxy::start(0, &cgroup, &self.path(role))
    }

    /// A process in a cgroup that is not a proxy's.
    pub fn impostor(&mut self) -> Proxy {
        let cgroup = self.cgroup("impostor");
        Proxy::start(99, &cgroup, &self.path("pod"))
    }

    pub fn cgroup(&mut self, name: &str) -> PathBuf {
        self.make_cgroup(self.cgroup_of(name))
    }

    /// Any cgroup; it goes with the lab.
    pub fn make_cgroup(&mut self, path: PathBuf) -> PathBuf {
        std::fs::create_dir(&path).unwrap();
        self.cgroups.push(path.clone());
        path
    }

    pub fn activate(&mut self, generation: u32) {
        let cookie = self.cookie();
        self.redirector().activate(cookie, generation).unwrap();
    }

    pub fn counters(&self) -> Counters {
        self.redirector.as_ref().unwrap().counters(self.cookie()).unwrap()
    }

    pub fn count(&self, reason: Reason) -> u64 {
        self.counters().get(reason)
    }

    pub fn cgroup_of(&self, name: &str) -> PathBuf {
        self.config.cgroup_root.join(format!("{}-{name}", self.name))
    }

    pub fn ip_plain(&self, arguments: &str) {
        ip(arguments);
    }

    /// Runs `ip` inside a namespace.
    pub fn ip(&self, role: &str, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.ns(role)));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.redirector = None;
        report("unload", Redirector::unload(self.bpffs.path()).map_err(|e| e.to_string()));
        for role in ["pod", "node", "peer"] {
            report("ip netns del", try_ip(&format!("netns del {}", self.ns(role))));
        }
        for cgroup in &self.cgroups {
            // Proxies are killed before the lab goes; the kernel may need a moment to empty the cgroup.
            let gone = eventually(|| std::fs::remove_dir(cgroup).is_ok());
            report("rmdir cgroup", if gone { Ok(()) } else { Err(cgroup.display().to_string()) });
        }
        let unmounted = rustix::mount::unmount(self.bpffs.path(), rustix::mount::UnmountFlags::DETACH);
        report("umount", unmounted.map_err(|e| e.to_string()));
    }
}

fn report(what: &str, result: Result<(), String>) {
    if let Err(error) = result {
        eprintln!("clean-up: {what}: {error}");
    }
}

fn ip(arguments: &str) {
    try_ip(arguments).unwrap_or_else(|error| panic!("ip {arguments}: {error}"));
}

fn try_ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Polls a condition that no event announces, every 2 ms, for as long as `PATIENCE`.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if condition() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    false
}

/// What a server said in its first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub generation: u32,
    pub port: u16,
    pub worker: usize,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

impl Said {
    pub fn parse(line: &str) -> Self {
        let field = |name: &str| {
            let found = line.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
        };
        Self {
            generation: field("gen").parse().unwrap(),
            port: field("port").parse().unwrap(),
            worker: field("worker").parse().unwrap(),
            local: field("local").parse().unwrap(),
            peer: field("peer").parse().unwrap(),
        }
    }
}

/// Connects and reads what the server says.
pub fn call(to: &str) -> std::io::Result<(TcpStream, Said)> {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    if line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let said = Said::parse(&line);
    Ok((stream, said))
}

/// An application server on its own thread in the namespace of the caller: says the same line as a proxy, generation 0.
pub fn serve(at: &str) -> TcpListener {
    serve_on(TcpListener::bind(at).unwrap())
}

/// The same on a listener that exists.
pub fn serve_on(listener: TcpListener) -> TcpListener {
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in accepting.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || answer(stream));
        }
    });
    listener
}

fn answer(mut stream: TcpStream) {
    use std::io::{Read, Write};
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let line = format!("gen=0 port={} worker=0 local={} peer={}\n", local.port(), canonical(local), canonical(peer));
    let mut buffer = [0u8; 4096];
    let mut ok = stream.write_all(line.as_bytes()).is_ok();
    while ok {
        ok = match stream.read(&mut buffer) {
            Ok(read) if read > 0 => stream.write_all(&buffer[..read]).is_ok(),
            _ => false,
        };
    }
}

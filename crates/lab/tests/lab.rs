//! The lab itself, without the mesh: as root, with `culvert` built beside (it is every process's first program).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lab::{Fault, Lab, LabError, Options, Spec};

/// What a machine has, as far as a lab could leave something behind. Only what can be of these tests' labs, since others
/// may be at work on the machine.
#[derive(Debug, PartialEq)]
struct Machine {
    mounts: Vec<String>,
    groups: BTreeSet<String>,
    links: BTreeSet<String>,
    folders: BTreeSet<String>,
    processes: usize,
}

/// Whether a text names a lab of these tests after `before`.
fn ours(text: &str, before: &str) -> bool {
    text.match_indices(before).any(|(at, _)| text[at + before.len()..].starts_with("lt-"))
}

impl Machine {
    fn now() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let groups =
            mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).unwrap().split(' ').nth(1).unwrap();
        let links = Command::new("ip").args(["-o", "link", "show"]).output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        let names = links.lines().filter_map(|l| l.split(':').nth(1)).map(|n| n.trim().to_owned());
        Self {
            mounts: mounts.lines().filter(|l| ours(l, "/run/culvert/lab/")).map(str::to_owned).collect(),
            groups: list(groups).into_iter().filter(|n| ours(n, "culvert-lab-")).collect(),
            // Pods', wire's and bridges' names (links.rs).
            links: names.filter(|n| n.starts_with("p1") || n.starts_with('w') || n.starts_with("br0")).collect(),
            folders: list("/run/culvert/lab").into_iter().filter(|n| ours(n.trim_start_matches('.'), "")).collect(),
            processes: processes().filter(|p| inside_a_lab(p)).count(),
        }
    }
}

fn processes() -> impl Iterator<Item = String> {
    list("/proc").into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

fn inside_a_lab(process: &str) -> bool {
    // proc(5): the state and the parent follow the name. Orphans that have ended are for init to forget, at its leisure;
    // children of ours are not.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let (state, parent) = (fields.next(), fields.next());
    if state == Some("Z") && parent != Some(std::process::id().to_string().as_str()) {
        return false;
    }
    fs::read_to_string(format!("/proc/{process}/cgroup")).is_ok_and(|t| ours(&t, "culvert-lab-"))
}

/// The network namespaces of a lab, by their handles.
fn namespaces_of(lab: &str) -> BTreeSet<u64> {
    let folder = Path::new("/run/culvert/lab").join(lab).join("netns");
    list(&folder).iter().map(|n| fs::metadata(folder.join(n)).unwrap().ino()).collect()
}

/// Whether any process holds one of these: lives in it, or has its handle mounted.
fn anybody_holds(namespaces: &BTreeSet<u64>) -> bool {
    let id = |link: &Path| link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse::<u64>().ok();
    processes().any(|p| {
        let lives = fs::read_link(format!("/proc/{p}/ns/net")).ok().and_then(|l| id(&l));
        let mounts = fs::read_to_string(format!("/proc/{p}/mountinfo")).unwrap_or_default();
        // proc(5): the fourth field is the root of the mount, for a namespace its name.
        let mut mounted = mounts.lines().filter_map(|l| id(Path::new(l.split(' ').nth(3)?)));
        lives.is_some_and(|n| namespaces.contains(&n)) || mounted.any(|n| namespaces.contains(&n))
    })
}

fn list(folder: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// These tests look at the whole machine, so they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    assert!(rustix::process::geteuid().is_root(), "the lab's tests need root: sudo -E cargo test -p lab");
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const SERVER: &str = "
import http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ('MARKER-%s-seen-%s' % (self.path[1:], self.client_address[0])).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
Server(('::', 8080), Handler).serve_forever()
";

fn spec(name: &str) -> Spec {
    Spec::parse("test.yaml", &document(name)).unwrap()
}

fn document(name: &str) -> String {
    format!(
        "
name: {name}
nodes: [{{name: node1}}, {{name: node2}}]
pods:
  - name: server
    node: node2
    namespace: shop
    mesh: false
    command: [python3, server.py]
    files: {{server.py: {}}}
    ready: {{tcp: 8080}}
  - {{name: client, node: node1, namespace: shop, mesh: false}}
  - {{name: neighbour, node: node2, namespace: shop, mesh: false, user: nobody, command: [sleep, '1000'], env: {{COLOUR: blue}}}}
services:
  - {{name: front, namespace: shop, ports: {{80: 8080}}, pods: [server]}}
  - {{name: bare, namespace: shop, ports: {{8080: 8080}}, pods: [server], headless: true}}
",
        serde_json::to_string(SERVER).unwrap()
    )
}

fn up(name: &str) -> Lab {
    Lab::up(&spec(name), &Options::default()).unwrap()
}

fn get(lab: &Lab, pod: &str, url: &str, family: &str) -> String {
    let curl = lab.pod(pod).unwrap().command("curl").args(["-sS", "--max-time", "5", family, url]);
    let done = curl.output().unwrap();
    assert!(done.success(), "{url}: {}", done.errors());
    done.text()
}

#[test]
fn up_and_down_twice_leaves_nothing() {
    let _turn = turn();
    let before = Machine::now();
    for _ in 0..2 {
        let lab = up("lt-twice");
        let there = Machine::now();
        assert!(there.folders.contains("lt-twice") && there.groups.contains("culvert-lab-lt-twice"), "{there:?}");
        assert_eq!(there.links, before.links, "no link of a lab is outside its namespaces");
        assert!(matches!(
            Lab::up(&spec("lt-twice"), &Options::default()),
            Err(LabError::Exists(_) | LabError::Locked(_))
        ));
        let namespaces = namespaces_of("lt-twice");
        assert!(namespaces.len() == 7 && anybody_holds(&namespaces));
        lab.down().unwrap();
        assert_eq!(Machine::now(), before);
        assert!(!anybody_holds(&namespaces));
    }
    assert!(matches!(lab::down("lt-twice"), Err(LabError::NoLab { .. })));
    assert_eq!(Machine::now(), before);
}

#[test]
fn a_drop_takes_it_down_also_on_panic() {
    let _turn = turn();
    let before = Machine::now();
    let ended = std::panic::catch_unwind(|| {
        let _lab = up("lt-panics");
        panic!("on purpose");
    });
    assert!(ended.is_err());
    assert_eq!(Machine::now(), before);
}

#[test]
fn pods_of_two_nodes_talk_and_the_wire_sees_it() {
    let _turn = turn();
    let lab = up("lt-talks");
    let wire = lab.wire_capture("tcp").unwrap();
    let veth = lab.host_side_capture("client", "tcp").unwrap();
    assert_eq!(get(&lab, "client", "http://server:8080/a", "-4"), "MARKER-a-seen-::ffff:10.244.1.10");
    assert_eq!(get(&lab, "client", "http://bare.shop:8080/b", "-6"), "MARKER-b-seen-fd00:244:1::a");
    let (wire, veth) = (wire.finish().unwrap(), veth.finish().unwrap());
    assert_eq!((wire.packets_with(b"MARKER-a"), wire.packets_with(b"MARKER-b")), (1, 1));
    assert_eq!((veth.packets_with(b"MARKER-a"), veth.count_bytes(b"MARKER-b")), (1, 8));
    // Neighbours do not meet on the wire.
    let wire = lab.wire_capture("tcp").unwrap();
    get(&lab, "neighbour", "http://server:8080/c", "-4");
    assert_eq!(wire.finish().unwrap().packets(), 0);
    // Virtual addresses are nothing without the mesh, and that shows at once.
    let curl = lab.pod("client").unwrap().command("curl").args(["-sS", "--max-time", "5", "http://front/"]);
    assert!(!curl.output().unwrap().success());
    lab.down().unwrap();
}

#[test]
fn a_command_has_the_pods_world_and_its_own_status() {
    let _turn = turn();
    let lab = up("lt-worlds");
    let pod = lab.pod("neighbour").unwrap();
    let run = |script: &str| pod.command("sh").args(["-c", script]).output().unwrap();
    assert_eq!(run("echo $COLOUR; pwd").text(), "blue\n/srv\n");
    assert_eq!(run("exit 7").status.code(), Some(7));
    assert_eq!(pod.command("nosuch").output().unwrap().status.code(), Some(127));
    assert_eq!(pod.command("cat").stdin("through").output().unwrap().text(), "through");
    assert!(run("cat /proc/self/cgroup").text().contains("culvert-lab-lt-worlds/node2/pods/neighbour"));
    assert_eq!(pod.command("id").arg("-u").user(65534, 65534).output().unwrap().text(), "65534\n");
    let status = fs::read_to_string(format!("/proc/{}/status", lab.pid("pod/neighbour").unwrap())).unwrap();
    assert!(status.contains("Uid:\t65534"), "{status}");
    // A container's capabilities, and no more: NET_RAW is there, NET_ADMIN is not, also for root.
    assert!(!pod.command("ip").args(["route", "flush", "all"]).output().unwrap().success());
    let bounded =
        |place: &lab::Place| place.command("grep").args(["CapEff", "/proc/self/status"]).output().unwrap().text();
    assert_eq!(bounded(&pod), "CapEff:\t00000000a80425fb\n");
    let strong = pod.clone().with_capabilities(&["NET_ADMIN"], &["NET_RAW"]).unwrap();
    assert_eq!(bounded(&strong), "CapEff:\t00000000a80415fb\n");
    let late = pod.command("sleep").arg("100").timeout(Duration::from_millis(50)).output();
    assert!(matches!(late, Err(LabError::TimedOut { .. })));
    // What it wrote before it was asked is there, and the rest of the machine's /tmp is not.
    let outside = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    run("echo x > /tmp/mine");
    let inside = run("ls /tmp").text();
    assert!(inside.lines().any(|l| l == "mine"), "{inside}");
    assert!(!inside.contains(&*outside.path().file_name().unwrap().to_string_lossy()), "{inside}");
    lab.down().unwrap();
}

#[test]
fn workers_are_killed_with_their_parent() {
    let _turn = turn();
    let text = "
name: lt-workers
ipv6: false
nodes: [{name: n}]
pods:
- {name: web, node: n, mesh: false, command: [sh, -c, 'sleep 4711 & exec python3 -m http.server 8080'], ready: {tcp: 8080}}
";
    let lab = Lab::up(&Spec::parse("workers.yaml", text).unwrap(), &Options::default()).unwrap();
    let group = lab.pod("web").unwrap().cgroup().join("cgroup.procs");
    let members = || fs::read_to_string(&group).unwrap().lines().count();
    assert_eq!(members(), 2);
    lab.kill("pod/web").unwrap();
    assert_eq!(members(), 0);
    lab.restart("pod/web").unwrap();
    lab.kill("pod/web").unwrap();
    assert_eq!(members(), 0);
    lab.down().unwrap();
}

#[test]
fn processes_are_killed_and_started_again() {
    let _turn = turn();
    let lab = up("lt-restarts");
    let first = lab.pid("pod/server").unwrap();
    let running = |lab: &Lab| lab.status().processes.iter().find(|p| p.name == "pod/server").unwrap().running;
    assert!(running(&lab));
    lab.kill("pod/server").unwrap();
    assert!(!running(&lab));
    let id = lab.add_fault(Fault::Kill { process: "pod/neighbour".into(), restart: false }).unwrap();
    assert_eq!(lab.faults().len(), 1);
    lab.restart("pod/server").unwrap();
    assert!(running(&lab) && lab.pid("pod/server").unwrap() != first);
    lab.clear_faults(Some(id)).unwrap();
    assert!(lab.status().processes.iter().all(|p| p.running && p.restarts == 1));
    assert!(matches!(lab.kill("pod/nosuch"), Err(LabError::Unknown { .. })));
    lab.down().unwrap();
}

#[test]
fn the_wire_can_be_cut_and_mended() {
    let _turn = turn();
    let lab = up("lt-cuts");
    let ping = || {
        let ping = lab.pod("client").unwrap().command("curl");
        ping.args(["-sS", "-o", "/dev/null", "--max-time", "1", "http://server.pod:8080/"]).output().unwrap().success()
    };
    assert!(ping());
    lab.add_fault(Fault::Partition { node: "node1".into(), from: Some("node2".into()) }).unwrap();
    assert!(!ping());
    lab.clear_faults(None).unwrap();
    assert!(ping());
    lab.add_fault(Fault::Drop { per_mille: 1000, node: Some("node2".into()) }).unwrap();
    assert!(!ping());
    lab.clear_faults(Some(1)).unwrap();
    assert!(ping() && lab.faults().is_empty());
    let wrong = lab.add_fault(Fault::Partition { node: "node9".into(), from: None });
    assert!(matches!(wrong, Err(LabError::Unknown { .. })) && lab.faults().is_empty());
    lab.down().unwrap();
}

#[test]
fn a_slow_wire_delays_both_ways() {
    let _turn = turn();
    let lab = up("lt-slow");
    let time = || {
        let ping = lab.node("node1").unwrap().command("curl");
        let format = "%{time_connect}";
        let done = ping.args(["-sS", "-o", "/dev/null", "-w", format, "http://10.244.2.10:8080/"]).output().unwrap();
        assert!(done.success(), "{}", done.errors());
        done.text().parse::<f64>().unwrap()
    };
    assert!(time() < 0.040, "{}", time());
    let id = lab.add_fault(Fault::Delay { node: "node2".into(), by: Duration::from_millis(40) }).unwrap();
    // There and back.
    let slow = time();
    assert!((0.080..0.5).contains(&slow), "{slow}");
    lab.clear_faults(Some(id)).unwrap();
    assert!(time() < 0.040, "{}", time());
    lab.down().unwrap();
}

#[test]
fn pods_come_and_go() {
    let _turn = turn();
    let lab = up("lt-comes");
    let mut pod = lab.plan().pod("server").unwrap().pod.clone();
    pod.name = "second".to_owned();
    pod.node = "node1".to_owned();
    lab.add_pod(pod.clone()).unwrap();
    assert_eq!(get(&lab, "neighbour", "http://second:8080/d", "-4"), "MARKER-d-seen-::ffff:10.244.2.11");
    assert!(lab.add_pod(pod.clone()).is_err());
    lab.remove_pod("second").unwrap();
    assert!(lab.pod("second").is_err() && lab.pid("pod/second").is_err());
    // One that cannot come up leaves no trace.
    pod.command = vec!["false".to_owned()];
    let failed = lab.add_pod(pod);
    assert!(matches!(failed, Err(LabError::NotReady { .. })), "{failed:?}");
    assert!(lab.pod("second").is_err());
    lab.down().unwrap();
}

#[test]
fn what_does_not_come_up_is_undone() {
    let _turn = turn();
    let before = Machine::now();
    let mut wrong = spec("lt-undone");
    wrong.pods[0].command = vec!["sh".to_owned(), "-c".to_owned(), "echo the reason >&2; exit 3".to_owned()];
    let error = Lab::up(&wrong, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("the reason"), "{error}");
    assert_eq!(Machine::now(), before);
    wrong.pods[2].user = Some("nosuchuser".to_owned());
    assert!(Lab::up(&wrong, &Options::default()).unwrap_err().to_string().contains("nosuchuser"));
    let options = Options { progress: std::sync::Arc::new(|_| {}), ..Options::default() };
    options.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(Lab::up(&spec("lt-undone"), &options), Err(LabError::Cancelled)));
    assert_eq!(Machine::now(), before);
}

#[test]
fn labs_of_different_names_do_not_meet() {
    let _turn = turn();
    let (one, other) = (up("lt-one"), up("lt-other"));
    assert_eq!(one.plan().pods[0].addresses, other.plan().pods[0].addresses);
    one.kill("pod/server").unwrap();
    assert_eq!(get(&other, "client", "http://server:8080/x", "-4"), "MARKER-x-seen-::ffff:10.244.1.10");
    one.down().unwrap();
    assert_eq!(get(&other, "client", "http://server:8080/y", "-4"), "MARKER-y-seen-::ffff:10.244.1.10");
    other.down().unwrap();
}

/// The one who raises it is killed: at once after the folder is there, in the middle, and when all is up.
#[test]
fn down_cleans_up_after_a_crash() {
    let _turn = turn();
    let before = Machine::now();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crash.yaml");
    fs::write(&file, document("lt-crash")).unwrap();
    let culvert = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("culvert");
    // Words of the steps that `up` tells of.
    for step in ["folder", "namespaces", "pod server", "waiting for pod server", "up in"] {
        let mut raising = Command::new(&culvert)
            .args(["lab", "up"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = std::io::BufReader::new(raising.stderr.take().unwrap());
        let mut said = std::io::BufRead::lines(stderr).map_while(Result::ok);
        assert!(said.any(|line| line.trim().starts_with(step)), "{step}");
        raising.kill().unwrap();
        raising.wait().unwrap();
        if lab::labs().contains(&"lt-crash".to_owned()) {
            assert!(matches!(Lab::up(&spec("lt-crash"), &Options::default()), Err(LabError::Exists(_))), "{step}");
            lab::down("lt-crash").unwrap();
        } else {
            // Killed before anything was made but the lock.
            assert_eq!(step, "folder");
            assert!(matches!(lab::down("lt-crash"), Err(LabError::NoLab { .. })), "{step}");
        }
        assert_eq!(Machine::now(), before, "{step}");
    }
}

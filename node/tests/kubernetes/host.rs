//! A node of the test's own: network namespace, cgroup, BPF file system, folders, and pods as namespaces on veth links.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use net::NetNs;
use serde_json::{Value, json};

/// Longest wait for something that takes a second at most on a healthy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The UID of the pod in whose cgroup this process plays the proxy.
pub const PROXY_UID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

pub struct Host {
    pub name: String,
    pub folder: tempfile::TempDir,
    cgroup: PathBuf,
    before: PathBuf,
    agent: Option<Child>,
    pods: Vec<(String, Child)>,
}

impl Host {
    /// Makes the node. This process moves into the proxy's cgroup.
    pub fn new() -> Self {
        let name = format!("cvn{}", std::process::id());
        let mount = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].iter().map(Path::new).find(|p| p.exists()).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let cgroup = mount.join(&name);
        for part in ["agent", &format!("pod{PROXY_UID}/z")] {
            fs::create_dir_all(cgroup.join(part)).unwrap();
        }
        let procs = cgroup.join(format!("pod{PROXY_UID}/z/cgroup.procs"));
        fs::write(procs, std::process::id().to_string()).unwrap();
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        let folder = tempfile::tempdir().unwrap();
        for part in ["bpf", "net.d", "bin"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let before = mount.join(own.trim_start_matches('/'));
        Self { name, folder, cgroup, before, agent: None, pods: Vec::new() }
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    /// A listener in the node's namespace.
    pub fn listen(&self) -> TcpListener {
        self.netns(&self.name).run(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap()
    }

    pub fn netns(&self, name: &str) -> NetNs {
        NetNs::open(Path::new("/run/netns").join(name)).unwrap()
    }

    /// Writes the agent's configuration.
    pub fn configure(&self, api: std::net::SocketAddr) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{api}")}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(self.path("kubeconfig"), kubeconfig.to_string()).unwrap();
        let config = json!({
            "node": "node1", "cgroupRoot": self.cgroup, "bpffs": self.path("bpf"), "zdsSocket": self.path("z.sock"),
            "leaveDeadline": "2s", "logLevel": "info",
            "kubernetes": {
                "kubeconfig": self.path("kubeconfig"), "leaveNotice": "500ms",
                "cni": {"confDir": self.path("net.d"), "binDir": self.path("bin"), "socket": self.path("cni.sock"),
                        "deadline": "3s", "plugin": env!("CARGO_BIN_EXE_culvert-cni")},
            },
        });
        fs::write(self.path("node.yaml"), config.to_string()).unwrap();
    }

    /// Starts the agent in the node's namespace and a cgroup of its own.
    pub fn start_agent(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
        let child = self.agent_command(&[]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.agent = Some(child);
    }

    /// Kills it, as a crash would.
    pub fn kill_agent(&mut self) {
        let mut child = self.agent.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `culvert-node --unload`.
    pub fn unload(&self) -> Output {
        self.agent_command(&["--unload"]).output().unwrap()
    }

    fn agent_command(&self, more: &[&str]) -> Command {
        let procs = self.cgroup.join("agent/cgroup.procs");
        let mut command = Command::new("sh");
        let script = r#"echo $$ > "$1" && shift && exec nsenter --net="$@""#;
        command.args(["-c", script, "sh"]).arg(procs).arg(format!("/run/netns/{}", self.name));
        command.arg(env!("CARGO_BIN_EXE_culvert-node")).arg("--config").arg(self.path("node.yaml")).args(more);
        command
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `/status` of the agent.
    pub fn status(&self) -> Option<Value> {
        let answer = self.get(15010, "/status")?;
        serde_json::from_str(&answer).ok()
    }

    /// The body of a page of the agent, if its status is 200.
    pub fn get(&self, port: u16, path: &str) -> Option<String> {
        let connect = || TcpStream::connect(("127.0.0.1", port));
        let mut stream = self.netns(&self.name).run(connect).unwrap().ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// The state of a pod in `/status`.
    pub fn state(&self, name: &str) -> Option<String> {
        let status = self.status()?;
        let pod = status["pods"].as_array()?.iter().find(|p| p["name"] == name)?;
        Some(pod["state"].as_str()?.to_owned())
    }

    /// Makes a sandbox as a runtime does: namespace, link, a process in the pod's cgroup. Its address is 10.177.N.2.
    pub fn sandbox(&mut self, name: &str, uid: &str, number: u8) {
        let (node, ns) = (self.name.clone(), self.ns(name));
        ip(&format!("netns add {ns}"));
        ip(&format!("-n {ns} link set lo up"));
        ip(&format!("-n {node} link add v{number} type veth peer name eth0 netns {ns}"));
        for (ns, device, host) in [(&node, format!("v{number}"), 1), (&ns, "eth0".to_owned(), 2)] {
            ip(&format!("-n {ns} link set {device} up"));
            ip(&format!("-n {ns} addr add 10.177.{number}.{host}/24 dev {device}"));
        }
        ip(&format!("-n {ns} route add default via 10.177.{number}.1"));
        let cgroup = self.cgroup.join(format!("pod{uid}/pause"));
        fs::create_dir_all(&cgroup).unwrap();
        let script = r#"echo $$ > "$1" && exec nsenter --net="$2" sleep 1000"#;
        let mut pause = Command::new("sh");
        pause.args(["-c", script, "sh"]).arg(cgroup.join("cgroup.procs")).arg(format!("/run/netns/{ns}"));
        self.pods.push((name.to_owned(), pause.stdin(Stdio::null()).spawn().unwrap()));
    }

    /// Ends a sandbox's processes; its namespace goes with it.
    pub fn end_sandbox(&mut self, name: &str) {
        let at = self.pods.iter().position(|(n, _)| n == name).unwrap();
        let (_, mut pause) = self.pods.remove(at);
        pause.kill().unwrap();
        pause.wait().unwrap();
        ip(&format!("netns del {}", self.ns(name)));
    }

    pub fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Whether our rules are in a pod.
    pub fn has_rules(&self, name: &str) -> bool {
        let output = Command::new("ip").args(["-n", &self.ns(name), "rule"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("fwmark 0x1000")
    }

    /// Runs the installed plug-in as the runtime would, with the entry that the agent wrote.
    pub fn plug_in(&self, command: &str, name: &str, uid: &str, number: u8) -> (bool, Value) {
        let list: Value =
            serde_json::from_str(&fs::read_to_string(self.path("net.d/10-lab.conflist")).unwrap()).unwrap();
        let entry = list["plugins"].as_array().unwrap().last().unwrap();
        let mut config = entry.clone();
        assert_eq!(entry["type"], "culvert-cni");
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        config["prevResult"] = result(number);
        let mut child = Command::new(self.path("bin/culvert-cni"))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_NETNS", format!("/run/netns/{}", self.ns(name)))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_CONTAINERID", "c")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID={uid}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// Waits for something that no event of ours announces.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            if start.elapsed() > PATIENCE {
                let status = self.status().unwrap_or_default();
                panic!("not within {PATIENCE:?}: {what}\nstatus: {status:#}\nlog:\n{}", self.log());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// The result of the plug-ins before ours.
pub fn result(number: u8) -> Value {
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "dns": {},
        "ips": [{"interface": 0, "address": format!("10.177.{number}.2/24"), "gateway": format!("10.177.{number}.1")}]})
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().and_then(|()| agent.wait()).map(drop).unwrap_or_else(|e| eprintln!("clean-up: agent: {e}"));
        }
        let unload = self.unload();
        if !unload.status.success() {
            eprintln!("clean-up: {}", String::from_utf8_lossy(&unload.stderr));
        }
        while let Some((name, _)) = self.pods.last() {
            let name = name.clone();
            self.end_sandbox(&name);
        }
        ip(&format!("netns del {}", self.name));
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.path("bpf"), flags).unwrap_or_else(|e| eprintln!("clean-up: umount: {e}"));
        fs::write(self.before.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let start = Instant::now();
        // The kernel needs a moment to empty the cgroups of processes that have just ended.
        while !remove_cgroup(&self.cgroup) && start.elapsed() < PATIENCE {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

fn remove_cgroup(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok()
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

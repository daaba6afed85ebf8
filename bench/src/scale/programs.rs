//! The measured programs, as processes of their own: the control plane and a node proxy.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use super::objects::{SYSTEM, node, proxy_name};
use super::token;
use crate::usage;

/// By when a program does what it should, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at something that tells nobody.
const LOOK: Duration = Duration::from_millis(5);

/// A folder for one run, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        Self::at(std::env::temp_dir().join(format!("culvert-scale-{}", std::process::id())))
    }

    pub(crate) fn at(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let made = Self(path);
        made.certificates()?;
        Ok(made)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A root, and a certificate of it for the control plane.
    fn certificates(&self) -> Result<()> {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = KeyPair::generate()?;
        self.write("root.pem", root.self_signed(&root_key)?.pem())?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(["localhost".to_owned()])?;
        self.write("leaf.pem", leaf.signed_by(&key, &Issuer::new(root, root_key))?.pem())?;
        self.write("key.pem", key.serialize_pem())?;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind, it is found by its name.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A program that runs.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(name: &'static str, folder: &Folder, config: &Value) -> Result<Self> {
        let path = folder.write(&format!("{name}.yaml"), config.to_string())?;
        let program = built(name)?;
        let log = folder.path(&format!("{name}.log"));
        let output = File::create(&log)?;
        let child = Command::new(&program)
            .arg("--config")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, child, log })
    }

    fn pid(&self) -> i32 {
        // Linux's numbers are below 2^22.
        i32::try_from(self.child.id()).unwrap_or_default()
    }

    /// CPU seconds so far.
    pub(crate) fn cpu(&self) -> Result<f64> {
        usage::process_seconds(self.pid())
    }

    /// Resident now, MiB.
    pub(crate) fn resident(&self) -> Result<f64> {
        Ok(usage::status(self.pid(), "VmRSS:")? / MIB)
    }

    /// Resident at most since the start or since `forget_peak`, MiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        Ok(usage::status(self.pid(), "VmHWM:")? / MIB)
    }

    /// The peak counts from now (proc(5), `clear_refs` 5).
    pub(crate) fn forget_peak(&self) -> Result<()> {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("clear_refs")
    }

    /// Waits until something holds; fails, with the end of the log, when the program has ended or it takes too long.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) -> Result<Duration> {
        let began = Instant::now();
        while !holds() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before {what}: {}", self.name, self.said());
            }
            ensure!(began.elapsed() < PATIENCE, "{}: {what}: not within {PATIENCE:?}: {}", self.name, self.said());
            std::thread::sleep(LOOK);
        }
        Ok(began.elapsed())
    }

    fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const MIB: f64 = 1024.0 * 1024.0;

/// The control plane.
pub(crate) struct Control {
    pub(crate) program: Program,
    pub(crate) xds: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// From its spawn until it was ready: everything listed, translated and published.
    pub(crate) started: Duration,
}

impl Control {
    /// Starts it on a scripted API server and waits until it is ready.
    pub(crate) fn start(folder: &Folder, api: SocketAddr) -> Result<Self> {
        let kubeconfig = folder.write("kubeconfig", kubeconfig(api).to_string())?;
        let [xds, metrics, health, admin] = free_ports()?;
        let config = json!({
            "source": {"kubernetes": {"kubeconfig": kubeconfig}},
            "listen": {"xds": xds, "metrics": metrics, "health": health, "admin": admin},
            "certificate": {"files": {"certificate": folder.path("leaf.pem"), "key": folder.path("key.pem")}},
            // The script takes no writes.
            "leader": {"writeStatuses": false},
        });
        let began = Instant::now();
        let mut program = Program::start("culvert-control", folder, &config)?;
        program.until("ready", || get(health, "/healthz/ready").is_ok())?;
        Ok(Self { program, xds, admin, started: began.elapsed() })
    }

    /// Waits until a node's proxy has acknowledged everything, by what the control plane says.
    pub(crate) fn until_synced(&mut self, number: usize) -> Result<Duration> {
        let (admin, pod) = (self.admin, format!("~{}.", proxy_name(number)));
        self.program.until("a proxy in sync", || synced(admin, &pod).unwrap_or(false))
    }
}

/// Whether a pod's proxy has acknowledged everything, as `/debug/clients` says.
pub(crate) fn synced(admin: SocketAddr, pod: &str) -> Result<bool> {
    let clients: Vec<Value> = serde_json::from_str(&get(admin, "/debug/clients")?)?;
    let one = clients.iter().find(|c| c["node"].as_str().is_some_and(|n| n.contains(pod)));
    let types = one.and_then(|c| c["types"].as_object());
    Ok(types.is_some_and(|all| all.len() == 2 && all.values().all(|t| t["synced"] == true)))
}

/// A node proxy without pods, that follows the control plane; of `control`'s port, which may be nobody's.
pub(crate) fn ztunnel(folder: &Folder, xds: SocketAddr, number: usize) -> Result<Program> {
    let token = folder.write("token", token::token(number))?;
    let [admin, metrics, ready, nobody] = free_ports()?;
    let config = json!({
        "node": node(number),
        "xds": {"address": format!("https://localhost:{}", xds.port()), "rootFile": folder.path("root.pem"), "tokenFile": token},
        // Never asked: it has no pods.
        "ca": {"address": format!("https://localhost:{}", nobody.port()), "rootFile": folder.path("root.pem"), "tokenFile": token},
        "ownPod": {"name": proxy_name(number), "namespace": SYSTEM, "address": "10.0.0.1"},
        "zdsSocket": folder.path("zds.sock"),
        "admin": admin, "metrics": metrics, "ready": ready,
    });
    Program::start("ztunnel", folder, &config)
}

/// Ports that nobody has now.
pub(crate) fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let held: Vec<TcpListener> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let addresses: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
    addresses.try_into().map_err(|_| anyhow::anyhow!("ports"))
}

pub(crate) fn kubeconfig(api: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "script",
        "clusters": [{"name": "script", "cluster": {"server": format!("http://{api}")}}],
        "contexts": [{"name": "script", "context": {"cluster": "script", "user": "script"}}],
        "users": [{"name": "script", "user": {"token": "script"}}],
    })
}

/// The body of a page that answers 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// A program of the profile that bench was built in.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("own path")?;
    let program = own.with_file_name(name);
    ensure!(program.exists(), "{} is not built; build it in the same profile as bench", program.display());
    Ok(program)
}

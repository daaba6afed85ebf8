//! Live requests while full pushes run: on a lab whose proxies follow a control plane in place of the lab's file.
//!
//! The control plane runs in the lab's infrastructure namespace, on the scripted API server, which has the lab's own pods
//! and 70 000 others. Requests go from node to node through both proxies, in turns while nothing happens and while one full
//! push follows the other.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Plan, Running};
use serde_json::{Value, json};

use super::Settings;
use super::api::Api;
use super::objects::{self, PROXY, Plain, SYSTEM};
use super::programs::{self, Folder, PATIENCE, get};
use super::steps::fill;
use super::table::Table;
use super::token::bound;
use crate::site::{Form, Reach, Site, ZTUNNELS};
use crate::usage::{self, Threads};

/// Ports of the control plane in the infrastructure namespace, where the authority has 15012.
const XDS: u16 = 15112;
const LOCAL: [u16; 3] = [15114, 15121, 15113];
const NODES: [&str; 2] = ["n1", "n2"];
/// Connections of the live requests.
const CONNECTIONS: u64 = 8;
/// Seconds of requests each time.
const SECONDS: u64 = 5;
const LOOK: Duration = Duration::from_millis(5);

/// The control plane in the lab, and what it needs.
struct Plane<'a> {
    site: &'a Site,
    api: Api,
    nodes: Vec<String>,
    /// Workloads that are different when every node's zone is.
    workloads: usize,
    zone: AtomicUsize,
    // Killed when this is dropped.
    _control: Running,
    _serving: super::api::Serving,
}

/// Measures it.
pub(crate) fn run(settings: &Settings, table: &mut Table) -> Result<()> {
    let lab = crate::Settings::for_scale();
    let site = Site::up(&lab)?;
    let root = site.lab.discovery_file();
    let folder = Folder::at(root.parent().context("the lab's folder")?.join("scale"))?;
    let plane = Plane::start(settings, &site, &folder)?;
    let mut add = |key: &str, unit, value| table.add(&format!("live.{key}"), unit, value);
    let server = site.server(Form::Meshed, Reach::Far)?;
    requests(&site, server, settings, 1)?;
    for _ in 0..settings.rounds {
        let begin = workers(&site)?;
        let quiet = requests(&site, server, settings, SECONDS)?;
        let middle = workers(&site)?;
        let stop = AtomicBool::new(false);
        let (pushed, pushes) = std::thread::scope(|scope| {
            let pushing = scope.spawn(|| plane.push_until(&stop));
            let requests = requests(&site, server, settings, SECONDS);
            stop.store(true, Ordering::Relaxed);
            let pushes = pushing.join().map_err(|_| anyhow!("the pushing panicked"))?;
            Ok::<_, anyhow::Error>((requests?, pushes?))
        })?;
        for name in ["p50", "p99"] {
            let [before, during] =
                [&quiet, &pushed].map(|r| r.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN) / 1e3);
            add(&format!("quiet.{name}"), "ms", before);
            add(&format!("pushed.{name}"), "ms", during);
            add(&format!("added.{name}"), "ms", during - before);
        }
        // What the requests' own threads have to do more, and what they wait for a CPU: the one is ours, the other also the
        // machine's.
        let end = workers(&site)?;
        let made = (settings.requests * SECONDS) as f64;
        for (name, from, to) in [("quiet", begin, middle), ("pushed", middle, end)] {
            add(&format!("{name}.worker-cpu"), "us/request", (to.ran - from.ran) as f64 / 1e3 / made);
            add(&format!("{name}.worker-wait"), "us/request", (to.waited - from.waited) as f64 / 1e3 / made);
        }
        let (count, took) = pushes;
        add("pushes", "1", count);
        add("push", "s", took);
        for (name, pid) in ["client-node", "server-node"].into_iter().zip(site.proxies()?) {
            add(&format!("rss.{name}"), "MiB", usage::resident(pid)? / (1024.0 * 1024.0));
        }
    }
    drop(plane);
    drop(folder);
    Ok(site.lab.down()?)
}

/// The threads of both proxies that carry connections.
fn workers(site: &Site) -> Result<Threads> {
    site.proxies()?.into_iter().try_fold(Threads::default(), |sum, pid| {
        let one = usage::threads(pid, "worker-")?;
        Ok(Threads { ran: sum.ran + one.ran, waited: sum.waited + one.waited })
    })
}

fn requests(site: &Site, server: IpAddr, settings: &Settings, seconds: u64) -> Result<Value> {
    let options = [("--rate", settings.requests), ("--connections", CONNECTIONS), ("--seconds", seconds)];
    let mut args = vec!["latency".to_owned(), server.to_string()];
    args.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]));
    site.loaded(Form::Meshed, &args, Duration::from_secs(seconds) + PATIENCE)
}

impl<'a> Plane<'a> {
    /// Starts it, and leads the proxies to it.
    fn start(settings: &Settings, site: &'a Site, folder: &Folder) -> Result<Self> {
        let (size, plan) = (settings.large(), site.lab.plan());
        let api = fill(size);
        place(&api, &plan);
        let infra = site.lab.infra();
        let serving = api.serve_on(infra.inside(|| Ok(TcpListener::bind("127.0.0.1:0")))??)?;
        let ip = plan.infra().into_iter().next().context("the lab has no infrastructure")?;
        let [metrics, health, admin] = LOCAL.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let kubeconfig = folder.write("kubeconfig", programs::kubeconfig(serving.address).to_string())?;
        let config = json!({
            "source": {"kubernetes": {"kubeconfig": kubeconfig}},
            "listen": {"xds": SocketAddr::new(ip, XDS), "metrics": metrics, "health": health, "admin": admin},
            "certificate": {"files": {"certificate": folder.path("leaf.pem"), "key": folder.path("key.pem")}},
            "leader": {"writeStatuses": false},
        });
        let (config, program) =
            (folder.write("control.yaml", config.to_string())?, programs::built("culvert-control")?);
        // Its words go into a file: nobody reads a pipe. In a cluster it runs on another machine: here it has the time that
        // the proxies and the requests leave. Where the kernel shares CPUs between sessions first (sched(7), autogroup), a
        // process's own priority says nothing to those of other sessions: its session has one, too.
        let line = format!(
            "exec setsid sh -c '[ ! -e /proc/self/autogroup ] || echo 19 > /proc/self/autogroup; exec nice -n 19 {} --config {} > {} 2>&1'",
            shown(&program)?,
            shown(&config)?,
            shown(&folder.path("control.log"))?
        );
        let control = infra.command("sh").arg("-c").arg(line).spawn()?;
        let nodes = (0..size.nodes()).map(objects::node).chain(NODES.map(str::to_owned)).collect();
        let workloads = size.workloads();
        let plane =
            Self { site, api, nodes, workloads, zone: AtomicUsize::new(1), _control: control, _serving: serving };
        plane.until("the control plane ready", || Ok(get(health, "/healthz/ready").is_ok()))?;
        for (node, process) in NODES.into_iter().zip(ZTUNNELS) {
            lead(folder, site, node, SocketAddr::new(ip, XDS))?;
            site.lab.restart(process)?;
        }
        site.lab.until_ready()?;
        plane.until_synced(0.0)?;
        Ok(plane)
    }

    /// Waits for something that is seen from the infrastructure namespace.
    fn until(&self, what: &str, holds: impl Fn() -> Result<bool> + Sync + Send) -> Result<()> {
        let began = Instant::now();
        let infra = self.site.lab.infra();
        while !infra.inside(|| Ok(holds().unwrap_or(false)))? {
            ensure!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until both proxies have acknowledged everything, and so many resources were sent since the start.
    fn until_synced(&self, sent: f64) -> Result<()> {
        let [metrics, _, admin] = LOCAL.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        self.until("both proxies in sync", || {
            let synced = |node: &&str| programs::synced(admin, &format!("~{PROXY}-{node}.")).unwrap_or(false);
            Ok(pushed(metrics)? >= sent && NODES.iter().all(synced))
        })
    }

    /// One full push after the other; says how many there were, and how long one took on average.
    fn push_until(&self, stop: &AtomicBool) -> Result<(f64, f64)> {
        let (began, mut pushes) = (Instant::now(), 0.0);
        let metrics = SocketAddr::from(([127, 0, 0, 1], LOCAL[0]));
        while !stop.load(Ordering::Relaxed) {
            let before = self.site.lab.infra().inside(|| Ok(pushed(metrics)))??;
            let zone = self.zone.fetch_add(1, Ordering::Relaxed) + 1;
            for node in &self.nodes {
                self.api.apply(objects::node_object(node, zone));
            }
            self.until_synced(before + (self.workloads * NODES.len()) as f64)?;
            pushes += 1.0;
        }
        Ok((pushes, began.elapsed().as_secs_f64() / pushes))
    }
}

/// Resources that were sent since the start.
fn pushed(metrics: SocketAddr) -> Result<f64> {
    let text = get(metrics, "/metrics")?;
    let line = text.lines().find_map(|l| l.strip_prefix("culvert_control_pushed_resources_total "));
    line.and_then(|n| n.trim().parse().ok()).context("no culvert_control_pushed_resources_total")
}

/// The lab's own nodes, meshed pods and proxies.
fn place(api: &Api, plan: &Plan) {
    api.place(NODES.map(|node| objects::node_object(node, 1)));
    api.place(NODES.map(|node| {
        let name = format!("{PROXY}-{node}");
        Plain { namespace: SYSTEM, name: &name, uid: &name, account: PROXY, node }.object(&[], false)
    }));
    api.place(plan.pods.iter().filter(|p| p.pod.mesh).map(|p| {
        let (namespace, name, node) = (&p.pod.namespace, &p.pod.name, &p.pod.node);
        Plain { namespace, name, uid: &p.uid, account: p.pod.account(), node }.object(&p.addresses, true)
    }));
}

/// Changes where a node's proxy has its world from.
fn lead(folder: &Folder, site: &Site, node: &str, xds: SocketAddr) -> Result<()> {
    let name = format!("{PROXY}-{node}");
    let token = folder.write(&format!("token-{node}"), bound(&name, &name))?;
    let plane = json!({"address": format!("https://{xds}"), "rootFile": folder.path("root.pem"), "tokenFile": token, "altName": "localhost"});
    let own = json!({"name": name, "namespace": SYSTEM});
    let discovery = site.lab.discovery_file();
    let path = discovery.with_file_name("node").join(node).join("ztunnel-1.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("localFile:")).collect();
    ensure!(kept.len() + 1 == text.lines().count(), "{}: no localFile in it", path.display());
    // JSON is YAML.
    std::fs::write(&path, format!("{}\nxds: {plane}\nownPod: {own}\n", kept.join("\n")))?;
    Ok(())
}

fn shown(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}

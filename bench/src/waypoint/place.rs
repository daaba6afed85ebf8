//! The lab that is measured: a client on one node, servers and both waypoints on the other.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{InsideCommand, Lab, Options, Spec};
use serde_json::{Value, json};

use super::Settings;
use super::envoy::{Envoy, Setup};
use crate::load;
use crate::site::{nginx, said};

/// Name of the lab.
const NAME: &str = "bench-waypoint";

/// Port of all services.
pub(super) const PORT: u16 = 80;

/// Where a waypoint takes tunnels, and where ours says whether it is ready.
pub(super) const TUNNELS: u16 = 15008;
const READY: u16 = 15021;

/// Port of the gRPC server within its pod; nginx has [`crate::site::HTTP`].
pub(super) const GRPC: u16 = 9090;

/// Bytes of an answer's body or message.
pub(super) const BODY: usize = 1024;

/// For a proxy to be ready; it takes a second at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at that: nobody tells.
const BETWEEN: Duration = Duration::from_millis(20);

/// Who stands in the waypoint's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    Culvert,
    Envoy,
}

impl Proxy {
    pub(super) const BOTH: [Self; 2] = [Self::Culvert, Self::Envoy];

    /// Its name, which is that of the waypoint whose place it has.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Culvert => "culvert",
            Self::Envoy => "envoy",
        }
    }
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    Http,
    Grpc,
}

impl Speech {
    pub(super) const BOTH: [Self; 2] = [Self::Http, Self::Grpc];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// The raised lab.
pub(super) struct Place {
    pub(super) lab: Lab,
    own: String,
    setup: Setup,
    envoy: Option<Envoy>,
}

fn spec(own: &str, settings: &Settings) -> Result<Spec> {
    let nginx_alone = ["nginx", "-p", "/srv", "-c", "nginx.conf", "-g", "daemon off;"];
    let grpc = [own, load::COMMAND, "grpc-serve", &GRPC.to_string()].map(str::to_owned);
    let mut services = vec![
        json!({"name": "http", "ports": {PORT.to_string(): crate::site::HTTP}, "pods": ["http-server"]}),
        json!({"name": "grpc", "ports": {PORT.to_string(): GRPC}, "pods": ["grpc-server"]}),
    ];
    let mut manifests = Vec::new();
    for proxy in Proxy::BOTH {
        for (speech, port) in [(Speech::Http, crate::site::HTTP), (Speech::Grpc, GRPC)] {
            let name = format!("{}-{}", speech.word(), proxy.word());
            manifests.push(route(speech, &name));
            services.push(json!({
                "name": name, "ports": {PORT.to_string(): port}, "pods": [format!("{}-server", speech.word())],
                "waypoint": proxy.word(), "protocol": speech.word(),
            }));
        }
    }
    let spec = json!({
        "name": NAME, "workers": settings.workers, "ipv6": false,
        "log": if settings.no_log { "info,access=off" } else { "info" },
        "nodes": [{"name": "n1"}, {"name": "n2"}],
        "pods": [
            {"name": "client", "node": "n1"},
            {"name": "http-server", "node": "n2", "command": nginx_alone, "ready": {"tcp": crate::site::HTTP},
             "files": {"nginx.conf": nginx(BODY)}},
            {"name": "grpc-server", "node": "n2", "command": grpc, "ready": {"tcp": GRPC}},
        ],
        "waypoints": Proxy::BOTH.map(|proxy| json!({"name": proxy.word(), "node": "n2"})),
        "services": services, "manifests": manifests,
    });
    serde_json::from_value(spec).context("the lab's document")
}

/// Rules that are looked at and not met, and the one that is. `envoy::routes` says the same in Envoy's words.
fn route(speech: Speech, service: &str) -> Value {
    let backend = json!([{"name": speech.word(), "port": PORT}]);
    let rule = |matches: Value| json!({"matches": [matches], "backendRefs": backend});
    let (kind, rules) = match speech {
        Speech::Http => {
            let rules = [
                json!({"path": {"type": "PathPrefix", "value": "/admin"}}),
                json!({"path": {"type": "Exact", "value": "/login"}, "method": "POST"}),
                json!({"headers": [{"name": "x-canary", "value": "yes"}]}),
                json!({"path": {"type": "PathPrefix", "value": "/"}}),
            ];
            ("HTTPRoute", rules.map(rule).to_vec())
        }
        Speech::Grpc => {
            let rules = [
                json!({"method": {"service": "bench.Admin"}}),
                json!({"method": {"service": "bench.Login", "method": "Enter"}}),
                json!({"headers": [{"name": "x-canary", "value": "yes"}]}),
                json!({"method": {"service": "bench.Echo"}}),
            ];
            ("GRPCRoute", rules.map(rule).to_vec())
        }
    };
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": service, "namespace": "default"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service}], "rules": rules},
    })
}

impl Place {
    /// Raises it, with Envoy in the place of one of the waypoints.
    pub(super) fn up(settings: &Settings) -> Result<Self> {
        let own = std::env::current_exe().context("own path")?;
        let own = own.to_str().context("own path is not text")?.to_owned();
        let began = Instant::now();
        let progress: Arc<dyn Fn(&str) + Send + Sync> =
            Arc::new(move |step| eprintln!("[{:5.1} s] {step}", began.elapsed().as_secs_f64()));
        let setup = Setup::new(settings)?;
        let options = Options { keep: settings.keep, progress, ..Options::default() };
        let lab = Lab::up(&spec(&own, settings)?, &options)?;
        let mut place = Self { lab, own, setup, envoy: None };
        place.lab.kill(&process(Proxy::Envoy))?;
        if !settings.alone {
            place.setup.write(&place)?;
            place.start(Proxy::Envoy)?;
            place.until_ready(Proxy::Envoy)?;
        }
        Ok(place)
    }

    /// Ends a proxy.
    pub(super) fn kill(&mut self, proxy: Proxy) -> Result<()> {
        match proxy {
            Proxy::Culvert => Ok(self.lab.kill(&process(proxy))?),
            Proxy::Envoy => {
                self.envoy = None;
                Ok(())
            }
        }
    }

    /// Starts a proxy that was ended. Does not wait for it.
    pub(super) fn start(&mut self, proxy: Proxy) -> Result<()> {
        match proxy {
            Proxy::Culvert => Ok(self.lab.restart(&process(proxy))?),
            Proxy::Envoy => {
                self.envoy = Some(self.setup.start(&self.lab)?);
                Ok(())
            }
        }
    }

    /// Waits until a proxy is ready. Ours says so; Envoy, whose configuration is whole when it starts, is when it listens.
    pub(super) fn until_ready(&self, proxy: Proxy) -> Result<()> {
        let pod = self.lab.pod(proxy.word())?;
        let ready = || match proxy {
            Proxy::Culvert => {
                let at = SocketAddr::from(([127, 0, 0, 1], READY));
                lab::http_get(pod.netns(), at, "GET", "/healthz/ready").is_ok_and(|answer| answer.status == 200)
            }
            Proxy::Envoy => self
                .pod(proxy.word())
                .is_ok_and(|ip| pod.inside(|| Ok(TcpStream::connect((ip, TUNNELS)).is_ok())).unwrap_or(false)),
        };
        let began = Instant::now();
        while !ready() {
            ensure!(began.elapsed() < PATIENCE, "{} is not ready after {PATIENCE:?}", proxy.word());
            std::thread::sleep(BETWEEN);
        }
        Ok(())
    }

    /// Number of the proxy's process.
    pub(super) fn pid(&self, proxy: Proxy) -> Result<i32> {
        match proxy {
            Proxy::Culvert => Ok(self.lab.pid(&process(proxy))?),
            Proxy::Envoy => self.envoy.as_ref().map(Envoy::pid).context("Envoy was not started"),
        }
    }

    /// Address of the service that is bound to a proxy.
    pub(super) fn service(&self, speech: Speech, proxy: Proxy) -> Result<IpAddr> {
        let name = format!("{}-{}", speech.word(), proxy.word());
        let plan = self.lab.plan();
        let service = plan.services.iter().find(|s| s.service.name == name);
        service.and_then(|s| s.vips.first().copied()).with_context(|| format!("no service {name}"))
    }

    /// Address of a pod.
    pub(super) fn pod(&self, name: &str) -> Result<IpAddr> {
        let plan = self.lab.plan();
        plan.pod(name)?.addresses.first().copied().context("a pod without an address")
    }

    /// A command in the client's pod.
    pub(super) fn client(&self, program: &str) -> Result<InsideCommand> {
        Ok(self.lab.pod("client")?.command(program))
    }

    /// Our own load in the client's pod.
    pub(super) fn load(&self, args: &[String]) -> Result<InsideCommand> {
        Ok(self.client(&self.own)?.arg(load::COMMAND).args(args))
    }

    /// Runs our own load to its end; it says one JSON line.
    pub(super) fn loaded(&self, args: &[String], within: Duration) -> Result<Value> {
        let done = self.load(args)?.timeout(within).output()?;
        let text = said(&done, args.first().map_or("load", String::as_str))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    pub(super) fn down(mut self) -> Result<()> {
        self.envoy = None;
        Ok(self.lab.down()?)
    }
}

/// Name of a waypoint's process in the lab.
fn process(proxy: Proxy) -> String {
    format!("waypoint/{}", proxy.word())
}

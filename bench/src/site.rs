//! The lab that is measured: a client, a server on its node and a server on the other node, once in the mesh and once not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Finished, InsideCommand, Lab, Options, Pod, Spec};
use serde_json::{Value, json};

use crate::Settings;
use crate::load;

/// Port of nginx.
pub(crate) const HTTP: u16 = 8080;

/// Name of the lab.
pub(crate) const NAME: &str = "bench";

/// Whether the mesh is between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Direct,
    Meshed,
}

impl Form {
    pub(crate) const BOTH: [Self; 2] = [Self::Direct, Self::Meshed];

    fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Meshed => "meshed",
        }
    }
}

/// Where the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// On the client's node.
    Near,
    /// On the other node.
    Far,
}

impl Reach {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

/// The raised lab.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    own: String,
}

/// nginx that answers so many bytes to every request.
pub(crate) fn nginx(body: usize) -> String {
    NGINX.replace("BODY", &"x".repeat(body))
}

/// Never closes a connection by itself (nginx closes after 1000 requests else).
const NGINX: &str = "
pid /tmp/nginx.pid;
error_log stderr;
worker_processes 1;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server { listen 8080; location / { return 200 \"BODY\"; } }
}
";

fn spec(own: &str, settings: &Settings) -> Result<Spec> {
    let serve = format!("nginx -p /srv -c nginx.conf && exec {own} {} serve", load::COMMAND);
    let nginx = nginx(128);
    let mut pods = Vec::new();
    for form in Form::BOTH {
        let (word, mesh) = (form.word(), form == Form::Meshed);
        pods.push(json!({"name": format!("{word}-client"), "node": "n1", "mesh": mesh}));
        for (name, node) in [("near", "n1"), ("far", "n2")] {
            pods.push(json!({
                "name": format!("{word}-{name}"), "node": node, "mesh": mesh,
                "command": ["sh", "-c", serve], "ready": {"tcp": load::SINK}, "files": {"nginx.conf": nginx},
            }));
        }
    }
    let same_node = if settings.same_node_direct { "direct" } else { "mtls" };
    let spec = json!({
        "name": NAME, "workers": settings.workers, "sameNode": same_node,
        "nodes": [{"name": "n1"}, {"name": "n2"}], "pods": pods,
    });
    serde_json::from_value(spec).context("the lab's document")
}

impl Site {
    /// Raises it.
    pub(crate) fn up(settings: &Settings) -> Result<Self> {
        let own = std::env::current_exe().context("own path")?;
        let own = own.to_str().context("own path is not text")?.to_owned();
        let began = Instant::now();
        let progress: Arc<dyn Fn(&str) + Send + Sync> =
            Arc::new(move |step| eprintln!("[{:5.1} s] {step}", began.elapsed().as_secs_f64()));
        let options = Options { keep: settings.keep, progress, ..Options::default() };
        let lab = Lab::up(&spec(&own, settings)?, &options)?;
        Ok(Self { lab, own })
    }

    /// Address of a server.
    pub(crate) fn server(&self, form: Form, reach: Reach) -> Result<IpAddr> {
        let name = format!("{}-{}", form.word(), reach.word());
        let plan = self.lab.plan();
        plan.pod(&name)?.addresses.first().copied().context("a pod without an address")
    }

    /// A command in the client's pod.
    pub(crate) fn client(&self, form: Form, program: &str) -> Result<InsideCommand> {
        Ok(self.lab.pod(&format!("{}-client", form.word()))?.command(program))
    }

    /// Our own load in the client's pod.
    pub(crate) fn load(&self, form: Form, args: &[String]) -> Result<InsideCommand> {
        Ok(self.client(form, &self.own)?.arg(load::COMMAND).args(args))
    }

    /// Runs our own load to its end; it says one JSON line.
    pub(crate) fn loaded(&self, form: Form, args: &[String], within: Duration) -> Result<Value> {
        let done = self.load(form, args)?.timeout(within).output()?;
        let text = said(&done, args.first().map_or("load", String::as_str))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Adds an idle pod to the client's node.
    pub(crate) fn add_idle_pod(&self, number: usize) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({"name": format!("idle-{number}"), "node": "n1"}))?;
        Ok(self.lab.add_pod(pod)?)
    }

    /// Numbers of the two proxies: the client's, the server's.
    pub(crate) fn proxies(&self) -> Result<[i32; 2]> {
        Ok([self.lab.pid(ZTUNNELS[0])?, self.lab.pid(ZTUNNELS[1])?])
    }
}

/// The proxies of the client's and of the server's node.
pub(crate) const ZTUNNELS: [&str; 2] = ["n1/ztunnel-1", "n2/ztunnel-1"];

/// What a command said, if it ended well.
pub(crate) fn said(done: &Finished, what: &str) -> Result<String> {
    ensure!(done.success(), "{what} failed ({}): {} {}", done.status, done.text().trim(), done.errors().trim());
    Ok(done.text())
}

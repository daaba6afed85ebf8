//! `e2e-cluster`: raises a Kubernetes of two nodes on this machine, and removes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use e2e_cluster::{Cluster, Cni, Options, ProxyMode, clusters, down, setup};

#[derive(Parser)]
#[command(about = "A real Kubernetes of two nodes on this machine, in namespaces: no Docker, no registry")]
struct Args {
    /// Name of the cluster; only one can be up at a time.
    #[arg(long, global = true, default_value = "culvert")]
    name: String,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install and build what is missing.
    Setup,
    /// Raise it, and leave it up.
    Up {
        /// How pods are joined to their node.
        #[arg(long, value_enum, default_value = "ptp")]
        cni: CniName,
        /// What kube-proxy writes its rules for.
        #[arg(long, value_enum, default_value = "iptables")]
        proxy_mode: ProxyName,
        /// Pods' packets carry their node's address once they leave it.
        #[arg(long)]
        masquerade: bool,
        /// Length of the prefix of each node's pod network.
        #[arg(long, default_value_t = 24)]
        pod_cidr_bits: u8,
    },
    /// Remove it, also after a crash. Not to have one is no error.
    Down,
    /// What runs.
    Status,
    /// Print where the administrator's kubeconfig is.
    Kubeconfig,
    /// kubectl, as administrator.
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a program beside the control plane, with KUBECONFIG set: it reaches the API server, pods and Services.
    Run {
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a program on a node.
    NodeExec {
        /// `node1` or `node2`.
        node: String,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Load an image archive into both nodes.
    LoadImage {
        /// What `cargo xtask image` or `docker save` wrote.
        archive: PathBuf,
    },
    /// Load every archive of a folder into both nodes.
    LoadImages {
        /// The folder.
        #[arg(default_value = "target/images")]
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum CniName {
    Ptp,
    Bridge,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProxyName {
    Iptables,
    Nftables,
}

fn main() -> ExitCode {
    run(Args::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: Args) -> Result<ExitCode> {
    let name = &args.name;
    let open = || Cluster::open(name);
    match args.task {
        Task::Setup => setup()?,
        Task::Up { cni, proxy_mode, masquerade, pod_cidr_bits } => {
            let (cni, proxy_mode) = (cni.into(), proxy_mode.into());
            up(Options {
                name: name.clone(),
                cni,
                proxy_mode,
                masquerade,
                pod_cidr_bits,
                keep: true,
                ..Options::default()
            })?;
        }
        Task::Down if clusters().contains(name) => {
            let begun = Instant::now();
            down(name)?;
            println!("the cluster {name} is down ({:.1} s)", begun.elapsed().as_secs_f64());
        }
        Task::Down => println!("there is no cluster {name}"),
        Task::Status => status(&open()?)?,
        Task::Kubeconfig => println!("{}", open()?.kubeconfig().display()),
        Task::Kubectl { arguments } => return become_program(open()?.kubectl_command().args(arguments)),
        Task::Run { command } => {
            let program = command[0].to_string_lossy().into_owned();
            return become_program(open()?.command(&program).args(&command[1..]));
        }
        Task::NodeExec { node, command } => {
            return become_program(open()?.node(&node)?.command(&command[0]).args(&command[1..]));
        }
        Task::LoadImage { archive } => loaded(open()?.load_image(&archive)?),
        Task::LoadImages { folder } => loaded(open()?.load_images(&folder)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(mut options: Options) -> Result<()> {
    let begun = Instant::now();
    options.progress = Arc::new(move |step| eprintln!("{:6.1} s  {step}", begun.elapsed().as_secs_f64()));
    call_off_on_signal(options.cancel.clone())?;
    let cluster = Cluster::up(&options)?;
    eprintln!("{:6.1} s  up", begun.elapsed().as_secs_f64());
    println!("{}", cluster.kubectl(&["get", "nodes", "--output=wide"])?.trim_end());
    println!("try: {} kubectl get pods -A", std::env::args().next().unwrap_or_default());
    Ok(())
}

// Ctrl-C and SIGTERM undo what was raised so far, instead of leaving it half way.
fn call_off_on_signal(cancel: Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut terminate = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("called off; undoing");
        cancel.store(true, Ordering::Relaxed);
    });
    Ok(())
}

fn status(cluster: &Cluster) -> Result<()> {
    for process in cluster.processes() {
        let is = if process.alive { "runs" } else { "ENDED" };
        println!("{:28} {is:6} {:8}  {}", process.name, process.pid, process.log.display());
    }
    for node in cluster.nodes() {
        println!(
            "{}: {}, pods {}, nsenter -t {} -n -m -u",
            node.name(),
            node.address(),
            node.pod_cidr().unwrap_or("?"),
            node.holder()
        );
    }
    println!("{}", cluster.kubectl(&["get", "nodes,pods", "--all-namespaces", "--output=wide"])?.trim_end());
    Ok(())
}

fn loaded(images: Vec<String>) {
    images.iter().for_each(|image| println!("loaded {image}"));
}

// Lets a command take our place: its terminal, its signals, its status.
fn become_program(command: &mut Command) -> Result<ExitCode> {
    let error = command.stdin(Stdio::inherit()).exec();
    Err(error).with_context(|| format!("cannot run {command:?}"))
}

impl From<CniName> for Cni {
    fn from(name: CniName) -> Self {
        match name {
            CniName::Ptp => Self::Ptp,
            CniName::Bridge => Self::Bridge,
        }
    }
}

impl From<ProxyName> for ProxyMode {
    fn from(name: ProxyName) -> Self {
        match name {
            ProxyName::Iptables => Self::Iptables,
            ProxyName::Nftables => Self::Nftables,
        }
    }
}

//! Container images without Docker: `cargo xtask image` puts built programs, the shared libraries that they name and little
//! else into archives that `ctr images import`, `docker load` and `kind load image-archive` read.

mod archive;
pub(crate) mod foreign;
mod root;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand};
use clap::Args;

use archive::Archive;
use root::Root;

/// The user of images whose program needs no rights: nobody's number, and the one that others use for it.
const NONROOT: u32 = 65532;
/// What Istio's proxies run as, and what control writes into a waypoint's pod.
const PROXY: u32 = 1337;
/// Kubernetes gives capabilities to a process of user 0 only; what these two drop is the manifest's to say.
const ROOT: u32 = 0;
/// Where our programs are in an image.
const PROGRAMS: &str = "/usr/local/bin";

/// What is in an image.
struct Image {
    name: &'static str,
    /// When it is not the version of the workspace.
    tag: Option<&'static str>,
    title: &'static str,
    /// Programs of ours: (package, program). The first is the entry point. One that its package does not have (yet) is left
    /// out, and that is said.
    programs: &'static [(&'static str, &'static str)],
    /// Arguments when none are given.
    arguments: &'static [&'static str],
    user: u32,
    /// Files of this machine, with their libraries when they are programs.
    system: &'static [&'static str],
    /// (path, text).
    files: &'static [(&'static str, &'static str)],
    /// Static busybox under all of its names.
    shell: bool,
}

impl Image {
    const fn of(name: &'static str, title: &'static str, programs: &'static [(&'static str, &'static str)]) -> Self {
        Self { name, tag: None, title, programs, arguments: &[], user: NONROOT, system: &[], files: &[], shell: false }
    }
}

const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A web server for tests: says its host name on port 8080, whatever user it runs as.
const NGINX: &str = "\
user root;
error_log stderr;
pid /tmp/nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server {
        listen 8080;
        listen [::]:8080;
        default_type text/plain;
        location / { return 200 \"$hostname\\n\"; }
    }
}
";

/// All images.
const IMAGES: &[Image] = &[
    Image { user: ROOT, ..Image::of("ztunnel", "The node proxy of Culvert", &[("ztunnel", "ztunnel")]) },
    Image {
        user: ROOT,
        ..Image::of(
            "culvert-node",
            "The node agent of Culvert, and its CNI plug-in",
            &[("node", "culvert-node"), ("node", "culvert-cni")],
        )
    },
    // Backends with certificates of public authorities (BackendTLSPolicy, `System`).
    Image {
        user: PROXY,
        system: &[ROOTS],
        ..Image::of("waypoint", "The waypoint of Culvert", &[("waypoint", "waypoint")])
    },
    Image::of("culvert-ca", "The certificate authority of Culvert", &[("ca", "culvert-ca")]),
    // Keys of token issuers are fetched from public servers.
    Image {
        system: &[ROOTS],
        ..Image::of("culvert-control", "The control plane of Culvert", &[("control", "culvert-control")])
    },
    Image { system: &[ROOTS], ..Image::of("culvert", "The command line of Culvert", &[("culvert", "culvert")]) },
    Image {
        tag: Some("test"),
        arguments: &["serve"],
        system: &["/usr/bin/curl", "/usr/sbin/nginx", ROOTS],
        files: &[("/etc/nginx/nginx.conf", NGINX)],
        shell: true,
        ..Image::of(
            "echo",
            "Servers and clients for tests of Culvert",
            &[("e2e-lab", "e2e-peer"), ("e2e-lab", "e2e-load")],
        )
    },
];

/// `cargo xtask image`.
#[derive(Args)]
pub(crate) struct ImageArgs {
    /// Which ones; all when none is named.
    names: Vec<String>,
    /// Folder of the built programs below the target folder: `debug` or `release`.
    #[arg(long, default_value = "debug")]
    profile: String,
    /// Where the archives go, as `<name>.tar`.
    #[arg(long, default_value = "target/images")]
    out: PathBuf,
}

/// Makes archives; prints the name and digest of each.
pub(crate) fn make(args: &ImageArgs, workspace: &Path) -> Result<()> {
    let metadata = MetadataCommand::new().manifest_path(workspace.join("Cargo.toml")).no_deps().exec();
    let metadata = metadata.context("cargo metadata failed")?;
    let known = || IMAGES.iter().map(|i| i.name).collect::<Vec<_>>().join(", ");
    for name in &args.names {
        ensure!(IMAGES.iter().any(|i| i.name == name), "there is no image {name}; there is: {}", known());
    }
    let out = workspace.join(&args.out);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let built = metadata.target_directory.as_std_path().join(&args.profile);
    let wanted = |image: &&Image| args.names.is_empty() || args.names.iter().any(|n| n == image.name);
    for image in IMAGES.iter().filter(wanted) {
        let digest = one(image, &metadata, &built, &out).with_context(|| format!("image {}", image.name))?;
        println!("{} {digest} {}", reference(image), out.join(format!("{}.tar", image.name)).display());
    }
    Ok(())
}

fn one(image: &Image, metadata: &Metadata, built: &Path, out: &Path) -> Result<String> {
    let mut root = Root::new(&out.join(format!(".{}", image.name)), image.user)?;
    for (package, program) in image.programs {
        if !declared(metadata, package, program)? {
            eprintln!("{}: left out {program}: the package {package} has no such program", image.name);
            continue;
        }
        let path = built.join(program);
        ensure!(path.is_file(), "{} is not there; build it first (cargo build -p {package})", path.display());
        root.add_built(&path, &format!("{PROGRAMS}/{program}"))?;
    }
    image.system.iter().try_for_each(|path| root.add_system(Path::new(path)))?;
    image.files.iter().try_for_each(|(path, text)| root.add_text(path, text))?;
    if image.shell {
        root.add_busybox()?;
    }
    let Some((package, program)) = image.programs.first() else { bail!("it has no program") };
    let archive = Archive {
        reference: reference(image),
        user: image.user,
        entrypoint: format!("{PROGRAMS}/{program}"),
        arguments: image.arguments,
        labels: labels(image, metadata, package)?,
    };
    let digest = archive.write(root.path(), &out.join(format!("{}.tar", image.name)))?;
    root.remove()?;
    Ok(digest)
}

fn reference(image: &Image) -> String {
    format!("culvert.dev/{}:{}", image.name, image.tag.unwrap_or(env!("CARGO_PKG_VERSION")))
}

/// Whether a package has a program.
fn declared(metadata: &Metadata, package: &str, program: &str) -> Result<bool> {
    let found = metadata.packages.iter().find(|p| p.name.as_str() == package);
    let targets = &found.with_context(|| format!("there is no package {package}"))?.targets;
    Ok(targets.iter().any(|t| t.is_bin() && t.name == program))
}

fn labels(image: &Image, metadata: &Metadata, package: &str) -> Result<serde_json::Value> {
    let found = metadata.packages.iter().find(|p| p.name.as_str() == package);
    let license = found.and_then(|p| p.license.clone()).context("the package names no licence")?;
    // The workspace's, where a package does not repeat it.
    let source = metadata.packages.iter().find_map(|p| p.repository.clone());
    Ok(serde_json::json!({
        "org.opencontainers.image.title": image.title,
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": license,
        "org.opencontainers.image.source": source.unwrap_or_else(|| "https://culvert.dev".to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_every_image_has_a_program_that_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec().unwrap();
        for (at, image) in IMAGES.iter().enumerate() {
            assert!(IMAGES[..at].iter().all(|other| other.name != image.name), "{} twice", image.name);
            let (package, program) = image.programs[0];
            assert!(declared(&metadata, package, program).unwrap(), "{package} has no program {program}");
        }
    }
}

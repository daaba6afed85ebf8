//! The archive of an image as `docker save` writes it: a layer, a configuration, a manifest. The same files give the same
//! archive, byte for byte.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// What is said of an image.
pub(super) struct Archive {
    pub(super) reference: String,
    pub(super) user: u32,
    pub(super) entrypoint: String,
    pub(super) arguments: &'static [&'static str],
    pub(super) labels: Value,
}

impl Archive {
    /// Writes the archive of `root`; gives back the image's digest, which is that of its configuration.
    pub(super) fn write(&self, root: &Path, archive: &Path) -> Result<String> {
        let staging = archive.with_extension("staging");
        fs::create_dir_all(&staging).with_context(|| format!("cannot make {}", staging.display()))?;
        tar(root, &["."], &staging.join("layer.tar"))?;
        let layer = sha256(&staging.join("layer.tar"))?;
        let config = staging.join("config.json");
        write_json(&config, &self.config(&layer))?;
        let digest = sha256(&config)?;
        let named = format!("{digest}.json");
        fs::rename(&config, staging.join(&named)).context("cannot name the configuration")?;
        let manifest = json!([{"Config": named, "RepoTags": [self.reference], "Layers": ["layer.tar"]}]);
        write_json(&staging.join("manifest.json"), &manifest)?;
        // By a rename, so that nobody loads half an archive.
        let beside = archive.with_extension("tar.new");
        tar(&staging, &["manifest.json", &named, "layer.tar"], &beside)?;
        fs::rename(&beside, archive).with_context(|| format!("cannot write {}", archive.display()))?;
        fs::remove_dir_all(&staging).with_context(|| format!("cannot remove {}", staging.display()))?;
        Ok(format!("sha256:{digest}"))
    }

    fn config(&self, layer: &str) -> Value {
        // As Go names the machines that Rust names otherwise.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            // The same build at another hour is the same image.
            "created": "1970-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": format!("{0}:{0}", self.user),
                "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": [self.entrypoint],
                "Cmd": self.arguments,
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        })
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn tar(folder: &Path, names: &[&str], to: &Path) -> Result<()> {
    let fixed = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--format=gnu"];
    let status = Command::new("tar").args(fixed).arg("-C").arg(folder).arg("-cf").arg(to).args(names).status();
    ensure!(status.context("cannot run tar")?.success(), "tar failed on {}", folder.display());
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output().context("cannot run sha256sum")?;
    ensure!(output.status.success(), "sha256sum failed on {}", path.display());
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().map(str::to_owned).context("sha256sum said nothing")
}

//! An image of Istio's own proxy, made of a binary that somebody built: nothing of it is in this tree or in a registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The image's name.
pub(crate) const NAME: &str = "culvert.dev/istio-ztunnel:test";

/// Its archive, in a folder that goes with this.
pub(crate) struct Image {
    folder: PathBuf,
}

impl Image {
    /// Ours with the other binary as a second layer: it needs the same libraries and is started in the same way.
    pub(crate) fn make(binary: &Path) -> Result<Self> {
        let image = Self { folder: std::env::temp_dir().join(format!("culvert-stock-{}", std::process::id())) };
        let (parts, root) = (image.folder.join("parts"), image.folder.join("root"));
        let programs = root.join("usr/local/bin");
        fs::create_dir_all(&programs)?;
        fs::create_dir_all(&parts)?;
        fs::copy(binary, programs.join("ztunnel")).with_context(|| binary.display().to_string())?;
        let ours = crate::common::workspace().join("target/images/ztunnel.tar");
        run("tar", &[&["-C", &text(&parts), "-xf"], &[&*text(&ours)][..]].concat())
            .context("run cargo xtask image ztunnel")?;
        let layer = parts.join("istio.tar");
        let owner = ["--owner=0", "--group=0", "--numeric-owner"];
        run("tar", &[&["-C", &text(&root)][..], &owner, &["-cf", &text(&layer), "usr"]].concat())?;
        let hash = run("sha256sum", &[&text(&layer)])?;
        let hash = hash.split_whitespace().next().context("sha256sum said nothing")?;

        let mut manifest = read(&parts.join("manifest.json"))?;
        let mut config = read(&parts.join(manifest[0]["Config"].as_str().context("no configuration")?))?;
        let diffs = config.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut).context("no layers")?;
        diffs.push(json!(format!("sha256:{hash}")));
        fs::write(parts.join("config.json"), config.to_string())?;
        manifest[0]["Config"] = json!("config.json");
        manifest[0]["RepoTags"] = json!([NAME]);
        manifest[0]["Layers"].as_array_mut().context("no layers")?.push(json!("istio.tar"));
        fs::write(parts.join("manifest.json"), manifest.to_string())?;
        let files = ["manifest.json", "config.json", "layer.tar", "istio.tar"];
        run("tar", &[&["-C", &text(&parts), "-cf", &text(&image.archive())][..], &files].concat())?;
        Ok(image)
    }

    /// As `ctr images import` reads it.
    pub(crate) fn archive(&self) -> PathBuf {
        self.folder.join("image.tar")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            println!("{}: {error}", self.folder.display());
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path).with_context(|| text(path))?)?)
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {complaint}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

//! An image of programs that are not ours, from the files that it is told: `cargo xtask image-of`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::archive::Archive;
use super::root::Root;

/// `cargo xtask image-of`.
#[derive(Args)]
pub(crate) struct ForeignArgs {
    /// Its name and tag, in full.
    reference: String,
    /// A file of this machine and its path in the image, as `FROM:TO`; several times. What is executable stays so.
    #[arg(long = "file", required = true)]
    files: Vec<String>,
    /// The program that a container of it runs, as its path in the image.
    #[arg(long)]
    entrypoint: String,
    /// The user whom that runs as.
    #[arg(long, default_value_t = super::NONROOT)]
    user: u32,
    /// The archive.
    #[arg(long)]
    out: PathBuf,
}

/// Makes the archive; prints the image's name and digest.
pub(crate) fn make(args: &ForeignArgs) -> Result<()> {
    let folder = args.out.parent().context("the archive's path names no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut root = Root::new(&args.out.with_extension("root"), args.user)?;
    let mut inside = Vec::new();
    for file in &args.files {
        let (from, to) = file.split_once(':').with_context(|| format!("{file} is not FROM:TO"))?;
        root.add_as(Path::new(from), to)?;
        inside.push(to);
    }
    ensure!(inside.contains(&args.entrypoint.as_str()), "no --file ends in :{}", args.entrypoint);
    let archive = Archive {
        reference: args.reference.clone(),
        user: args.user,
        entrypoint: args.entrypoint.clone(),
        arguments: &[],
        labels: serde_json::json!({}),
    };
    let digest = archive.write(root.path(), &args.out)?;
    root.remove()?;
    println!("{} {digest} {}", args.reference, args.out.display());
    Ok(())
}

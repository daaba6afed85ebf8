//! House rules and generated files, as a program: `cargo xtask <task>`.

mod edges;
mod image;
mod sizes;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "House rules and generated files of Culvert")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Checks the arrows between crates, and the sizes of files and functions.
    Tidy,
    /// Makes container images of built programs, as archives.
    Image(image::ImageArgs),
    /// Makes a container image of files of others, as an archive.
    ImageOf(image::foreign::ForeignArgs),
}

fn main() -> ExitCode {
    match Args::parse().task {
        Task::Tidy => report(tidy()),
        Task::Image(args) => made(workspace().and_then(|root| image::make(&args, &root))),
        Task::ImageOf(args) => made(image::foreign::make(&args)),
    }
}

fn made(image: Result<()>) -> ExitCode {
    match image {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn workspace() -> Result<PathBuf> {
    Ok(PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?.to_owned())
}

fn report(found: Result<Vec<String>>) -> ExitCode {
    match found {
        Ok(faults) if faults.is_empty() => {
            println!("tidy: the arrows and sizes hold");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            for fault in &faults {
                eprintln!("{fault}");
            }
            eprintln!("tidy: {} broken rules", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every broken rule, as a line that names the place and the remedy.
fn tidy() -> Result<Vec<String>> {
    let root = workspace()?;
    let mut faults = edges::check(&root)?;
    faults.extend(sizes::check(&root)?);
    Ok(faults)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        let faults = super::tidy().unwrap();
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }
}

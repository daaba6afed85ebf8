//! The node proxy. It gives the pods of its node an identity, mutual TLS and L4 policy, and carries their connections
//! over HBONE. See ARCHITECTURE.md for the story of one connection.

mod admin;
mod app;
mod budget;
mod carry;
mod config;
mod config_dump;
mod dial;
mod discovery;
mod dns;
mod dropin;
mod egress;
mod here;
mod inbound;
mod judge;
mod outbound;
mod plaintext;
mod pod;
mod pods;
mod rights;
mod same_node;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::Config;
use crate::dropin::Environment;

#[derive(Parser)]
#[command(name = "ztunnel", version, about = "Culvert's node proxy")]
struct Args {
    /// Configuration, YAML. Without it: /etc/culvert/ztunnel.yaml, or, where that is not there, what Istio's variables
    /// in the environment say (docs/drop-in.md).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only say whether the configuration is right.
    #[arg(long)]
    check: bool,
    /// `proxy ztunnel`: run by the variables of Istio's ztunnel. `version`: print the version.
    words: Vec<String>,
}

/// Where the configuration comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Environment,
    File(PathBuf),
    /// Nowhere: only print the version.
    Version,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A value that is not Unicode is no value that any variable here can have; it shows in the mistake.
    let environment: Environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let config = match source(&args, &environment, chassis::config::default_path("ztunnel")) {
        Ok(Source::Version) => {
            println!("ztunnel {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Source::File(path)) if args.check => return chassis::config::check::<Config>(&path),
        Ok(Source::File(path)) => chassis::config::load::<Config>(&path),
        Ok(Source::Environment) => from_environment(&environment),
        Err(what) => {
            eprintln!("ztunnel: {what}");
            // As clap's own errors of usage.
            return ExitCode::from(2);
        }
    };
    let config = match config {
        Ok(_) if args.check => {
            println!("environment: no mistakes");
            return ExitCode::SUCCESS;
        }
        Ok(config) => config,
        Err(status) => return status,
    };
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the arguments mean. `default` is the file that is read when nothing else is said.
fn source(args: &Args, environment: &Environment, default: PathBuf) -> Result<Source, String> {
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match (&words[..], &args.config) {
        (["version"], _) => Ok(Source::Version),
        ([], Some(path)) => Ok(Source::File(path.clone())),
        (["proxy"] | ["proxy", "ztunnel"] | ["ztunnel"], None) => Ok(Source::Environment),
        ([], None) if !default.exists() && dropin::is_meant(environment) => Ok(Source::Environment),
        ([], None) => Ok(Source::File(default)),
        (["proxy" | "ztunnel", ..], Some(_)) => {
            Err("`proxy ztunnel` reads the environment; leave it out to use --config".to_owned())
        }
        (other, _) => Err(format!("{:?} is not known; use `proxy ztunnel`, `version` or --config", other.join(" "))),
    }
}

fn from_environment(environment: &Environment) -> Result<Config, ExitCode> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    dropin::from_env(environment, cpus).map_err(|mistakes| {
        mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
        let count = mistakes.len();
        eprintln!("{count} mistake{} in the environment", if count == 1 { "" } else { "s" });
        ExitCode::from(chassis::config::EX_CONFIG)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_arguments_mean_the_environment_and_a_file_goes_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let (there, missing) = (folder.path().join("there.yaml"), folder.path().join("missing.yaml"));
        std::fs::write(&there, "").unwrap();
        let istio: Environment = [("XDS_ADDRESS".to_owned(), "x".to_owned())].into();
        let none = Environment::new();
        let of = |line: &str, environment: &Environment, default: &PathBuf| {
            let args = Args::try_parse_from(std::iter::once("ztunnel").chain(line.split_whitespace())).unwrap();
            source(&args, environment, default.clone())
        };
        for line in ["proxy ztunnel", "proxy", "ztunnel"] {
            assert_eq!(of(line, &none, &there), Ok(Source::Environment), "{line}");
        }
        assert_eq!(of("version", &istio, &there), Ok(Source::Version));
        assert_eq!(of("", &istio, &missing), Ok(Source::Environment));
        assert_eq!(of("", &istio, &there), Ok(Source::File(there.clone())));
        assert_eq!(of("", &none, &missing), Ok(Source::File(missing.clone())));
        assert_eq!(of("--config /a.yaml", &istio, &missing), Ok(Source::File("/a.yaml".into())));
        assert!(of("proxy ztunnel --config /a.yaml", &istio, &missing).is_err());
        assert!(of("proxy sidecar", &istio, &missing).unwrap_err().contains("proxy sidecar"));
    }
}

//! Configuration documents: read once, all mistakes told at once, before anything else happens.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use document::{Check, Mistakes};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// Exit status for a configuration that cannot be used: `EX_CONFIG` of sysexits.h, so that a supervisor can tell it from
/// a crash.
pub const EX_CONFIG: u8 = 78;

/// Where a program's document is unless it is told (design.md 7).
pub fn default_path(program: &str) -> PathBuf {
    PathBuf::from(format!("/etc/culvert/{program}.yaml"))
}

/// Reads the document, or prints every mistake to standard error and gives the status to exit with. `${NAME}` in a text
/// stands for the variable of the environment: one document serves every node. Nothing else reads the environment.
///
/// # Errors
/// The exit status, when there are mistakes. They are printed already.
pub fn load<T: DeserializeOwned + JsonSchema + Check>(path: &Path) -> Result<T, ExitCode> {
    document::load_with(path, |name| std::env::var(name).ok()).map_err(|mistakes| {
        report(&mistakes, &mut std::io::stderr());
        ExitCode::from(EX_CONFIG)
    })
}

/// `--check`: reads the document, says what is wrong or that nothing is, and does no more.
pub fn check<T: DeserializeOwned + JsonSchema + Check>(path: &Path) -> ExitCode {
    match load::<T>(path) {
        Ok(_) => {
            // A closed standard output changes nothing about the verdict.
            writeln!(std::io::stdout(), "{}: no mistakes", path.display()).ok();
            ExitCode::SUCCESS
        }
        Err(status) => status,
    }
}

fn report(mistakes: &Mistakes, out: &mut impl Write) {
    for mistake in &mistakes.0 {
        // A closed standard error changes nothing about the verdict.
        writeln!(out, "{mistake}").ok();
    }
    let count = mistakes.0.len();
    writeln!(out, "{count} mistake{} in the configuration", if count == 1 { "" } else { "s" }).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        port: u16,
        #[allow(dead_code)]
        name: String,
    }

    impl Check for Settings {
        fn check(&self, report: &mut document::Report) {
            if self.port == 0 {
                report.at("/port").mistake("0 is not a port", "use 1 to 65535");
            }
        }
    }

    #[test]
    fn every_mistake_is_printed() {
        let Err(mistakes) = document::parse::<Settings>("a.yaml", "port: 0\nname: x\nnmae: y\n") else {
            panic!("accepted");
        };
        let mut out = Vec::new();
        report(&mistakes, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("a.yaml:3"), "{text}");
        assert!(text.ends_with("in the configuration\n"), "{text}");
    }

    #[test]
    fn an_unreadable_document_is_a_mistake_and_not_a_panic() {
        assert!(load::<Settings>(Path::new("/nonexistent/culvert.yaml")).is_err());
        assert_eq!(default_path("ztunnel"), Path::new("/etc/culvert/ztunnel.yaml"));
    }
}

//! Takes a cluster down when its owner is killed: a destructor does not run then, as on Ctrl-C in a test.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::{ClusterError, Doing};

// Its stdin is a pipe from the owner, which the kernel closes when that ends, however it does.
const WATCH: &str = r#"while read -r line; do :; done; exec "$@""#;

/// A process that outlives its owner by as long as taking the cluster down takes.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Starts one; none where our program is not beside the owner's.
    pub(crate) fn start(cluster: &str) -> Result<Option<Self>, ClusterError> {
        let Some(program) = program()? else {
            tracing::debug!("no e2e-cluster to guard the cluster with; after a kill take it down by hand");
            return Ok(None);
        };
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh"]).arg(program).args(["--name", cluster, "down"]);
        // Of a group of its own, so that Ctrl-C at the terminal does not end it as well.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Some(Self(command.spawn().doing(|| "cannot start the cluster's guard".to_owned())?)))
    }

    /// Ends it without taking the cluster down.
    pub(crate) fn dismiss(mut self) -> Result<(), ClusterError> {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        ended.map(drop).doing(|| "cannot end the cluster's guard".to_owned())
    }
}

// Beside our executable, or one folder up, where a test's executable has the programs.
fn program() -> Result<Option<PathBuf>, ClusterError> {
    let exe = env::current_exe().doing(|| "cannot find our own executable".to_owned())?;
    let folders = [exe.parent(), exe.parent().and_then(Path::parent)];
    Ok(folders.into_iter().flatten().map(|f| f.join("e2e-cluster")).find(|p| p.is_file()))
}

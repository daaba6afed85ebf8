//! Tools of the system: `ip`, `nft`, `tcpdump`; run with checked status, found once.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Doing, LabError};

/// A tool and Debian's package with it.
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
}

pub(crate) const IP: Tool = Tool { name: "ip", package: "iproute2" };
pub(crate) const NFT: Tool = Tool { name: "nft", package: "nftables" };
pub(crate) const TCPDUMP: Tool = Tool { name: "tcpdump", package: "tcpdump" };
pub(crate) const PYTHON: Tool = Tool { name: "python3", package: "python3-venv" };

/// Administrators' tools are there also when PATH does not say so (Debian's `su` keeps a user's PATH).
const SBIN: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// PATH of everything that runs in a lab.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Tool {
    /// Where it is.
    ///
    /// # Errors
    /// When it is nowhere; the text names the package.
    pub(crate) fn path(&self) -> Result<PathBuf, LabError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut folders = env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
        let found = folders.find_map(|f| Some(f.join(self.name)).filter(|p| p.is_file()));
        found.ok_or(LabError::NoTool { tool: self.name.to_owned(), package: self.package })
    }

    /// Runs it to its end with `input`, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When it is missing or fails, with what it said.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Result<String, LabError> {
        let mut command = Command::new(self.path()?);
        command.args(args);
        run(command, input)
    }
}

/// Runs a command to its end with `input`; gives back what it said on stdout.
pub(crate) fn run(mut command: Command, input: &str) -> Result<String, LabError> {
    let line = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.doing(|| format!("cannot start {line}"))?;
    // Tools read all their input before they answer at length, so that neither pipe can fill up while we write.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().doing(|| format!("cannot wait for {line}"))?;
    if !output.status.success() {
        let mut stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !input.is_empty() {
            stderr.push_str("\n--- its input was:\n");
            stderr.push_str(input);
        }
        return Err(LabError::Tool { command: line, status: output.status.to_string(), stderr });
    }
    written.doing(|| format!("cannot write to {line}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! Programs that are run to their end, with checked status.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::error::{ClusterError, Doing};
use crate::process::enter;

/// PATH of everything that runs in a cluster.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command to its end with `input`; gives back what it said on stdout.
///
/// # Errors
/// When it does not start or fails, with what it said.
pub(crate) fn run(mut command: Command, input: &str) -> Result<String, ClusterError> {
    let line = line_of(&command);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.doing(|| format!("cannot start {line}"))?;
    // Who reads a document answers after its end, so that neither pipe fills up while we write.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let said = finish(child, &line)?;
    // Who closed the pipe and failed has said why; who succeeded without reading must be a mistake of ours.
    written.doing(|| format!("cannot write to {line}"))?;
    Ok(said)
}

/// The same with a file as its input.
///
/// # Errors
/// When it does not start or fails, with what it said.
pub(crate) fn run_on(mut command: Command, input: File) -> Result<String, ClusterError> {
    let line = line_of(&command);
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    finish(child.doing(|| format!("cannot start {line}"))?, &line)
}

fn finish(child: Child, line: &str) -> Result<String, ClusterError> {
    let output = child.wait_with_output().doing(|| format!("cannot wait for {line}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ClusterError::Tool { command: line.to_owned(), status: output.status.to_string(), stderr });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with a batch of commands in the network of a hub or node.
pub(crate) fn ip(holder: u32, batch: &str) -> Result<(), ClusterError> {
    run(on_node(holder, &["ip", "-batch", "-"]), batch).map(drop)
}

/// A short-lived tool of ours in the namespaces of a hub or node.
pub(crate) fn on_node(holder: u32, argv: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(&enter(holder)[1..]).args(argv).env("PATH", SEARCH_PATH);
    command
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

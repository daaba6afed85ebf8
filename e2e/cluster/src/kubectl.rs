//! kubectl on a cluster.

use std::process::Command;

use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::tool::run;

impl Cluster {
    /// Runs kubectl as administrator to its end; gives back what it said on stdout.
    ///
    /// # Errors
    /// When it fails, with what it said on stderr.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        self.kubectl_with(arguments, "")
    }

    /// The same with something to read on stdin.
    ///
    /// # Errors
    /// When it fails, with what it said on stderr.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, ClusterError> {
        let mut command = self.kubectl_command();
        command.args(arguments);
        run(command, input)
    }

    /// A kubectl that the caller starts: for port-forward, logs that follow, and terminals.
    pub fn kubectl_command(&self) -> Command {
        let program = self.state().parts.program("kubectl");
        self.command(&program)
    }

    /// Server-side apply of one or more documents (YAML or JSON). What others had set is taken over.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, documents: &str) -> Result<String, ClusterError> {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], documents)
    }

    /// Deletes what such documents describe, and waits until it is gone. What is not there is no error.
    ///
    /// # Errors
    /// When the API server refuses, or a finalizer holds one.
    pub fn delete(&self, documents: &str) -> Result<String, ClusterError> {
        self.kubectl_with(&["delete", "--ignore-not-found", "--wait", "-f", "-"], documents)
    }
}

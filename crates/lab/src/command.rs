//! Running commands inside a lab: `lab.pod("web")?.command("curl").args(["-s", url]).output()?`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError};
use crate::inside::Enter;
use crate::process;
use crate::tools::SEARCH_PATH;

/// Time that a command has when nothing else is said: longer than any wait built into the mesh (5 s), short enough for
/// a test that hangs to be noticed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A command to be run inside the lab.
#[derive(Clone, Debug)]
pub struct InsideCommand {
    enter: Enter,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// How a command ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

/// A command that runs. It is killed and waited for when this is dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    guard: Guard,
}

impl InsideCommand {
    pub(crate) fn new(enter: Enter, env: BTreeMap<String, String>, program: &str) -> Self {
        Self { enter, argv: vec![program.to_owned()], env, stdin: Vec::new(), timeout: TIMEOUT }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// What it reads from stdin; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Time that it has; 30 s otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs as this user and group, without any capability.
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.enter.user = Some((user, group));
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot start or runs out of time, in which case it is killed. A status other than 0 is no error.
    pub fn output(self) -> Result<Finished, LabError> {
        let timeout = self.timeout;
        let stdin = self.stdin.clone();
        let mut running = self.spawn()?;
        if let Some(mut to) = running.stdin() {
            // A command that does not read all of it ends the writer with EPIPE, which is its own affair.
            thread::spawn(move || to.write_all(&stdin));
        }
        running.finish(timeout)
    }

    /// Starts it, with pipes to all three of its streams.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn spawn(self) -> Result<Running, LabError> {
        let what = self.argv.join(" ");
        let mut command = self.prepared()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().doing(|| format!("cannot start {what}"))?;
        Ok(Running { what, guard: Guard { child: Some(child) } })
    }

    /// Runs it on the terminal of the calling process, without a time limit.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn attached(mut self) -> Result<ExitStatus, LabError> {
        // What terminals tell their programs.
        for name in ["TERM", "COLUMNS", "LINES"] {
            if let Ok(value) = std::env::var(name) {
                self.env.insert(name.to_owned(), value);
            }
        }
        let what = self.argv.join(" ");
        self.prepared()?.status().doing(|| format!("cannot start {what}"))
    }

    fn prepared(&self) -> Result<Command, LabError> {
        let mut command = self.enter.command(&self.argv)?;
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", "/root").env("LANG", "C.UTF-8").envs(&self.env);
        Ok(command)
    }
}

impl Running {
    /// The pipe to its stdin, once. Dropping it is the end of its input.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.guard.child.as_mut()?.stdin.take()
    }

    /// The pipe from its stdout, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.guard.child.as_mut()?.stdout.take()
    }

    /// The pipe from its stderr, once.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.guard.child.as_mut()?.stderr.take()
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.guard.pid()
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        process::handle(self.pid(), None).is_some_and(|h| !process::ended(&h))
    }

    /// Waits for its end, with what it said on the pipes that nobody took.
    ///
    /// # Errors
    /// When time runs out; it is killed then.
    pub fn finish(mut self, within: Duration) -> Result<Finished, LabError> {
        let deadline = Instant::now() + within;
        let late = || LabError::TimedOut { what: self.what.clone(), after: within };
        let stdout = self.guard.child.as_mut().and_then(|c| c.stdout.take()).map(collect);
        let stderr = self.guard.child.as_mut().and_then(|c| c.stderr.take()).map(collect);
        if let Some(handle) = process::handle(self.pid(), None)
            && !process::wait_for(&[handle], within)
        {
            return Err(late());
        }
        let text = |pipe: Option<mpsc::Receiver<Vec<u8>>>| match pipe {
            None => Ok(Vec::new()),
            // A child of the command may hold the pipe open after its end.
            Some(pipe) => {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
                pipe.recv_timeout(left).map_err(|_| late())
            }
        };
        let (stdout, stderr) = (text(stdout)?, text(stderr)?);
        let status = self.guard.wait().doing(|| format!("cannot wait for {}", self.what))?;
        Ok(Finished { status, stdout, stderr })
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(self) {
        drop(self);
    }
}

/// A child that is killed and waited for when this is dropped.
#[derive(Debug)]
pub struct Guard {
    child: Option<Child>,
}

impl Guard {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().and_then(|c| i32::try_from(c.id()).ok()).unwrap_or_default()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> std::io::Result<ExitStatus> {
        match self.child.take() {
            Some(mut child) => child.wait(),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.kill().and_then(|()| child.wait().map(drop))
        {
            tracing::warn!(%error, pid = child.id(), "cannot end a command");
        }
    }
}

// Reads a pipe to its end on a thread of its own, so that neither pipe can fill up while the other is read.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.read_to_end(&mut bytes);
        // Nobody listens any more after a timeout.
        let sent = sender.send(bytes);
        tracing::trace!(?read, delivered = sent.is_ok(), "end of a pipe");
    });
    receiver
}

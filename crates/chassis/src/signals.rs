//! Signals: the first SIGTERM or SIGINT begins the drain, the second forces it.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal as Unix, SignalKind, signal};

use crate::drain::{Drain, Ended};

/// The two signals that end a program. From the moment it is made they do not kill the process any more.
#[derive(Debug)]
pub struct Signals {
    terminate: Unix,
    interrupt: Unix,
}

impl Signals {
    /// Takes the signals over. Must be called on a runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of the two and says which.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Runs the end of a program: waits for a signal (or for somebody else to begin the drain), drains until
    /// `deadline`, forces at a second signal, and returns when the drain has ended.
    pub async fn drain(mut self, drain: &Drain, deadline: Duration) -> Ended {
        let signalled = drain.signal();
        tokio::select! {
            name = self.next() => {
                tracing::info!(signal = name, deadline = ?deadline, "draining");
                drain.begin(deadline);
            }
            () = signalled.draining() => tracing::info!("draining"),
        }
        let mut ended = std::pin::pin!(drain.ended());
        let ended = tokio::select! {
            ended = &mut ended => ended,
            name = self.next() => {
                tracing::warn!(signal = name, guards = drain.guards(), "second signal: ending everything now");
                drain.force();
                ended.await
            }
        };
        match ended {
            Ended::Clean => tracing::info!("drained"),
            Ended::Forced { left } => tracing::warn!(left, "drain ended by force"),
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a signal to this test's own process, by the tool for it: there is no safe call in std.
    fn kill(name: &str) {
        let own = std::process::id().to_string();
        let status = std::process::Command::new("kill").args([&format!("-{name}"), own.as_str()]).status().unwrap();
        assert!(status.success());
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_forces() {
        let drain = Drain::new();
        let signals = Signals::install().unwrap();
        let signal = drain.signal();
        let guard = signal.guard();
        let work = tokio::spawn({
            let signal = signal.clone();
            async move {
                signal.forced().await;
                drop(guard);
            }
        });
        let ended = tokio::spawn({
            let drain = drain.clone();
            async move { signals.drain(&drain, Duration::from_secs(600)).await }
        });
        assert!(signal.is_running());
        kill("TERM");
        signal.draining().await;
        assert!(!ended.is_finished());
        kill("INT");
        assert_eq!(ended.await.unwrap(), Ended::Forced { left: 0 });
        work.await.unwrap();
    }
}

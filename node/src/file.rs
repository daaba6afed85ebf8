//! Pods by a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use document::watch::Watcher;
use tokio::sync::{mpsc, oneshot};

use crate::agent::{Agent, Entry, Wish};
use crate::app::Events;
use crate::config::PodsFile;
use crate::status::Status;

/// How often leaving pods are looked after: the kernel does not tell when a pod's last captured connection has ended.
const LOOK: Duration = Duration::from_millis(200);

/// A list of pods, and where it came from.
pub(crate) struct Listed {
    path: PathBuf,
    pods: PodsFile,
}

impl Listed {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), pods: document::load::<PodsFile>(path)? })
    }
}

/// Follows the list and the proxies for ever.
pub(crate) async fn follow(
    (mut agent, mut events): (Agent, Events),
    listed: Listed,
    node: &str,
    mut asked: mpsc::Receiver<oneshot::Sender<Status>>,
) -> Result<()> {
    let Listed { path, pods } = listed;
    agent.apply(wish(pods));
    let mut watcher = Watcher::new(&path).with_context(|| format!("{}: cannot be watched", path.display()))?;
    let mut look = tokio::time::interval(LOOK);
    let mut leaving = true;
    // What was written between the first reading and the watch.
    read_again(&mut agent, &path);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    agent.proxy(event);
                    // A pod may have been captured, whose old connections have a deadline.
                    leaving = true;
                }
                None => bail!("the hand-over socket is gone"),
            },
            changed = watcher.changed() => {
                changed.with_context(|| format!("{}: cannot be watched any more", path.display()))?;
                read_again(&mut agent, &path);
                leaving = true;
            }
            // The sender lives in the routes of the admin server, which end with this.
            Some(answer) = asked.recv() => {
                let (pods, proxies) = agent.shown();
                let told = answer.send(Status { node: node.to_owned(), pods, proxies, ..Status::default() });
                tracing::trace!(told = told.is_ok(), "status");
            }
            _tick = look.tick(), if leaving => leaving = agent.tick(),
        }
    }
}

fn read_again(agent: &mut Agent, path: &Path) {
    match document::load::<PodsFile>(path) {
        Ok(list) => agent.apply(wish(list)),
        Err(mistakes) => tracing::warn!(file = %path.display(), %mistakes, "list of pods not taken over"),
    }
}

fn wish(list: PodsFile) -> Wish {
    Wish { entries: list.pods.into_iter().map(Entry::from).collect(), ..Wish::default() }
}

//! Lines to a log stream by a thread of their own: who writes a line never waits for the stream.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::access;
use crate::facts::Facts;
use crate::logging::LogFormat;
use crate::numbers::Counter;
use crate::request::{self, RequestFacts};

/// Lines that wait at most. A stuck stream (a full pipe of the container runtime) holds some megabytes, then drops.
pub const QUEUE: usize = 8_192;

/// The way to a log stream. Clones share the queue and the thread; the thread ends when the last clone is gone.
#[derive(Clone)]
pub struct LineWriter {
    queue: SyncSender<Entry>,
    dropped: Counter,
    failed: Counter,
}

/// What the thread is asked to do.
pub(crate) enum Entry {
    /// Write these bytes.
    Line(Vec<u8>),
    /// Format and write the line of an ended connection.
    Connection(Arc<Facts>, LogFormat),
    /// The same of an ended request.
    Request(Arc<RequestFacts>, LogFormat),
    /// Say when everything before is written.
    Flush(SyncSender<()>),
}

impl LineWriter {
    /// A writer to standard output.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stdout() -> io::Result<Self> {
        Self::new(io::stdout(), QUEUE)
    }

    /// A writer to `stream` that keeps at most `queue` lines.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(stream: impl Write + Send + 'static, queue: usize) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(queue.max(1));
        let (dropped, failed) = (Counter::default(), Counter::default());
        let errors = failed.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || run(stream, &receiver, &errors))?;
        Ok(Self { queue: sender, dropped, failed })
    }

    /// Hands a line over, with its line end. Never blocks; a full queue drops the line and counts it.
    pub fn line(&self, line: Vec<u8>) {
        self.send(Entry::Line(line));
    }

    /// Lines dropped because the queue was full.
    pub fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    /// Writes that the stream refused.
    pub fn failed(&self) -> Counter {
        self.failed.clone()
    }

    /// Waits until everything handed over so far is written, at most `deadline`. Blocks the calling thread.
    ///
    /// Returns whether it is.
    pub fn flush(&self, deadline: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        let begin = std::time::Instant::now();
        let mut entry = Entry::Flush(done);
        // The queue may be full: try again as it empties.
        loop {
            match self.queue.try_send(entry) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if begin.elapsed() < deadline => {
                    entry = back;
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
        wait.recv_timeout(deadline.saturating_sub(begin.elapsed())).is_ok()
    }

    pub(crate) fn send(&self, entry: Entry) {
        if self.queue.try_send(entry).is_err() {
            self.dropped.inc();
        }
    }
}

impl fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineWriter").field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

/// How long the thread lets lines gather after it has written some. A line that wakes it costs as much as carrying a small
/// request (docs/decisions/waypoint-profile.md); with this it is woken 20 times a second at most, and the queue still holds
/// 160 000 lines a second. Nobody who reads a log minds it.
const GATHER: Duration = Duration::from_millis(50);

/// Lines are written together, as soon as there are so many bytes of them.
const TOGETHER: usize = 64 * 1024;

/// Writes until every sender is gone.
fn run(mut stream: impl Write, queue: &Receiver<Entry>, failed: &Counter) {
    let mut lines = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Line(line) => lines.extend(line),
                Entry::Connection(facts, format) => lines.extend(access::line(&facts, format).into_bytes()),
                Entry::Request(facts, format) => lines.extend(request::line(&facts, format).into_bytes()),
                Entry::Flush(done) => {
                    write(&mut stream, &mut lines, failed);
                    // Whoever asked may have stopped waiting.
                    done.try_send(()).ok();
                }
            }
            if lines.len() >= TOGETHER {
                write(&mut stream, &mut lines, failed);
            }
            next = queue.try_recv().ok();
        }
        write(&mut stream, &mut lines, failed);
        std::thread::sleep(GATHER);
    }
}

/// Writes the lines and flushes the stream.
fn write(stream: &mut impl Write, lines: &mut Vec<u8>, failed: &Counter) {
    if !lines.is_empty() {
        count(stream.write_all(lines).and_then(|()| stream.flush()), failed);
        lines.clear();
    }
}

fn count(result: io::Result<()>, failed: &Counter) {
    if result.is_err() {
        failed.inc();
    }
}

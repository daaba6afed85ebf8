//! One HTTP request on a unix socket (RFC 9112), without a runtime: the plug-in is started for each pod and should cost little.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Longest answer that is read: a sentence or two.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the answer is no HTTP")]
    Garbled,
    #[error("status {status}: {text}")]
    Refused { status: u16, text: String },
    #[error("the request cannot be written as JSON: {0}")]
    Unwritable(serde_json::Error),
}

/// Posts a document and gives the answer's text, if its status is 200.
pub(crate) fn post(socket: &Path, path: &str, body: &impl Serialize, patience: Duration) -> Result<String, CallError> {
    let body = serde_json::to_vec(body).map_err(CallError::Unwritable)?;
    let until = Instant::now() + patience;
    let mut stream = UnixStream::connect(socket).map_err(CallError::Connect)?;
    stream.set_write_timeout(Some(patience))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: culvert-node\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    let answer = read_all(&mut stream, until, patience)?;
    let (status, text) = parse(&answer).ok_or(CallError::Garbled)?;
    if status == 200 { Ok(text) } else { Err(CallError::Refused { status, text }) }
}

/// Reads to the end of the connection, which the agent closes.
fn read_all(stream: &mut UnixStream, until: Instant, patience: Duration) -> Result<Vec<u8>, CallError> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() as u64 <= MAX_ANSWER {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CallError::Late(patience));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(CallError::Late(patience));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(CallError::Garbled)
}

/// Status and body.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let status = words.next().filter(|version| version.starts_with("HTTP/1.")).and_then(|_| words.next())?;
    // An answer that ended early is none.
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = length.is_none_or(|length| answer.len() >= head.len() + 4 + length);
    whole.then(|| (status.parse().ok(), body.to_owned())).and_then(|(status, body)| Some((status?, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let ok = |text: &str| parse(text.as_bytes());
        assert_eq!(ok("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"), Some((200, "yes".into())));
        assert_eq!(ok("HTTP/1.1 503 Service Unavailable\r\n\r\nno"), Some((503, "no".into())));
        for broken in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nyes",
            "x y\r\n\r\n",
            "HTTP/1.1 ok\r\n\r\n",
        ] {
            assert_eq!(ok(broken), None, "{broken:?}");
        }
    }
}

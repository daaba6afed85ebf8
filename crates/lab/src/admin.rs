//! Asking the admin servers of our programs, each in its own namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Doing, LabError};
use crate::lab::Lab;
use crate::netns;
use crate::programs::{AGENT_ADMIN, ZTUNNEL_ADMIN};

/// Admin pages are answered from memory; a program that takes longer hangs.
const WITHIN: Duration = Duration::from_secs(5);

/// What an admin server said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not, with its beginning.
    pub fn json(&self) -> Result<Value, LabError> {
        let beginning: String = self.body.chars().take(200).collect();
        serde_json::from_str(&self.body).map_err(|e| LabError::Unfit(format!("not JSON ({e}): {beginning}")))
    }
}

impl Lab {
    /// Asks the admin server (port 15000) of the newest generation of a node's ztunnel.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn ztunnel_admin(&self, node: &str, path: &str) -> Result<Answer, LabError> {
        let newest = self.newest_ztunnel(node)?;
        http_get(&self.paths.netns(&newest.netns()), address(ZTUNNEL_ADMIN)?, "GET", path)
    }

    /// Sends a POST to the same server, as for `/logging?level=debug`.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn ztunnel_post(&self, node: &str, path: &str) -> Result<Answer, LabError> {
        let newest = self.newest_ztunnel(node)?;
        http_get(&self.paths.netns(&newest.netns()), address(ZTUNNEL_ADMIN)?, "POST", path)
    }

    /// The metrics (port 15020) of the newest generation of a node's ztunnel, as text.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn ztunnel_metrics(&self, node: &str) -> Result<String, LabError> {
        let newest = self.newest_ztunnel(node)?;
        let at = address("127.0.0.1:15020")?;
        Ok(http_get(&self.paths.netns(&newest.netns()), at, "GET", "/stats/prometheus")?.body)
    }

    /// Ended connections that a node's ztunnel remembers, oldest first, from a cursor on (0 for all): the objects of its
    /// `/flows` page, a line each.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn flows(&self, node: &str, since: u64) -> Result<Vec<Value>, LabError> {
        let page = self.ztunnel_admin(node, &format!("/flows?since={since}"))?;
        let line = |text: &str| Answer { status: page.status, body: text.to_owned() }.json();
        page.body.lines().filter(|l| !l.is_empty()).map(line).collect()
    }

    /// Asks the admin server of a node's agent.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn agent_admin(&self, node: &str, path: &str) -> Result<Answer, LabError> {
        self.plan().node(node)?;
        http_get(&self.paths.netns(node), address(AGENT_ADMIN)?, "GET", path)
    }
}

/// Asks an HTTP server inside a network namespace.
///
/// # Errors
/// When it cannot be reached, does not answer within 5 s, or does not speak HTTP.
pub fn http_get(netns: &Path, to: SocketAddr, method: &str, path: &str) -> Result<Answer, LabError> {
    let text = netns::inside(netns, || {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, WITHIN)?;
            stream.set_read_timeout(Some(WITHIN))?;
            stream.set_write_timeout(Some(WITHIN))?;
            // Version 1.0: the answer ends with the connection and comes in one piece.
            write!(stream, "{method} {path} HTTP/1.0\r\nHost: {to}\r\nContent-Length: 0\r\n\r\n")?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        ask().doing(|| format!("{method} http://{to}{path}"))
    })?;
    parse(&text).ok_or_else(|| LabError::Unfit(format!("http://{to}{path} does not speak HTTP: {text:.100}")))
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, LabError> {
    text.parse().map_err(|_| LabError::Unfit(format!("{text:?} is not an address with a port")))
}

// "HTTP/1.1 200 OK", header fields, an empty line, the body.
fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    Some(Answer { status: words.next()?.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split() {
        let answer = parse("HTTP/1.0 404 Not Found\r\na: b\r\n\r\n{\"x\": 1}").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (404, "{\"x\": 1}"));
        assert_eq!(answer.json().unwrap()["x"], 1);
        assert!(parse("SSH-2.0-OpenSSH\r\n\r\n").is_none());
    }
}

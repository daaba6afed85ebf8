//! Look-ups over TCP (RFC 1035, 4.2.2; RFC 7766).
//!
//! Queries are looked at before they are taken. The first that the mesh does not answer stays where it is, and the whole
//! rest of the connection goes to the server that was asked as any other connection does: its policy, its tunnel, its
//! record, and every protocol that somebody may speak on port 53. So a connection that asked for something else once is
//! the server's to its end.

use std::time::Duration;

use net::socket::peek_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Names, Step};
use crate::here::Here;

/// How long the first query is waited for before the connection counts as some other protocol's, in which the server may
/// have the first word. A resolver sends its query at once.
const FIRST: Duration = Duration::from_secs(1);

/// How long a connection that was answered may be idle (hbone.md 12).
const IDLE: Duration = Duration::from_secs(5);

/// Bytes of a query at most, with the two of its length: a name has 255, options are few. A longer one is the server's.
const LONGEST: usize = 2 + 4096;

/// Answers what is the mesh's; says whether the connection is done.
pub(super) async fn serve(names: &Names, here: &Here, app: &mut TcpStream) -> bool {
    let mut buffer = vec![0; LONGEST];
    let mut answered = false;
    loop {
        let patience = if answered { IDLE } else { FIRST };
        let looked = tokio::select! {
            looked = timeout(patience, peek_until(app, &mut buffer, whole)) => looked,
            () = here.pod.gone() => return true,
            () = here.shared.drain.draining(), if answered => return true,
        };
        let length = match looked {
            Ok(Ok(Some(Next::Query(length)))) => length,
            Ok(Ok(Some(Next::Long))) => return false,
            // An end or a silence: how a connection ends that was answered, and another protocol's matter else.
            Ok(Ok(None) | Err(_)) | Err(_) => return answered,
        };
        let query = buffer.get(2..length).unwrap_or_default();
        let Step::Answer(request, answer) = names.step(here, query) else { return false };
        let answer = answer.encode_tcp(&request);
        let taken = app.read_exact(buffer.get_mut(..length).unwrap_or_default()).await;
        if taken.is_err() || send(app, &answer).await.is_err() {
            // The client has left.
            return true;
        }
        answered = true;
    }
}

/// What comes next on a connection.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// A query, of so many bytes with the two of its length.
    Query(usize),
    /// A query longer than we look at.
    Long,
}

/// The first message, once it is there whole.
fn whole(seen: &[u8]) -> Option<Next> {
    let length = 2 + usize::from(u16::from_be_bytes(*seen.first_chunk()?));
    if length > LONGEST {
        return Some(Next::Long);
    }
    (seen.len() >= length).then_some(Next::Query(length))
}

/// One write for both, so that a small answer is one segment.
async fn send(app: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut framed = Vec::with_capacity(2 + answer.len());
    framed.extend(u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes());
    framed.extend(answer);
    app.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_whole_when_all_of_it_is_there() {
        for (bytes, expected) in [
            (&[][..], None),
            (&[0], None),
            (&[0, 0], Some(Next::Query(2))),
            (&[0, 2, 7], None),
            (&[0, 2, 7, 7], Some(Next::Query(4))),
            (&[0, 2, 7, 7, 7], Some(Next::Query(4))),
            (b"GET / HTTP/1.1\r\n", Some(Next::Long)),
        ] {
            assert_eq!(whole(bytes), expected, "{bytes:?}");
        }
    }
}

//! What a client speaks: as the port declares it, or by the first bytes that it sends. Nothing is held back for it: while a
//! client is silent there is nothing to hold, and what it sends is passed on whole, whatever the guess.

use std::time::Duration;

use hbone::Broken;
use routing::model::Protocol;
use sniff::Guess;
use tokio::time::timeout;

use crate::connection::Client;

/// How long a client may take from its first byte to enough of them on a port that speaks HTTP or TLS: as long as a whole
/// connection set-up (hbone.md 10).
const SLOW: Duration = Duration::from_secs(10);

/// What is spoken on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1, or what a port that is declared as HTTP cannot be told from it.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Bytes; with the server name when it is TLS and names one.
    Opaque(Option<String>),
    /// Nothing yet, on a port whose protocol is not declared.
    Silent,
}

/// Finds out. `silence` is how long a client may say nothing on a port that declares nothing.
pub(crate) async fn detect(client: &mut Client, declared: Protocol, silence: Duration) -> Result<Spoken, Broken> {
    match declared {
        Protocol::Tcp => Ok(Spoken::Opaque(None)),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            // A connection that is opened in advance may be silent for hours.
            if client.held.is_empty() && !client.more().await? {
                return Ok(Spoken::Http1);
            }
            Ok(match guess(client, SLOW).await? {
                Guess::Http2 => Spoken::Http2,
                // Whatever else it is gets the answer of an HTTP server: 400.
                _ => Spoken::Http1,
            })
        }
        Protocol::Tls => Ok(opaque(guess(client, SLOW).await?)),
        Protocol::Detect => {
            if client.held.is_empty() {
                match timeout(silence, client.more()).await {
                    Ok(more) => {
                        if !more? {
                            return Ok(Spoken::Opaque(None));
                        }
                    }
                    Err(_) => return Ok(Spoken::Silent),
                }
            }
            spoke(client, silence).await
        }
    }
}

/// Finds out about a client that has said something.
pub(crate) async fn spoke(client: &mut Client, patience: Duration) -> Result<Spoken, Broken> {
    Ok(match guess(client, patience).await? {
        Guess::Http1 => Spoken::Http1,
        Guess::Http2 => Spoken::Http2,
        other => opaque(other),
    })
}

fn opaque(guess: Guess) -> Spoken {
    match guess {
        Guess::Tls { server_name } => Spoken::Opaque(server_name),
        _ => Spoken::Opaque(None),
    }
}

/// Reads until the guess is made, or no more comes in time.
async fn guess(client: &mut Client, patience: Duration) -> Result<Guess, Broken> {
    let whole = async {
        loop {
            let guess = sniff::guess(&client.held);
            if guess != Guess::More || !client.more().await? {
                return Ok(guess);
            }
        }
    };
    match timeout(patience, whole).await {
        Ok(Ok(Guess::More)) | Err(_) => Ok(settled(&client.held)),
        Ok(guess) => guess,
    }
}

/// The guess when no more came: what began like HTTP is taken for it.
fn settled(held: &[u8]) -> Guess {
    const METHODS: [&[u8]; 9] =
        [b"CONNECT ", b"DELETE ", b"GET ", b"HEAD ", b"OPTIONS ", b"PATCH ", b"POST ", b"PUT ", b"TRACE "];
    if METHODS.iter().any(|method| held.starts_with(method)) { Guess::Http1 } else { Guess::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_that_came_in_part_is_taken_for_http() {
        assert_eq!(settled(b"GET /very/long"), Guess::Http1);
        assert_eq!(settled(b"GETTING"), Guess::Other);
        assert_eq!(settled(b"PRI * HT"), Guess::Other);
        assert_eq!(settled(b""), Guess::Other);
    }
}

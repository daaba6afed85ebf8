//! The server. Bulk streams get a thread each; the rest shares one, as servers of many connections do.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};

use super::{ECHO, ECHOES, SINK};

/// Large enough that the server's own calls do not set the pace.
const BUFFER: usize = 256 << 10;

pub(super) fn serve() -> Result<()> {
    let sink = listen(SINK)?;
    let echoes: Result<Vec<_>> = (ECHO..ECHO + ECHOES).map(listen).collect();
    let echoes = echoes?;
    thread::spawn(move || {
        for stream in sink.incoming().flatten() {
            thread::spawn(move || swallow(stream));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let mut last = None;
        for listener in echoes {
            listener.set_nonblocking(true)?;
            last = Some(spawn_local(answer_all(tokio::net::TcpListener::from_std(listener)?)));
        }
        match last {
            Some(task) => task.await.context("a listener panicked"),
            None => Ok(()),
        }
    })
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("port {port}"))
}

/// Reads to the end, then says how many bytes there were.
fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; BUFFER];
    let mut sum = 0u64;
    let outcome = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break stream.write_all(&sum.to_be_bytes()),
            Ok(read) => sum += read as u64,
            Err(error) => break Err(error),
        }
    };
    // The client notices as well, and fails.
    if let Err(error) = outcome {
        eprintln!("after {sum} bytes: {error}");
    }
}

async fn answer_all(listener: tokio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                spawn_local(async move {
                    let mut byte = [0; 1];
                    // An end of any kind is the client's choice.
                    while matches!(stream.read(&mut byte).await, Ok(1)) && stream.write_all(&byte).await.is_ok() {}
                });
            }
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

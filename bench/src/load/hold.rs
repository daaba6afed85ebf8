//! Open connections that do nothing, and the first connection through a proxy that is just starting.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::latency::{self, ANSWER};
use super::{PATIENCE, connect, echo};
use crate::memory::unix_ms;

/// For each line of stdin, a number, opens or closes connections until there are so many, and says so. A connection
/// counts when a byte (or an HTTP request and its answer) went through it both ways.
pub(super) fn hold(ip: IpAddr, http: Option<u16>) -> Result<()> {
    let mut held: Vec<TcpStream> = Vec::new();
    for line in io::stdin().lock().lines() {
        let wanted: usize = line?.trim().parse().context("a number of connections")?;
        held.truncate(wanted);
        while held.len() < wanted {
            let stream = touch(ip, held.len(), http).with_context(|| format!("connection {}", held.len()))?;
            held.push(stream);
        }
        say(&json!({"open": held.len()}))?;
    }
    Ok(())
}

/// While the proxy is down every connection is refused at once; nobody tells when that ends.
const BETWEEN: Duration = Duration::from_millis(1);

/// Says when it was refused first, and when a byte came back.
pub(super) fn first(ip: IpAddr, http: Option<u16>) -> Result<()> {
    let began = Instant::now();
    let mut told = false;
    loop {
        match touch(ip, 0, http) {
            Ok(_) => return say(&json!({"at": unix_ms()})),
            Err(error) if began.elapsed() > PATIENCE * 3 => bail!("no answer: {error}"),
            Err(error) if !told => {
                say(&json!({"refused": error.to_string()}))?;
                told = true;
            }
            Err(_) => {}
        }
        sleep(BETWEEN);
    }
}

fn touch(ip: IpAddr, n: usize, http: Option<u16>) -> Result<TcpStream> {
    if let Some(port) = http {
        let mut stream = connect(SocketAddr::new(ip, port))?;
        latency::ask(&mut stream, &mut vec![0; ANSWER], None)?;
        return Ok(stream);
    }
    let mut stream = connect(echo(ip, n))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0; 1])?;
    Ok(stream)
}

fn say(value: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

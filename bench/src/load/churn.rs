//! New connections, one after the other on each of some threads.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use super::{connect, echo};

pub(super) fn run(ip: IpAddr, openers: usize, time: Duration) -> Result<()> {
    let began = Instant::now();
    let open = move |first: usize| -> Result<u64> {
        let mut count = 0;
        while began.elapsed() < time {
            one(ip, first + count as usize).with_context(|| format!("connection {count}"))?;
            count += 1;
        }
        Ok(count)
    };
    let threads: Vec<_> = (0..openers).map(|n| thread::spawn(move || open(n))).collect();
    let mut count = 0;
    for thread in threads {
        count += thread.join().map_err(|_| anyhow!("an opener panicked"))??;
    }
    ensure!(count > 0, "no connection came about");
    println!("{}", json!({"count": count, "rate": count as f64 / began.elapsed().as_secs_f64()}));
    Ok(())
}

fn one(ip: IpAddr, n: usize) -> io::Result<()> {
    let mut stream = connect(echo(ip, n))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0; 1])
}

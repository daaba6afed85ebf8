//! A server and a client that do to a connection what real programs do: talk first, half-close, reset, push a lot.
//!
//! `e2e-peer serve` listens on all ports of [`Mode`]; `e2e-peer call <mode> <ip> …` makes one call and prints one JSON
//! line of what it saw.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use socket2::SockRef;

/// What happens on a connection; each mode has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The server says which addresses it sees, and closes.
    Who,
    /// The server talks first, then repeats what it hears.
    Banner,
    /// The client sends and half-closes, the server counts and answers.
    Upload,
    /// The server sends and half-closes, the client answers how much it was.
    Download,
    /// Both send at once.
    Both,
    /// The server resets after the first byte.
    ResetByServer,
    /// The client resets after the first byte; the server remembers how the connection ended.
    ResetByClient,
    /// How the last `reset-by-client` connection ended.
    LastEnd,
}

impl Mode {
    const ALL: [Self; 8] = [
        Self::Who,
        Self::Banner,
        Self::Upload,
        Self::Download,
        Self::Both,
        Self::ResetByServer,
        Self::ResetByClient,
        Self::LastEnd,
    ];

    /// 9001 and up: above the ports of the pods' own programs, below the ephemeral ones.
    fn port(self) -> u16 {
        9001 + Self::ALL.iter().position(|m| *m == self).map_or(0, |p| p as u16)
    }
}

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve every mode until killed.
    Serve,
    /// One call.
    Call {
        mode: Mode,
        ip: IpAddr,
        /// Bytes to move each way.
        #[arg(long, default_value_t = 1 << 20)]
        bytes: u64,
        /// Calls one after another.
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// Port, in place of the mode's own.
        #[arg(long)]
        port: Option<u16>,
    },
}

fn main() -> Result<()> {
    match Args::parse().role {
        Role::Serve => serve(),
        Role::Call { mode, ip, bytes, times, port } => {
            let to = SocketAddr::new(ip, port.unwrap_or(mode.port()));
            let began = Instant::now();
            let mut last = Value::Null;
            for _ in 0..times {
                last = match call(mode, to, bytes) {
                    Ok(seen) => seen,
                    Err(error) => {
                        let kind = error.downcast_ref::<io::Error>().map(|e| format!("{:?}", e.kind()));
                        json!({"error": format!("{error:#}"), "kind": kind})
                    }
                };
                if last.get("error").is_some() {
                    break;
                }
            }
            last["ms"] = json!(began.elapsed().as_millis() as u64);
            println!("{last}");
            Ok(())
        }
    }
}

static LAST_END: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());

fn serve() -> Result<()> {
    let mut threads = Vec::new();
    for mode in Mode::ALL {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, mode.port()))
            .or_else(|_| TcpListener::bind(("0.0.0.0", mode.port())))
            .with_context(|| format!("port {}", mode.port()))?;
        threads.push(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    if let Err(error) = answer(mode, stream) {
                        eprintln!("{mode:?}: {error:#}");
                    }
                });
            }
        }));
    }
    println!("ready");
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a listener panicked"))?;
    }
    Ok(())
}

fn answer(mode: Mode, mut stream: TcpStream) -> Result<()> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    match mode {
        Mode::Who => {
            let seen = json!({"peer": canonical(peer), "local": canonical(local)});
            stream.write_all(seen.to_string().as_bytes())?;
        }
        Mode::Banner => {
            stream.write_all(b"220 hello\n")?;
            io::copy(&mut stream.try_clone()?, &mut stream)?;
        }
        Mode::Upload => {
            let sum = drain(&mut stream)?;
            stream.write_all(sum.to_string().as_bytes())?;
        }
        Mode::Download => {
            let mut wanted = [0; 8];
            stream.read_exact(&mut wanted)?;
            send(&mut stream, u64::from_be_bytes(wanted))?;
            stream.shutdown(Shutdown::Write)?;
            // The other way is still open: what the client counted comes back, and is kept for nobody but the check.
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            ensure!(said == u64::from_be_bytes(wanted).to_string(), "the client counted {said}");
        }
        Mode::Both => {
            let mut wanted = [0; 8];
            stream.read_exact(&mut wanted)?;
            let wanted = u64::from_be_bytes(wanted);
            let mut out = stream.try_clone()?;
            let sender = thread::spawn(move || send(&mut out, wanted));
            let got = take(&mut stream, wanted)?;
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            stream.write_all(&got.to_be_bytes())?;
        }
        Mode::ResetByServer => {
            let mut one = [0; 1];
            stream.read_exact(&mut one)?;
            reset(stream)?;
        }
        Mode::ResetByClient => {
            let mut buffer = [0; 64];
            let end = loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break "Eof".to_owned(),
                    Ok(_) => stream.write_all(b"go")?,
                    Err(error) => break format!("{:?}", error.kind()),
                }
            };
            *LAST_END.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = end;
        }
        Mode::LastEnd => {
            let end = LAST_END.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
            stream.write_all(end.as_bytes())?;
        }
    }
    Ok(())
}

/// A call that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn call(mode: Mode, to: SocketAddr, bytes: u64) -> Result<Value> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    let connect_ms = began.elapsed().as_millis() as u64;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let (local, peer) = (canonical(stream.local_addr()?), canonical(far_end(&stream)?));
    let mut seen = json!({"local": local, "peer": peer, "connectMs": connect_ms});
    match mode {
        Mode::Who | Mode::LastEnd => {
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            seen["server"] = serde_json::from_str(&text).unwrap_or(Value::String(text));
        }
        Mode::ResetByServer => {
            stream.write_all(b"x")?;
            let mut rest = Vec::new();
            match stream.read_to_end(&mut rest) {
                Ok(_) => bail!("the connection ended in order"),
                Err(error) => seen["ended"] = json!(format!("{:?}", error.kind())),
            }
        }
        Mode::ResetByClient => {
            stream.write_all(b"x")?;
            let mut two = [0; 2];
            stream.read_exact(&mut two)?;
            reset(stream)?;
        }
        Mode::Banner | Mode::Upload | Mode::Download | Mode::Both => transfer(mode, &mut stream, bytes)?,
    }
    Ok(seen)
}

/// Who is at the other end. A connection that was reset meanwhile has none; that it was is then the answer.
fn far_end(stream: &TcpStream) -> Result<SocketAddr> {
    match (stream.peer_addr(), stream.take_error()?) {
        (_, Some(ended)) => Err(ended.into()),
        (found, None) => Ok(found?),
    }
}

/// The calls that move bytes and check each of them.
fn transfer(mode: Mode, stream: &mut TcpStream, bytes: u64) -> Result<()> {
    match mode {
        Mode::Upload => {
            send(stream, bytes)?;
            stream.shutdown(Shutdown::Write)?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            ensure!(text == bytes.to_string(), "the server counted {text}");
        }
        Mode::Download => {
            stream.write_all(&bytes.to_be_bytes())?;
            let sum = drain(stream)?;
            ensure!(sum == bytes, "got {sum}");
            stream.write_all(sum.to_string().as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
        }
        Mode::Both => {
            stream.write_all(&bytes.to_be_bytes())?;
            let mut out = stream.try_clone()?;
            let sender = thread::spawn(move || send(&mut out, bytes));
            let got = take(stream, bytes)?;
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            let mut counted = [0; 8];
            stream.read_exact(&mut counted)?;
            ensure!(got == bytes && u64::from_be_bytes(counted) == bytes, "got {got}");
        }
        _ => {
            let mut banner = [0; 10];
            stream.read_exact(&mut banner)?;
            stream.write_all(b"abc")?;
            let mut echo = [0; 3];
            stream.read_exact(&mut echo)?;
            ensure!(&banner == b"220 hello\n" && &echo == b"abc", "wrong bytes");
        }
    }
    Ok(())
}

/// The byte at a place of the stream, so that lost, doubled or swapped chunks are seen.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    let mut chunk = vec![0; 64 << 10];
    while at < bytes {
        let now = chunk.len().min((bytes - at) as usize);
        for (offset, byte) in chunk[..now].iter_mut().enumerate() {
            *byte = pattern(at + offset as u64);
        }
        stream.write_all(&chunk[..now])?;
        at += now as u64;
    }
    Ok(())
}

/// Reads to the end, checking every byte; gives back how many there were.
fn drain(stream: &mut TcpStream) -> Result<u64> {
    take(stream, u64::MAX)
}

fn take(stream: &mut TcpStream, limit: u64) -> Result<u64> {
    let mut at = 0;
    let mut chunk = vec![0; 256 << 10];
    while at < limit {
        let room = chunk.len().min((limit - at).min(usize::MAX as u64) as usize);
        let now = stream.read(&mut chunk[..room])?;
        if now == 0 {
            break;
        }
        for (offset, byte) in chunk[..now].iter().enumerate() {
            ensure!(*byte == pattern(at + offset as u64), "wrong byte at {}", at + offset as u64);
        }
        at += now as u64;
    }
    Ok(at)
}

fn reset(stream: TcpStream) -> io::Result<()> {
    // Linger of zero: close sends RST.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

fn canonical(addr: SocketAddr) -> String {
    SocketAddr::new(addr.ip().to_canonical(), addr.port()).to_string()
}

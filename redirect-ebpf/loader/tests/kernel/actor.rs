//! A proxy for tests: this binary started again, moved into a proxy's cgroup, then told what to do line by line.
//!
//! Each accepted connection is answered with one line that says who served it and which addresses it saw, then echoed to its end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::os::fd::AsFd;

pub const ENV: &str = "CULVERT_TEST_ACTOR";

/// A running proxy.
pub struct Proxy {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Proxy {
    pub fn start(generation: u32, cgroup: &Path, netns: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ENV, generation.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut proxy = Self { child, stdin, stdout };
        proxy.ask(&format!("netns {}", netns.display()));
        proxy
    }

    /// Opens `count` listeners on a capture port.
    pub fn listen(&mut self, port: u16, count: usize) {
        assert_eq!(self.ask(&format!("listen {port} {count}")), "ok");
    }

    /// Opens all three ports, two listeners each.
    pub fn listen_all(&mut self) {
        [15001, 15006, 15008].into_iter().for_each(|port| self.listen(port, 2));
    }

    /// Connects from `source` with a mark; answers with what the server said, or the error.
    pub fn connect(&mut self, source: &str, destination: &str, mark: u32) -> String {
        self.ask(&format!("connect {source} {destination} {mark}"))
    }

    /// Connects from a source port (0 = any) and stays connected; answers like `connect`.
    pub fn dial(&mut self, source_port: u16, destination: &str) -> String {
        self.ask(&format!("dial - {source_port} {destination} 0"))
    }

    /// `connect` that stays connected.
    pub fn hold(&mut self, source: &str, destination: &str, mark: u32) -> String {
        self.ask(&format!("dial {source} 0 {destination} {mark}"))
    }

    /// Ends what `dial` opened: with a FIN, or with a RST.
    pub fn hang_up(&mut self, reset: bool) {
        assert_eq!(self.ask(&format!("hang_up {reset}")), "ok");
    }

    /// Opens a DNS socket: each question is answered with who answers, and the addresses it came from and went to.
    pub fn answer_questions(&mut self) {
        assert_eq!(self.ask("dns"), "ok");
    }

    /// Asks a server, with a mark on the socket.
    pub fn question(&mut self, server: &str, mark: u32) -> String {
        self.ask(&format!("question {server} {mark}"))
    }

    pub fn close(&mut self) {
        assert_eq!(self.ask("close"), "ok");
    }

    /// Closes all listeners but the newest.
    pub fn close_all_but_last(&mut self) {
        assert_eq!(self.ask("close older"), "ok");
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("proxy of a test was not stopped: {error}");
        }
    }
}

/// The child's side.
pub fn run() {
    let generation = std::env::var(ENV).unwrap();
    let mut listeners: Vec<Socket> = Vec::new();
    let mut dialled: Vec<Socket> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["netns", path] => {
                let netns = File::open(path).unwrap();
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                "ok".to_owned()
            }
            ["listen", port, count] => {
                for worker in 0..count.parse().unwrap() {
                    listeners.push(listen(&generation, port.parse().unwrap(), worker));
                }
                "ok".to_owned()
            }
            ["connect", source, destination, mark] => dial(source, "0", destination, mark, &mut Vec::new()),
            ["dial", source, port, destination, mark] => dial(source, port, destination, mark, &mut dialled),
            ["hang_up", reset] => {
                for socket in dialled.drain(..).filter(|_| reset == "true") {
                    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
                }
                "ok".to_owned()
            }
            ["dns"] => {
                crate::questions::answer(generation.clone());
                "ok".to_owned()
            }
            ["question", server, mark] => crate::questions::ask(server, mark.parse().unwrap())
                .unwrap_or_else(|error| format!("error {:?}", error.kind())),
            ["close"] => close(listeners.drain(..)),
            ["close", "older"] => {
                let older = listeners.len() - 1;
                close(listeners.drain(..older))
            }
            _ => format!("unknown: {line}"),
        };
        println!("{answer}");
    }
}

/// shutdown(2) ends listening at once, also for the thread that accepts.
fn close(listeners: impl Iterator<Item = Socket>) -> String {
    listeners.for_each(|l| l.shutdown(Shutdown::Both).unwrap());
    "ok".to_owned()
}

fn listen(generation: &str, port: u16, worker: usize) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    // Ours is transparent before it listens, Istio's after.
    let late = worker % 2 == 1;
    if !late {
        socket.set_ip_transparent_v4(true).unwrap();
    }
    socket.bind(&SockAddr::from(SocketAddr::from(([0u16; 8], port)))).unwrap();
    socket.listen(1024).unwrap();
    if late {
        socket.set_ip_transparent_v4(true).unwrap();
    }
    let accepting = socket.try_clone().unwrap();
    let generation = generation.to_owned();
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = accepting.accept() {
            let generation = generation.clone();
            std::thread::spawn(move || serve(stream.into(), &generation, port, worker, peer.as_socket().unwrap()));
        }
    });
    socket
}

fn serve(mut stream: TcpStream, generation: &str, port: u16, worker: usize, peer: SocketAddr) {
    let local = canonical(stream.local_addr().unwrap());
    let line = format!("gen={generation} port={port} worker={worker} local={local} peer={}\n", canonical(peer));
    if stream.write_all(line.as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0u8; 4096];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 || stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn dial(source: &str, source_port: &str, destination: &str, mark: &str, dialled: &mut Vec<Socket>) -> String {
    let destination: SocketAddr = destination.parse().unwrap();
    let (port, mark): (u16, u32) = (source_port.parse().unwrap(), mark.parse().unwrap());
    let attempt = || {
        let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        if source != "-" {
            socket.set_ip_transparent_v4(true)?;
        }
        if source != "-" || port != 0 {
            socket.set_reuse_address(true)?;
            let any = if destination.is_ipv4() { "0.0.0.0" } else { "::" };
            let from = if source == "-" { any } else { source };
            socket.bind(&SockAddr::from(SocketAddr::new(from.parse().unwrap(), port)))?;
        }
        socket.connect_timeout(&SockAddr::from(destination), super::lab::PATIENCE)?;
        socket.set_read_timeout(Some(super::lab::PATIENCE))?;
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line)?;
        Ok::<_, std::io::Error>((socket, line.trim_end().to_owned()))
    };
    match attempt() {
        Ok((socket, line)) => {
            dialled.push(socket);
            line
        }
        Err(error) => format!("error {:?}", error.kind()),
    }
}

pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

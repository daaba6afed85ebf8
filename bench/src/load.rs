//! What runs inside the pods: a server, and clients that say one JSON line at their end.

mod bulk;
mod churn;
mod grpc;
mod hold;
mod latency;
mod server;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::site::HTTP;

/// The hidden subcommand.
pub(crate) const COMMAND: &str = "__load";

/// Port that takes bytes to their end and answers how many there were.
pub(crate) const SINK: u16 = 9401;
/// First of the ports that answer every byte with a byte. A client's ports for one destination are used up after 28 000
/// connections within the minute that TIME_WAIT lasts; [`ECHOES`] destinations are enough for what one machine can open.
const ECHO: u16 = 9410;
const ECHOES: u16 = 16;

/// Nothing answers slower than this unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
pub(crate) enum Role {
    /// Serves all of the others, on both families.
    Serve,
    /// Sends as fast as it can.
    Bulk {
        ip: IpAddr,
        #[arg(long)]
        streams: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// Sends small HTTP requests at a fixed rate, whether answers come or not.
    Latency {
        ip: IpAddr,
        #[arg(long)]
        rate: u64,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: u64,
        #[arg(long, default_value_t = HTTP)]
        port: u16,
    },
    /// Opens connections: one byte each way, close.
    Churn {
        ip: IpAddr,
        #[arg(long)]
        openers: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// Holds as many connections as each line of its input says.
    Hold {
        ip: IpAddr,
        /// An HTTP request and its answer on each, at this port.
        #[arg(long)]
        http: Option<u16>,
    },
    /// Tries until a byte comes back, and says when that was.
    First {
        ip: IpAddr,
        /// Tries until an HTTP request is answered at this port.
        #[arg(long)]
        http: Option<u16>,
    },
    /// Answers gRPC calls.
    GrpcServe { port: u16 },
    /// Makes gRPC calls: as fast as answers come, or at a fixed rate.
    Grpc(grpc::Calls),
}

impl Role {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Serve => server::serve(),
            Self::Bulk { ip, streams, seconds } => bulk::run(ip, streams, Duration::from_secs(seconds)),
            Self::Latency { ip, rate, connections, seconds, port } => {
                ensure!(rate > 0 && connections > 0, "a rate and connections are needed");
                latency::run(SocketAddr::new(ip, port), rate, connections, Duration::from_secs(seconds))
            }
            Self::Churn { ip, openers, seconds } => churn::run(ip, openers, Duration::from_secs(seconds)),
            Self::Hold { ip, http } => hold::hold(ip, http),
            Self::First { ip, http } => hold::first(ip, http),
            Self::GrpcServe { port } => grpc::serve(port),
            Self::Grpc(calls) => grpc::run(&calls),
        }
    }
}

/// The echo port for the `n`th connection.
fn echo(ip: IpAddr, n: usize) -> SocketAddr {
    SocketAddr::new(ip, ECHO + (n % usize::from(ECHOES)) as u16)
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

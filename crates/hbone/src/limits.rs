//! Every limit of a tunnel connection, with its reason. Nothing is left to the HTTP/2 library's defaults.

use std::time::Duration;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Bytes of one stream that may be under way or unread: fills 8 Gbit/s at 2 ms, the round trip between zones of a region.
const STREAM_WINDOW: u32 = 2 * MIB;
/// Bytes of one connection that may be under way or unread. Credit comes back only when the application has taken the
/// bytes, so `connection / stream` is how many stalled applications it takes to stall their neighbours on the tunnel:
/// here 32 (with Istio's 16 / 4 MiB: four). As a bound on memory it is less than the kernel grants the same number of
/// plain TCP connections (`tcp_rmem`: 6 MiB each). Must exceed the stream's (hbone.md 3).
const CONNECTION_WINDOW: u32 = 64 * MIB;
/// Largest frame taken: one full buffer of the relay. A frame is held until it is complete, so larger ones cost latency
/// and memory and gain nothing (framing is 1 % in bulk, performance.md 3).
const FRAME_SIZE: u32 = 256 * KIB;
/// Decoded bytes of a header list (RFC 9113 10.5.1 way of counting). A CONNECT of the mesh has under 1 KiB.
const HEADER_LIST: u32 = 16 * KIB;
/// The protocol's own default (RFC 7541 6.5.2); the few headers of a CONNECT fit.
const HEADER_TABLE: u32 = 4 * KIB;
/// Bytes a stream may have accepted from the relay and not written yet: one buffer on its way while the next is read.
const SEND_BUFFER: usize = 512 * 1024;
/// Streams that we reset and still remember, so that frames under way for them do not count as errors. Each costs some
/// hundred bytes.
const RESET_MEMORY: usize = 1024;
/// How long they are remembered: the longest the peer may take to hear of it, with room.
const RESET_MEMORY_TIME: Duration = Duration::from_secs(10);
/// Stream errors of the peer over the life of a connection until it is told to calm down (the library's own default).
const ERROR_RESETS: usize = 1024;
/// Overhead that small DATA frames may pile up unread, in bytes as the library counts them (up to 256 a frame): about
/// 130 000 one-byte frames.
const DATA_FRAME_BUDGET: usize = 32 * 1024 * 1024;
/// hbone.md 3: first PING after 10 s, then every 10 s.
const PING_EVERY: Duration = Duration::from_secs(10);
/// hbone.md 3: without acknowledgement for 20 s the connection is given up. This also bounds how long a peer may take to
/// send one frame or one header block, because an acknowledgement cannot pass in the midst of either.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Limits of the accepting side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Receive window of a stream, bytes.
    pub stream_window: u32,
    /// Receive window of the connection, bytes.
    pub connection_window: u32,
    /// Largest frame taken, bytes (16 KiB to 16 MiB).
    pub frame_size: u32,
    /// Largest header list taken, decoded bytes.
    pub header_list: u32,
    /// HPACK table, bytes.
    pub header_table: u32,
    /// Header fields taken, counted after decoding: HPACK makes thousands of one-byte references cheap to send.
    pub fields: usize,
    /// Streams open at the same time (hbone.md 3).
    pub concurrent_streams: u32,
    /// Requests that wait for [`Server::accept`](crate::Server::accept) outside the library.
    pub accept_queue: usize,
    /// Streams the peer may have reset before they were accepted.
    pub pending_accept_resets: usize,
    /// Streams the peer may open and reset before they were answered, at once. Rapid reset (CVE-2023-44487) does tens of
    /// thousands a second; a burst of impatient applications does a few hundred.
    pub unanswered_resets: u32,
    /// How many of those are forgiven each second.
    pub unanswered_resets_per_second: u32,
    /// Locally reset streams that are remembered.
    pub reset_memory: usize,
    /// How long they are remembered.
    pub reset_memory_time: Duration,
    /// Stream errors of the peer until the connection is ended.
    pub error_resets: usize,
    /// Unread overhead of small DATA frames, bytes.
    pub data_frame_budget: usize,
    /// Bytes a stream buffers for sending.
    pub send_buffer: usize,
    /// Time between PINGs.
    pub ping_every: Duration,
    /// Time until an unacknowledged PING ends the connection.
    pub ping_timeout: Duration,
    /// Time for the client's preface.
    pub handshake_timeout: Duration,
    /// A connection without a stream for so long is closed. Longer than clients keep theirs (300 s, hbone.md 10), so that
    /// it is the client who closes and no request meets a closing door.
    pub idle_timeout: Duration,
    /// Time to flush the last GOAWAY when a connection is ended by force.
    pub close_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            frame_size: FRAME_SIZE,
            header_list: HEADER_LIST,
            header_table: HEADER_TABLE,
            fields: 64,
            concurrent_streams: 200,
            accept_queue: 16,
            pending_accept_resets: 200,
            unanswered_resets: 1000,
            unanswered_resets_per_second: 100,
            reset_memory: RESET_MEMORY,
            reset_memory_time: RESET_MEMORY_TIME,
            error_resets: ERROR_RESETS,
            data_frame_budget: DATA_FRAME_BUDGET,
            send_buffer: SEND_BUFFER,
            ping_every: PING_EVERY,
            ping_timeout: PING_TIMEOUT,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            close_timeout: Duration::from_secs(1),
        }
    }
}

/// Limits of the dialling side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Receive window of a stream, bytes.
    pub stream_window: u32,
    /// Receive window of the connection, bytes.
    pub connection_window: u32,
    /// Largest frame taken, bytes (16 KiB to 16 MiB).
    pub frame_size: u32,
    /// Largest header list taken, decoded bytes.
    pub header_list: u32,
    /// HPACK table, bytes.
    pub header_table: u32,
    /// Locally reset streams that are remembered.
    pub reset_memory: usize,
    /// How long they are remembered.
    pub reset_memory_time: Duration,
    /// Stream errors of the peer until the connection is ended.
    pub error_resets: usize,
    /// Unread overhead of small DATA frames, bytes.
    pub data_frame_budget: usize,
    /// Bytes a stream buffers for sending.
    pub send_buffer: usize,
    /// Time between PINGs.
    pub ping_every: Duration,
    /// Time until an unacknowledged PING ends the connection.
    pub ping_timeout: Duration,
    /// Streams on one connection at most; the peer's own limit is kept as well (hbone.md 10).
    pub streams_per_connection: usize,
    /// From so many streams on, another connection is opened beside the first (performance.md 4, technique 7).
    pub spread_streams: usize,
    /// A stream that has carried so many bytes keeps its connection busy; new ones go elsewhere.
    pub spread_bytes: u64,
    /// So many connections to one destination are opened for the sake of spreading; more only when all are full.
    pub spread_connections: usize,
    /// Pause after a connection for spreading could not be opened.
    pub spread_pause: Duration,
    /// A connection without a stream for so long is closed (hbone.md 10).
    pub idle_release: Duration,
    /// Time for a new connection, from the call of `dial` to the end of the HTTP/2 handshake. Longer than the dialler's own
    /// limit for TCP (10 s, hbone.md 10), whose error says more.
    pub dial_timeout: Duration,
    /// Time for the response: the far proxy may wait 5 s for discovery and 10 s for the application (hbone.md 5).
    pub response_timeout: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            frame_size: FRAME_SIZE,
            header_list: HEADER_LIST,
            header_table: HEADER_TABLE,
            reset_memory: RESET_MEMORY,
            reset_memory_time: RESET_MEMORY_TIME,
            error_resets: ERROR_RESETS,
            data_frame_budget: DATA_FRAME_BUDGET,
            send_buffer: SEND_BUFFER,
            ping_every: PING_EVERY,
            ping_timeout: PING_TIMEOUT,
            streams_per_connection: 100,
            spread_streams: 8,
            spread_bytes: 8 * 1024 * 1024,
            spread_connections: 4,
            spread_pause: Duration::from_secs(5),
            idle_release: Duration::from_secs(300),
            dial_timeout: Duration::from_secs(20),
            response_timeout: Duration::from_secs(20),
        }
    }
}

impl ServerLimits {
    /// The library's builder with every limit set.
    pub(crate) fn builder(&self) -> h2::server::Builder {
        let mut b = h2::server::Builder::new();
        b.initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.frame_size)
            .max_header_list_size(self.header_list)
            .header_table_size(self.header_table)
            .max_concurrent_streams(self.concurrent_streams)
            .max_concurrent_reset_streams(self.reset_memory)
            .reset_stream_duration(self.reset_memory_time)
            .max_local_error_reset_streams(Some(self.error_resets))
            .max_pending_accept_reset_streams(self.pending_accept_resets)
            .data_frame_budget(self.data_frame_budget)
            .max_send_buffer_size(self.send_buffer);
        b
    }
}

impl ClientLimits {
    /// The library's builder with every limit set.
    pub(crate) fn builder(&self) -> h2::client::Builder {
        let mut b = h2::client::Builder::new();
        b.initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.frame_size)
            .max_header_list_size(self.header_list)
            .header_table_size(self.header_table)
            .max_concurrent_reset_streams(self.reset_memory)
            .reset_stream_duration(self.reset_memory_time)
            .max_local_error_reset_streams(Some(self.error_resets))
            // No stream is ever begun by the server: pushes are off.
            .enable_push(false)
            .max_pending_accept_reset_streams(0)
            // What the peer allows is not known before its SETTINGS; RFC 9113 6.5.2 recommends 100 as the least.
            .initial_max_send_streams(100)
            .data_frame_budget(self.data_frame_budget)
            .max_send_buffer_size(self.send_buffer);
        b
    }
}

//! Every limit and time-out of the proxy, in one place.

use std::{num::NonZeroUsize, time::Duration};

use http::{HeaderMap, header::CONTENT_TYPE};

/// The limits that users may set; each starts as the constant of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// See [`FIRST_BYTE`].
    pub first_byte: Duration,
    /// See [`FIRST_BYTE_UPLOAD`].
    pub first_byte_upload: Duration,
    /// See [`IDLE_BODY`].
    pub idle_body: Duration,
    /// See [`IDLE_STREAM`].
    pub idle_stream: Duration,
    /// See [`CONNECTIONS_PER_WORKLOAD`].
    pub connections_per_workload: usize,
    /// Places for the connections of all workloads, two for one that is not intercepted or has
    /// become a tunnel; by the limit of open files if there is none.
    pub connections: Option<usize>,
    /// See [`UPSTREAM_CONNECTIONS`].
    pub upstream_connections: usize,
    /// See [`UPSTREAM_QUEUE`].
    pub upstream_queue: usize,
    /// Threads that serve connections; `None`: one per processor that the process may use.
    pub workers: Option<NonZeroUsize>,
}

impl Tuning {
    /// How long nothing may come in the middle of a body, by what its head says it is.
    pub fn between_frames(&self, headers: &HeaderMap) -> Duration {
        let kind = headers
            .get(CONTENT_TYPE)
            .map_or(&b""[..], |kind| kind.as_bytes());
        let is = |prefix: &[u8]| {
            kind.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if is(b"application/grpc") || is(b"text/event-stream") {
            self.idle_stream
        } else {
            self.idle_body
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            first_byte: FIRST_BYTE,
            first_byte_upload: FIRST_BYTE_UPLOAD,
            idle_body: IDLE_BODY,
            idle_stream: IDLE_STREAM,
            connections_per_workload: CONNECTIONS_PER_WORKLOAD,
            connections: None,
            upstream_connections: UPSTREAM_CONNECTIONS,
            upstream_queue: UPSTREAM_QUEUE,
            workers: None,
        }
    }
}

/// Open connections of one workload; more wait in the listener's backlog.
pub const CONNECTIONS_PER_WORKLOAD: usize = 4_096;
/// Descriptors that are never for connections of workloads, at least; a fifth of what the process
/// may have if that is more.
pub const DESCRIPTOR_RESERVE: usize = 256;
/// Most open files that are counted on, whatever the limit is: what Linux allows by default.
pub const OPEN_FILES: usize = 1_048_576;
/// Bytes looked at, without taking them, to learn what a client speaks.
pub const PEEK_BYTES: usize = 16 * 1024;
/// As many as most clients send at first.
pub const PEEK_BYTES_AT_FIRST: usize = 2 * 1024;
/// How long a client may be silent before the server is asked whether it speaks first.
pub const CLIENT_FIRST: Duration = Duration::from_secs(3);
/// How long that server may take for its first byte.
pub const SERVER_FIRST: Duration = Duration::from_secs(10);
/// Size of the pipes that connections are passed through with, bytes: as large as the kernel allows
/// to everybody (`fs.pipe-max-size`), so that there are few turns and the ends are woken up seldom.
pub const SPLICE_PIPE_BYTES: i32 = 1024 * 1024;
/// Size below which a pipe is no better than memory: what the kernel gives to users who have
/// many, one page or two.
pub const SPLICE_PIPE_LEAST: i32 = 64 * 1024;
/// Pipes of one worker, with two descriptors each; needed only while bytes wait for a slow
/// reader. Beyond them bytes are copied.
pub const SPLICE_PIPES: usize = 64;
/// Pipes that a worker keeps for later.
pub const SPLICE_SPARE_PIPES: usize = 8;
/// Seconds of silence after which the peers of what is passed through are asked whether they are
/// still there; between two such probes; and how many may have no answer.
pub const SPLICE_KEEP_ALIVE_SECONDS: u32 = 60;
/// See [`SPLICE_KEEP_ALIVE_SECONDS`].
pub const SPLICE_PROBE_SECONDS: u32 = 15;
/// See [`SPLICE_KEEP_ALIVE_SECONDS`].
pub const SPLICE_PROBES: u32 = 4;
/// What one direction of a connection may pass through before others have their turn, bytes.
pub const SPLICE_TURN: usize = 1024 * 1024;
/// Turns in which what is left of a connection that failed is handed over.
pub const SPLICE_LAST_TURNS: usize = 64;
/// Bytes that are copied before a pipe is asked for.
pub const SPLICE_FEW: usize = 16 * 1024;
/// Memory of a direction that is copied instead, bytes; only while bytes are on their way.
pub const SPLICE_MEMORY: usize = 64 * 1024;
/// A client's TLS handshake, the upstream's question about its HTTP version included.
pub const TLS_ACCEPT: Duration = Duration::from_secs(30);
/// TLS handshake with an upstream.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// TCP connection to one upstream address.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Name resolution: time for each of the three name servers that there may be, and for all names
/// together when an agent starts.
pub const RESOLVE: Duration = Duration::from_secs(10);
/// How long who dials waits for a newer answer when there is an older one (RFC 8767, section 5).
pub const RESOLVE_STALE: Duration = Duration::from_secs(2);
/// How long the other family of addresses is waited for once there are some of one: some servers
/// never answer for AAAA, and who dials needs but one address.
pub const OTHER_FAMILY: Duration = Duration::from_millis(500);
/// Least time for which an answer is used, or a failure, whatever its TTL is: a TTL of 0 must
/// not become a query for each connection.
pub const RESOLVE_AGAIN: Duration = Duration::from_secs(5);
/// Longest time for which an answer is used; well below `ADDRESS_LIFE`, so that an address that
/// is told again stays redirected in between.
pub const RESOLVE_LATEST: Duration = Duration::from_mins(5);
/// Longest time for one answer of one name server.
pub const NAME_SERVER: Duration = Duration::from_secs(3);
/// Most attempts with one name server.
pub const NAME_SERVER_ATTEMPTS: u32 = 5;
/// How often the files of the resolver are looked at.
pub const NAME_FILES_WATCH: Duration = Duration::from_secs(1);
/// Largest `resolv.conf`, bytes.
pub const RESOLV_CONF_BYTES: u64 = 64 * 1024;
/// Largest `hosts` file, bytes; lists of blocked names are long.
pub const HOSTS_BYTES: u64 = 16 * 1024 * 1024;
/// Longest pause before a name that does not resolve is asked for again.
pub const RESOLVE_BACK_OFF: Duration = Duration::from_mins(1);
/// How long an address that a name resolved to stays redirected after it was last seen.
pub const ADDRESS_LIFE: Duration = Duration::from_mins(10);
/// How often Postern looks whether workloads have learned as many addresses as they may.
pub const LEARNED_WATCH: Duration = Duration::from_secs(2);
/// How often it looks for learned addresses that are old.
pub const LEARNED_SWEEP: Duration = Duration::from_mins(10);
/// How long an address that a workload learned stays redirected after it was last told or
/// dialled; long, because some programs resolve a name but once.
pub const LEARNED_LIFE: Duration = Duration::from_hours(24);
/// Most names whose addresses are remembered, but for those of granted Connectors.
pub const NAMES: usize = 4_096;
/// Most addresses kept for one name.
pub const ADDRESSES_PER_NAME: usize = 256;
/// A client's request head on HTTP/1.1, the pause since its last request included.
pub const REQUEST_HEAD: Duration = Duration::from_secs(75);
/// Size of a head on HTTP/1.1; registries answer with large ones.
pub const HEAD_BYTES: usize = 128 * 1024;
/// Length of a request target on HTTP/1.1.
pub const TARGET_BYTES: usize = 32 * 1024;
/// Size of the trailers behind a chunked request, bytes.
pub const TRAILER_BYTES: usize = 8 * 1024;
/// Length of what may follow the size of a chunk, bytes.
pub const CHUNK_EXTENSION_BYTES: usize = 256;
/// Header fields in a head on HTTP/1.1. The limit that hyper has by itself: for any other one it
/// allocates 8 KiB for each message.
pub const HEADERS: usize = 100;
/// Size of the header list on HTTP/2.
pub const H2_HEADER_LIST: u32 = 64 * 1024;
/// Body of a request that a generator reads or adds to, bytes; others are never held.
pub const GENERATOR_BODY: usize = 1024 * 1024;
/// How long a client may take to send one.
pub const GENERATOR_BODY_TIME: Duration = Duration::from_secs(30);
/// Streams that one client connection may have open.
pub const H2_STREAMS: u32 = 128;
/// Streams of a client that it reset before Postern looked at them (CVE-2023-44487).
pub const H2_PENDING_RESETS: usize = 20;
/// Streams of a client that Postern reset for faults of the client.
pub const H2_OWN_RESETS: usize = 1_024;
/// Window of one HTTP/2 stream of an upstream, bytes.
pub const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// Window of an HTTP/2 connection to an upstream, bytes.
pub const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Silence after which an upstream is given up, before its answer starts.
pub const FIRST_BYTE: Duration = Duration::from_mins(1);
/// The same for requests with a body, which a registry may take minutes to commit.
pub const FIRST_BYTE_UPLOAD: Duration = Duration::from_mins(15);
/// Silence in the middle of a body after which it is given up: a client that sends or reads
/// nothing, an upstream that sends nothing.
pub const IDLE_BODY: Duration = Duration::from_mins(1);
/// The same for streams that are meant to be silent at times: gRPC, server-sent events, and
/// connections that changed to another protocol such as WebSocket.
pub const IDLE_STREAM: Duration = Duration::from_hours(1);
/// Connections to one upstream that are in use at a time, per worker, workload and Connector. One
/// over HTTP/1.1 is in use by a request or a tunnel, one over HTTP/2 by as many streams as its
/// upstream allows.
pub const UPSTREAM_CONNECTIONS: usize = 256;
/// Requests that wait for one of them, or for a stream; more are answered 503.
pub const UPSTREAM_QUEUE: usize = 1_024;
/// How long one may wait.
pub const UPSTREAM_QUEUE_TIME: Duration = Duration::from_secs(30);
/// Silence on an HTTP/2 connection to an upstream after which it is asked for a sign of life.
pub const H2_PING: Duration = Duration::from_secs(20);
/// How long it may take to give one.
pub const H2_PONG: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection that nobody uses any more may take to end.
pub const H2_FAREWELL: Duration = Duration::from_secs(5);
/// How often a request is sent whose HTTP/2 connection the upstream ends before it each time.
pub const SENT_AGAIN: u32 = 8;
/// Upstreams for which a worker keeps connections before it looks for ones to forget.
pub const POOLED_UPSTREAMS: usize = 256;
/// How long a connection to an upstream may stay idle; below what servers allow.
pub const IDLE_TIME: Duration = Duration::from_secs(50);
/// Age from which a connection is not used again, and closed once its exchanges are over.
pub const CONNECTION_AGE: Duration = Duration::from_mins(10);
/// How often connections are looked for that are too old or idle for too long.
pub const POOL_SWEEP: Duration = Duration::from_secs(5);
/// Leaf certificates kept.
pub const LEAVES: usize = 1_024;
/// Life of a leaf certificate; it is replaced after half of it.
pub const LEAF_LIFE: Duration = Duration::from_hours(24);
/// So many connections fewer than before, and half of them at most, are the end of a rush, after
/// which memory is given back to the system.
pub const RUSH: u64 = 64;
/// Least time between two times that memory is given back: the allocator is locked meanwhile.
pub const RUSH_PAUSE: Duration = Duration::from_secs(10);
/// How often Postern tells the kernel that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Age of that sign from which the kernel acts as if Postern were gone.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long connections of a command that has ended may take to end as well.
pub const FAREWELL: Duration = Duration::from_millis(500);
/// Rest after a failed `accept()`, which would otherwise spin while descriptors are short.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is read and thrown away of a request's body after it was refused, so that the client
/// reads the reason instead of a reset.
pub const DRAIN_BYTES: usize = 16 * 1024 * 1024;
/// How long that may take.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Longest pause before the controller is tried again.
pub const RECONNECT: Duration = Duration::from_secs(5);
/// How long the controller may take to open a stream.
pub const SUBSCRIBE: Duration = Duration::from_secs(10);
/// How long it may take to sign the node's authority.
pub const SIGN: Duration = Duration::from_secs(10);
/// Least time between two signatures.
pub const SIGN_AGAIN: Duration = Duration::from_secs(1);
/// Least time between two signatures that are wanted because others may have made room.
pub const SIGN_FOR_ROOM: Duration = Duration::from_secs(30);
/// Least time between two signatures that are wanted because of what the clock says.
pub const SIGN_UNTIMELY: Duration = Duration::from_mins(1);
/// How long the controller may take for the first update before that is complained about.
pub const FIRST_UPDATE: Duration = Duration::from_secs(30);
/// Largest update from the controller, bytes.
pub const UPDATE: usize = 64 * 1024 * 1024;
/// Acknowledgements that wait to be sent.
pub const ACKNOWLEDGEMENTS: usize = 16;
/// Age from which the node's authority is replaced; well before the end of its life.
pub const AUTHORITY_AGE: Duration = Duration::from_hours(8);
/// How long pods that are there when an agent starts may keep it from being ready.
pub const FIRST_PODS: Duration = Duration::from_secs(30);
/// Age of an agent's last sign of life from which it counts as stuck.
pub const STUCK: Duration = Duration::from_secs(10);
/// How long an agent may take to tell its status.
pub const STATUS: Duration = Duration::from_secs(3);
/// Sockets that wait to be made in other network namespaces; who asks for more waits.
pub const SOCKET_ORDERS: usize = 256;
/// How long an agent waits for the one that it replaces to stop writing the maps.
pub const TAKE_OVER: Duration = Duration::from_secs(30);
/// How often it says that it waits.
pub const CLAIM_AGAIN: Duration = Duration::from_millis(50);
/// How long an agent that gives way waits for the other one to take over, before it goes on itself;
/// much shorter than [`GRACE`], because it gives no signs of life meanwhile.
pub const GIVE_WAY: Duration = Duration::from_secs(1);
/// How often it looks whether that is so.
pub const GIVE_WAY_WATCH: Duration = Duration::from_millis(2);
/// How often an agent looks whether another one wants to take over.
pub const CLAIM_WATCH: Duration = Duration::from_millis(200);
/// How long a replaced agent accepts connections of a workload that its successor serves:
/// some are under way.
pub const FLIP: Duration = Duration::from_secs(2);
/// How long it accepts them while the successor does not serve the workload; longer than
/// [`FIRST_PODS`], after which a successor with other maps has taken its programs away.
pub const SUCCESSION: Duration = Duration::from_secs(45);
/// How long a replaced agent serves connections that are open.
pub const HAND_OVER: Duration = Duration::from_mins(10);
/// How often it looks whether it is done.
pub const HAND_OVER_WATCH: Duration = Duration::from_millis(100);
/// How often in a row, once per [`HEARTBEAT`], a replaced agent finds that nobody has the node
/// before it ends, to be started anew and take it.
pub const DESERTED_LOOKS: u32 = 10;
/// Names that are resolved at the same time.
pub const RESOLVE_AT_ONCE: usize = 16;
/// How long a pod stays pending of which a controller that is there knows nothing: a new one is
/// known within a second or two, a static one never.
pub const UNKNOWN_POD: Duration = Duration::from_secs(30);
/// How often the pods in the cgroup tree are looked for without having been notified.
pub const PODS_AGAIN: Duration = Duration::from_secs(30);
/// The same while the tree cannot be read or watched.
pub const PODS_SOON: Duration = Duration::from_secs(1);
/// Window of one HTTP/2 stream of a client, bytes. With the next, what a client can
/// make Postern keep that sends faster than the upstream takes.
pub const CLIENT_H2_STREAM_WINDOW: u32 = 256 * 1024;
/// Window of a client's HTTP/2 connection, bytes.
pub const CLIENT_H2_CONNECTION_WINDOW: u32 = 512 * 1024;
/// How often what a workload may bring about is complained about.
pub const COMPLAIN_AGAIN: Duration = Duration::from_mins(1);
/// How long an agent without a successor serves connections that are open; well below what a
/// kubelet allows.
pub const STOPPING: Duration = Duration::from_secs(15);
/// How long a client's HTTP/1.1 connection may be idle when it is to end: who asks once more
/// meanwhile is told so with the answer.
pub const IDLE_FAREWELL: Duration = Duration::from_secs(2);
/// Connections of a workload that it ends because it does not trust Postern's certificate for
/// a host, before the next ones to that host are passed through, where the Connector says so.
pub const UNTRUSTING_CONNECTIONS: u32 = 3;
/// How long they are passed through; then one is tried again.
pub const UNTRUSTING_PASS: Duration = Duration::from_mins(10);
/// How long it is remembered that a workload did not trust.
pub const UNTRUSTING_MEMORY: Duration = Duration::from_hours(1);
/// Most of them that an agent's status names.
pub const UNTRUSTING_TOLD: usize = 32;
/// Workloads and hosts of which that is remembered.
pub const UNTRUSTING: usize = 4_096;

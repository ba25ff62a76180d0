//! Every limit and time-out of the agents' listener, in one place.

use std::num::NonZeroU32;
use std::time::Duration;

/// Open connections: one for each node, on one replica when the others are away, and more
/// while agents are upgraded. More wait in the backlog.
pub const CONNECTIONS: usize = 8_192;
/// TLS handshakes at a time.
pub const HANDSHAKES: usize = 1_024;
/// A TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may stay open before a call on it is authenticated.
pub const UNAUTHENTICATED: Duration = Duration::from_secs(30);
/// Connections of one source (an IPv4 address, or the first 64 bits of an IPv6 address) on
/// which nobody was authenticated yet. The newest push out the oldest.
pub const STRANGERS: usize = 4;
/// Streams of one node: its agent, the one that replaces it, and what is left of connections
/// that broke. The newest push out the oldest.
pub const STREAMS_OF_A_NODE: usize = 4;
/// Pause after the system had no connection to give.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls at a time on one connection: a stream, a signature, and a second of each.
pub const STREAMS_PER_CONNECTION: u32 = 8;
/// Size of a call's header list, bytes; the token is most of it.
pub const HEADER_LIST: u32 = 32 * 1024;
/// Size of a message of an agent, bytes.
pub const AGENT_MESSAGE: usize = 64 * 1024;
/// Size of a message to an agent, bytes; agents have to take as much.
pub const UPDATE: usize = 64 * 1024 * 1024;
/// Silence after which an agent is asked for a sign of life.
pub const PING: Duration = Duration::from_secs(20);
/// How long it may take to give one.
pub const PONG: Duration = Duration::from_secs(10);
/// From the start of a stream to its Hello.
pub const HELLO: Duration = Duration::from_secs(10);
/// How long an update may stay without acknowledgement before the next one is sent anyway.
pub const ACKNOWLEDGE: Duration = Duration::from_secs(10);
/// Age at which a stream ends, so that its agent comes back with a fresh token; below the
/// hour that tokens last.
pub const STREAM_AGE: Duration = Duration::from_mins(50);
/// How long streams may take to end when the controller stops.
pub const DRAIN: Duration = Duration::from_secs(10);
/// Answer of the API server to a token review, waiting for a turn included.
pub const REVIEW: Duration = Duration::from_secs(10);
/// Token reviews at a time.
pub const REVIEWS: usize = 32;
/// Token reviews per second, and at once. Whoever finds none left comes back.
pub const REVIEW_RATE: (NonZeroU32, NonZeroU32) = (number(50), number(200));
/// The same for tokens that are no JSON Web Tokens, as those of service accounts are; they
/// count among the others as well.
pub const OPAQUE_RATE: (NonZeroU32, NonZeroU32) = (number(5), number(50));
/// Warnings about refused calls per second, and at once; the others are logged as `debug`.
pub const WARNING_RATE: (NonZeroU32, NonZeroU32) = (number(1), number(10));
/// How often the token of a stream is reviewed again.
pub const REVIEW_AGAIN: Duration = Duration::from_mins(2);
/// How long a token that was found valid counts as such.
pub const REVIEWED: Duration = Duration::from_mins(1);
/// Most tokens that are remembered.
pub const TOKENS: usize = 16_384;
/// Size of a token, bytes.
pub const TOKEN: usize = 16 * 1024;
/// Pods and hosts of one report about clients without trust; an agent names no more.
pub const UNTRUSTING: usize = 32;
/// Most characters of what an agent says that are logged.
pub const LOGGED: usize = 256;

const fn number(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

//! Clients and servers of HTTP/2 that say what they like: frames as bytes (RFC 9113), and header lists in
//! the plainest coding there is (RFC 7541, section 6.2.2, without Huffman).

use postern::upstream::HttpVersion;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::rig::{Peer, Rig, soon};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_UPDATE: u8 = 8;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = 65_535;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or `RST_STREAM`.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) async fn connect(rig: &Rig) -> Self {
        let address = rig.listen(HttpVersion::Http2).await;
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(PREFACE).await.expect("room");
        let mut client = Self(stream);
        assert!(client.send(SETTINGS, 0, 0, b"").await);
        client
    }

    /// Sends a frame; whether the other side still takes any.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.0
            .write_all(&frame(kind, flags, stream, payload))
            .await
            .is_ok()
    }

    /// Sends the head of a request.
    pub(crate) async fn request(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        self.send(HEADERS, flags | END_HEADERS, stream, &list(fields))
            .await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        soon(self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon(self.0.read_exact(&mut payload)).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().expect("four bytes"))
                & (u32::MAX >> 1),
            payload,
        })
    }

    /// The next frame of one of these kinds.
    pub(crate) async fn wait_for(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// How the connection ended: the code of its GOAWAY, if there was one.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

/// The other end of a connection of Postern's.
pub(crate) struct Server(Client);

impl Server {
    /// Takes the preface of a client, and says nothing.
    pub(crate) async fn accept(Peer(mut stream): Peer) -> Self {
        let mut preface = [0; PREFACE.len()];
        soon(stream.read_exact(&mut preface))
            .await
            .expect("a preface");
        assert_eq!(preface, PREFACE);
        Self(Client(stream))
    }

    /// Allows so many streams at a time.
    pub(crate) async fn allow(&mut self, streams: u32) {
        let mut setting = MAX_CONCURRENT_STREAMS.to_be_bytes().to_vec();
        setting.extend(streams.to_be_bytes());
        assert!(self.0.send(SETTINGS, 0, 0, &setting).await);
    }

    /// The stream of the next request.
    pub(crate) async fn request(&mut self) -> u32 {
        self.0.wait_for(&[HEADERS]).await.expect("a request").stream
    }

    /// Answers 200, and nothing more.
    pub(crate) async fn answer(&mut self, stream: u32) {
        let flags = END_HEADERS | END_STREAM;
        assert!(self.0.send(HEADERS, flags, stream, &[0x88]).await);
    }

    /// Refuses a stream before it does anything with it.
    pub(crate) async fn refuse(&mut self, stream: u32) {
        let code = REFUSED_STREAM.to_be_bytes();
        assert!(self.0.send(RST_STREAM, 0, stream, &code).await);
    }

    /// Takes no streams after this one.
    pub(crate) async fn go_away(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        assert!(self.0.send(GOAWAY, 0, 0, &payload).await);
    }

    /// Waits until the other side has seen all of it.
    pub(crate) async fn settle(&mut self) {
        assert!(self.0.send(PING, 0, 0, b"settled?").await);
        let answer = self.0.wait_for(&[PING]).await.expect("an answer");
        assert_eq!(answer.flags, ACK);
    }

    /// Waits for the end of the connection.
    pub(crate) async fn end(&mut self) {
        self.0.end().await;
    }
}

/// What a server says first whose windows are as large as they may be.
pub(crate) fn large_windows() -> Vec<u8> {
    let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    setting.extend(LARGEST_WINDOW.to_be_bytes());
    let more = (LARGEST_WINDOW - FIRST_WINDOW).to_be_bytes();
    [
        frame(SETTINGS, 0, 0, &setting),
        frame(WINDOW_UPDATE, 0, 0, &more),
    ]
    .concat()
}

/// The fields of an ordinary request.
pub(crate) fn get(authority: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", authority),
    ]
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Literal fields without indexing.
pub(crate) fn list(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).expect("a short text");
            assert!(length < 127);
            bytes.push(length);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

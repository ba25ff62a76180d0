//! Two connections as one: what comes on one leaves on the other, ends and resets included.

use std::{io, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    sys::socket::{Shutdown, setsockopt, shutdown, sockopt},
};
use tokio::{io::Interest, net::TcpStream, task::yield_now};

use super::{carrier::Carrier, pipe::Pipes, reset};
use crate::limits;

/// A connection that was passed through.
#[derive(Debug)]
pub struct Passed {
    /// Bytes that the server was given.
    pub to_server: u64,
    /// Bytes that the client was given.
    pub to_client: u64,
    /// How it ended: with both sides done, or else.
    pub end: io::Result<()>,
}

impl Passed {
    /// Bytes of both directions.
    pub fn bytes(&self) -> u64 {
        self.to_server + self.to_client
    }
}

/// Passes on until both sides are done. The end of one side is the end of the same direction on
/// the other, once everything before it is there; the other direction lives on.
///
/// A reset of one side, and every other failure of its connection, resets the other at once. What
/// was received before is handed over as far as the other side takes it without being waited for;
/// of the rest it sees as much as of what a sender had not yet sent when it gave up. To wait
/// would keep the connection for as long as who reads slowly likes, for a peer that is gone.
pub async fn relay(client: TcpStream, server: TcpStream, pipes: &Pipes) -> Passed {
    for stream in [&client, &server] {
        // Segments are as the sender made them; Nagle's algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        // An urgent byte keeps its place among the others (RFC 6093, section 6); without this it
        // would be taken out.
        let _ = setsockopt(stream, sockopt::OobInline, &true);
        keep_alive(stream);
    }
    let mut unfinished = Unfinished(Some([&client, &server]));
    let mut up = Direction::new(&client, &server, pipes);
    let mut down = Direction::new(&server, &client, pipes);
    let end = tokio::select! {
        biased;
        end = async { tokio::try_join!(up.run(), down.run()).map(drop) } => end,
        // Noticed even while a direction waits for the other side.
        fault = fault(&client) => Err(fault),
        fault = fault(&server) => Err(fault),
    };
    if end.is_err() {
        up.hand_over();
        down.hand_over();
    } else {
        unfinished.0 = None;
    }
    Passed {
        to_server: up.passed,
        to_client: down.passed,
        end,
    }
}

/// Asks whether the peer is still there, as often as it takes to notice one that is gone within
/// two minutes, and to be no idle connection to whatever is on the way. The client's own probes
/// end at this proxy, as do the server's.
fn keep_alive(stream: &TcpStream) {
    let _ = setsockopt(
        stream,
        sockopt::TcpKeepIdle,
        &limits::SPLICE_KEEP_ALIVE_SECONDS,
    );
    let _ = setsockopt(
        stream,
        sockopt::TcpKeepInterval,
        &limits::SPLICE_PROBE_SECONDS,
    );
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &limits::SPLICE_PROBES);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
}

/// Two connections that are reset if they are let go in the middle: an orderly end would pass a
/// part off as the whole.
struct Unfinished<'a>(Option<[&'a TcpStream; 2]>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        for stream in self.0.iter().flatten() {
            reset(*stream);
        }
    }
}

/// Waits for a connection to fail.
async fn fault(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => {
            let error = stream.take_error().ok().flatten();
            error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
        }
        Err(error) => error,
    }
}

struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    carrier: Carrier<'a>,
    passed: u64,
}

impl<'a> Direction<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, pipes: &'a Pipes) -> Self {
        Self {
            from,
            to,
            carrier: Carrier::new(pipes),
            passed: 0,
        }
    }

    /// Passes on to the end of `from`, and the end as well.
    async fn run(&mut self) -> io::Result<()> {
        let mut turn = 0;
        loop {
            match self.carrier.fill(self.from) {
                Ok(0) => {
                    self.carrier.rest();
                    return end(self.to);
                }
                Ok(n) => {
                    while !self.drain()? {
                        self.to.writable().await?;
                    }
                    turn += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.carrier.rest();
                    self.from.readable().await?;
                }
                Err(error) => return Err(error),
            }
            // Others have their turn: the other direction, and the connections of this worker.
            if turn >= limits::SPLICE_TURN {
                turn = 0;
                yield_now().await;
            }
        }
    }

    /// What is there is passed on as far as the other side takes it now.
    fn hand_over(&mut self) {
        for _ in 0..limits::SPLICE_LAST_TURNS {
            if !self.drain().is_ok_and(|empty| empty)
                || !self.carrier.fill(self.from).is_ok_and(|n| n > 0)
            {
                return;
            }
        }
    }

    /// Gives `to` what it takes; whether that was everything.
    fn drain(&mut self) -> io::Result<bool> {
        while self.carrier.held() > 0 {
            match self.carrier.drain(self.to) {
                Ok(n) => self.passed += n as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Sends the end of a direction.
fn end(stream: &TcpStream) -> io::Result<()> {
    match shutdown(stream.as_raw_fd(), Shutdown::Write) {
        // Reset meanwhile, which the other direction sees.
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

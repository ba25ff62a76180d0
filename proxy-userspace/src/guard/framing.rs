//! Where in the stream of a client the next byte is.

use super::{
    chunks::{Chunks, Fault},
    head::{self, Follows},
};
use crate::gate::Refusal;

/// Follows a client's requests from head to head.
#[derive(Debug)]
pub(super) struct Framing {
    at: Position,
    /// Heads that were passed.
    heads: u64,
}

#[derive(Debug)]
enum Position {
    Head {
        /// How much of it was looked at.
        seen: usize,
    },
    Body(u64),
    Chunks(Chunks),
    /// After a request for another protocol.
    Answer,
    Raw,
    /// Nothing more is passed.
    Stopped,
}

/// How far bytes may be passed.
#[derive(Debug)]
pub(super) struct Passed {
    /// So many of them.
    pub(super) bytes: usize,
    /// Why no more ever will.
    pub(super) stop: Option<Stop>,
}

/// Why a stream ends here.
#[derive(Debug)]
pub(super) enum Stop {
    /// A head is refused.
    Head(Refusal),
    /// The body of a request that was passed is broken.
    Body(Fault),
}

impl Framing {
    /// Before the first request.
    pub(super) fn new() -> Self {
        Self {
            at: Position::Head { seen: 0 },
            heads: 0,
        }
    }

    /// Heads that were passed so far.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether an answer is waited for.
    pub(super) fn waits(&self) -> bool {
        matches!(self.at, Position::Answer)
    }

    /// Whether nothing more is passed.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.at, Position::Stopped)
    }

    /// The answer that was waited for is there.
    pub(super) fn answered(&mut self, switches: bool) {
        if self.waits() {
            self.at = if switches {
                Position::Raw
            } else {
                Position::Head { seen: 0 }
            };
        }
    }

    /// How many of the bytes may be passed. What remains has to come again, in front of what
    /// follows it.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Passed {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            if rest.is_empty() {
                break;
            }
            match self.step(rest) {
                Ok(0) => break,
                Ok(n) => passed += n,
                Err(stop) => {
                    self.at = Position::Stopped;
                    return Passed {
                        bytes: passed,
                        stop: Some(stop),
                    };
                }
            }
        }
        Passed {
            bytes: passed,
            stop: None,
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        match &mut self.at {
            Position::Head { seen } => {
                let Some(end) = head::end(bytes, *seen).map_err(Stop::Head)? else {
                    *seen = bytes.len();
                    return Ok(0);
                };
                let follows = head::check(&bytes[..end]).map_err(Stop::Head)?;
                self.heads += 1;
                self.at = match follows {
                    Follows::Body(0) => Position::Head { seen: 0 },
                    Follows::Body(length) => Position::Body(length),
                    Follows::Chunks => Position::Chunks(Chunks::new()),
                    Follows::Answer => Position::Answer,
                };
                Ok(end)
            }
            Position::Body(left) => {
                let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= n as u64;
                if *left == 0 {
                    self.at = Position::Head { seen: 0 };
                }
                Ok(n)
            }
            Position::Chunks(chunks) => {
                let n = chunks.advance(bytes).map_err(Stop::Body)?;
                if matches!(chunks, Chunks::End) {
                    self.at = Position::Head { seen: 0 };
                }
                Ok(n)
            }
            Position::Raw => Ok(bytes.len()),
            Position::Answer | Position::Stopped => Ok(0),
        }
    }
}

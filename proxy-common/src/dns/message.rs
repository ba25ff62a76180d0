//! One walk over a message (RFC 1035, section 4), in steps.

use super::{Bytes, is_of_host, name};

/// Steps that the question of a message may take, and as many again its answers: one for each
/// byte of a name that is not compressed, one for each pointer, one for each record. What comes
/// later is not read.
///
/// A step has no loop. The kernel has the verifier look at a step once, and at the loop around
/// it only for its bound.
pub const STEPS: usize = 1024;

const HEADER: usize = 12;
/// QR, OPCODE and RCODE.
const FLAGS: u16 = 0xf80f;
/// A response to a standard query, without an error.
const QR: u16 = 0x8000;
const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;

/// What a step came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    More,
    /// The name that was asked for, as its [hash](super::hash). Comes once, before addresses.
    Question(u64),
    /// An address of that name in the form of the maps, IPv4 v4-mapped; also one that no host has.
    Address([u8; 16]),
    /// The end, or the place where the message is cut or wrong.
    End,
}

/// How far the walk over a message has come.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Hash of the name whose records count.
    wanted: u64,
    /// A place where that name stands, at which nearly all owners point; past every message
    /// while the question is being read.
    wanted_at: usize,
    /// Start of the data of a CNAME whose target is being read.
    target: usize,
    /// End of that data; 0 while an owner is being read.
    target_end: usize,
    /// Records of the answer section that are left, if the header is right.
    records: usize,
    name: Name,
}

/// A name that is being read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Name {
    hash: u64,
    /// Next byte to read.
    at: usize,
    /// Where what follows the name starts; 0 as long as that is not known.
    end: usize,
    /// A pointer leads to before this place, so that none can lead in circles. The header is
    /// no place for names, but nothing depends on what is read there.
    bound: usize,
    /// Bytes of its wire form so far.
    size: usize,
    /// Bytes of the current label that are left.
    left: usize,
    complete: bool,
}

impl Walk {
    /// Starts; `None` if nothing can be learned from the message, as its header says.
    #[inline(always)]
    pub fn new<B: Bytes + ?Sized>(message: &B) -> Option<Self> {
        let [_, _, f1, f0, q1, q0, a1, a0, _, _, _, _] = message.load::<HEADER>(0)?;
        let believed = u16::from_be_bytes([f1, f0]) & FLAGS == QR;
        let questions = u16::from_be_bytes([q1, q0]);
        let records = usize::from(u16::from_be_bytes([a1, a0]));
        (believed && questions == 1 && records > 0).then_some(Self {
            wanted: 0,
            wanted_at: usize::MAX,
            target: 0,
            target_end: 0,
            records,
            name: Name::at(HEADER),
        })
    }

    /// One step; none may follow after [`Step::End`].
    #[inline(always)]
    pub fn step<B: Bytes + ?Sized>(&mut self, message: &B) -> Step {
        self.advance(message).unwrap_or(Step::End)
    }

    #[inline(always)]
    fn advance<B: Bytes + ?Sized>(&mut self, message: &B) -> Option<Step> {
        if !self.name.complete {
            self.name.advance(message, self.wanted, self.wanted_at)?;
            Some(Step::More)
        } else if self.wanted_at == usize::MAX {
            self.question(message)
        } else if self.target_end != 0 {
            self.rename()
        } else {
            self.record(message)
        }
    }

    #[inline(always)]
    fn question<B: Bytes + ?Sized>(&mut self, message: &B) -> Option<Step> {
        let [_, _, c1, c0] = message.load(self.name.end)?;
        if u16::from_be_bytes([c1, c0]) != CLASS_IN {
            return None;
        }
        self.wanted = self.name.hash;
        self.wanted_at = HEADER;
        self.name = Name::at(self.name.end + 4);
        Some(Step::Question(self.wanted))
    }

    #[inline(always)]
    fn record<B: Bytes + ?Sized>(&mut self, message: &B) -> Option<Step> {
        if self.records == 0 {
            return None;
        }
        let [t1, t0, c1, c0, _, _, _, _, l1, l0] = message.load(self.name.end)?;
        let data = self.name.end + 10;
        let length = u16::from_be_bytes([l1, l0]);
        let end = data + usize::from(length);
        let counts = u16::from_be_bytes([c1, c0]) == CLASS_IN && self.name.hash == self.wanted;
        let kind = if counts {
            u16::from_be_bytes([t1, t0])
        } else {
            0
        };
        if kind == TYPE_CNAME {
            self.target = data;
            self.target_end = end;
            self.name = Name::at(data);
            return Some(Step::More);
        }
        // Before the address is read: the compiler would let steps with and without one go
        // through it together, with sixteen bytes on the stack that only one of them has written,
        // which kernels before 6.3 refuse.
        self.next(end);
        Some(match (kind, length) {
            (TYPE_A, 4) => Step::Address(mapped(message.load(data)?)),
            (TYPE_AAAA, 16) => Step::Address(message.load(data)?),
            _ => Step::More,
        })
    }

    /// From here on the records of a CNAME's target count.
    #[inline(always)]
    fn rename(&mut self) -> Option<Step> {
        if self.name.end != self.target_end {
            return None;
        }
        self.wanted = self.name.hash;
        self.wanted_at = self.target;
        self.next(self.target_end);
        self.target_end = 0;
        Some(Step::More)
    }

    /// The next record's owner, of which there is none after the last record.
    #[inline(always)]
    fn next(&mut self, at: usize) {
        self.records -= 1;
        self.name = Name::at(at);
        self.name.complete = self.records == 0;
    }
}

/// Reads a message to its end, or to the limits of [`STEPS`]. When `wants` refuses the hash of
/// the name that was asked for, nothing more is read.
pub fn read<B: Bytes + ?Sized>(
    message: &B,
    wants: impl Fn(u64) -> bool,
    mut found: impl FnMut([u8; 16]),
) {
    let Some(mut walk) = Walk::new(message) else {
        return;
    };
    let asked = (0..STEPS)
        .map(|_| walk.step(message))
        .find(|step| *step != Step::More);
    match asked {
        Some(Step::Question(name)) if wants(name) => {}
        _ => return,
    }
    for _ in 0..STEPS {
        match walk.step(message) {
            Step::Address(address) if is_of_host(&address) => found(address),
            Step::Address(_) | Step::More | Step::Question(_) => {}
            Step::End => break,
        }
    }
}

#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

impl Name {
    #[inline(always)]
    fn at(at: usize) -> Self {
        Self {
            hash: name::ROOT,
            at,
            end: 0,
            bound: at,
            size: 0,
            left: 0,
            complete: false,
        }
    }

    /// Reads one byte, or one pointer.
    #[inline(always)]
    fn advance<B: Bytes + ?Sized>(
        &mut self,
        message: &B,
        wanted: u64,
        wanted_at: usize,
    ) -> Option<()> {
        let [byte] = message.load(self.at)?;
        if self.left > 0 {
            self.left -= 1;
        } else if byte == 0 {
            if self.end == 0 {
                self.end = self.at + 1;
            }
            self.complete = true;
            return Some(());
        } else if byte & 0xc0 == 0xc0 {
            return self.follow(message, wanted, wanted_at);
        } else if byte > name::LONGEST_LABEL {
            return None;
        } else {
            self.left = usize::from(byte);
        }
        self.size += 1;
        self.at += 1;
        self.hash = name::mix(self.hash, byte);
        // With the zero that is still to come.
        (self.size < name::LONGEST).then_some(())
    }

    #[inline(always)]
    fn follow<B: Bytes + ?Sized>(
        &mut self,
        message: &B,
        wanted: u64,
        wanted_at: usize,
    ) -> Option<()> {
        let [high, low] = message.load(self.at)?;
        let to = usize::from(u16::from_be_bytes([high & 0x3f, low]));
        if self.end == 0 {
            self.end = self.at + 2;
        }
        if self.size == 0 && to == wanted_at {
            self.hash = wanted;
            self.complete = true;
            return Some(());
        }
        if to >= self.bound {
            return None;
        }
        self.bound = to;
        self.at = to;
        Some(())
    }
}

//! One walk over a message (RFC 1035, section 4).

use super::{Bytes, name};

/// Steps that one message may take after its question: one for each byte of a name that is
/// not compressed, one for each pointer, one for each record. What comes later is not read.
///
/// One loop with one bound, instead of a loop over names inside one over records, because the
/// verifier of the kernel walks through every round of it.
pub const STEPS: usize = 640;

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
/// First twelve bytes of an IPv4 address in its v4-mapped form.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The question of an answer that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// [Hash](super::hash) of the name that was asked for.
    pub name: u64,
    /// Records in the answer section, if the header is right.
    records: u16,
    /// Where the answer section starts.
    end: usize,
}

/// What a message answers; `None` if nothing can be learned from it.
#[inline(always)]
pub fn question<B: Bytes + ?Sized>(message: &B) -> Option<Question> {
    let [_, _, kind, code, q1, q0, a1, a0, _, _, _, _] = message.load::<HEADER>(0)?;
    // QR is set and OPCODE is 0; RCODE is 0.
    let believed = kind & 0xf8 == 0x80 && code & 0x0f == 0;
    let records = u16::from_be_bytes([a1, a0]);
    if !believed || u16::from_be_bytes([q1, q0]) != 1 || records == 0 {
        return None;
    }
    let mut at = HEADER;
    let mut hash = name::ROOT;
    let mut left = 0;
    for _ in 0..name::LONGEST {
        let [byte] = message.load(at)?;
        at += 1;
        if left > 0 {
            left -= 1;
        } else if byte == 0 {
            let [_, _, c1, c0] = message.load(at)?;
            let question = Question {
                name: hash,
                records,
                end: at + 4,
            };
            return (u16::from_be_bytes([c1, c0]) == CLASS_IN).then_some(question);
        } else if byte > name::LONGEST_LABEL {
            // Nothing is before the first name that a pointer could lead to.
            return None;
        } else {
            left = byte;
        }
        hash = name::mix(hash, byte);
    }
    None
}

/// Passes on every address that the message gives for the name of its question, in the form of
/// the maps: IPv4 is v4-mapped.
#[inline(always)]
pub fn addresses<B: Bytes + ?Sized>(
    message: &B,
    question: &Question,
    mut found: impl FnMut([u8; 16]),
) {
    // Not an Option all the way: what was found stays found.
    let _ = walk(message, question, &mut found);
}

/// The name whose records count.
#[derive(Clone, Copy)]
struct Wanted {
    hash: u64,
    /// A place where it stands. Nearly all owners are a pointer there.
    at: usize,
}

/// Ends with `None` where the message is cut or wrong.
#[inline(always)]
fn walk<B: Bytes + ?Sized>(
    message: &B,
    question: &Question,
    found: &mut impl FnMut([u8; 16]),
) -> Option<()> {
    let mut records = question.records;
    let mut wanted = Wanted {
        hash: question.name,
        at: HEADER,
    };
    let mut name = Name::at(question.end);
    // Start and end of the data of a CNAME whose target is being read; 0 otherwise.
    let (mut target, mut target_end) = (0, 0);
    for _ in 0..STEPS {
        if !name.complete {
            name.step(message, wanted)?;
            continue;
        }
        if target_end == 0 {
            let [t1, t0, c1, c0, _, _, _, _, l1, l0] = message.load(name.end)?;
            let data = name.end + 10;
            let length = u16::from_be_bytes([l1, l0]);
            let end = data + usize::from(length);
            let class = u16::from_be_bytes([c1, c0]);
            let kind = if class == CLASS_IN && name.hash == wanted.hash {
                u16::from_be_bytes([t1, t0])
            } else {
                0
            };
            if kind == TYPE_CNAME {
                name = Name::at(data);
                (target, target_end) = (data, end);
                continue;
            }
            let address = match (kind, length) {
                (TYPE_A, 4) => Some(mapped(message.load(data)?)),
                (TYPE_AAAA, 16) => Some(message.load(data)?),
                _ => None,
            };
            if let Some(address) = address {
                found(address);
            }
            name = Name::at(end);
        } else {
            if name.end != target_end {
                return None;
            }
            wanted = Wanted {
                hash: name.hash,
                at: target,
            };
            name = Name::at(target_end);
            target_end = 0;
        }
        records -= 1;
        if records == 0 {
            return Some(());
        }
    }
    None
}

#[inline(always)]
fn mapped(address: [u8; 4]) -> [u8; 16] {
    let mut all = [0; 16];
    let (front, back) = all.split_at_mut(MAPPED.len());
    front.copy_from_slice(&MAPPED);
    back.copy_from_slice(&address);
    all
}

/// A name that is being read.
struct Name {
    complete: bool,
    hash: u64,
    /// Bytes of its wire form so far.
    size: usize,
    /// Next byte to read.
    at: usize,
    /// Bytes of the current label that are left.
    left: u8,
    /// A pointer leads to before this place, so that none can lead in circles.
    bound: usize,
    /// Where what follows the name starts; 0 as long as that is not known.
    end: usize,
}

impl Name {
    #[inline(always)]
    fn at(at: usize) -> Self {
        Self {
            complete: false,
            hash: name::ROOT,
            size: 0,
            at,
            left: 0,
            bound: at,
            end: 0,
        }
    }

    /// Reads one byte, or one pointer.
    #[inline(always)]
    fn step<B: Bytes + ?Sized>(&mut self, message: &B, wanted: Wanted) -> Option<()> {
        let [byte] = message.load(self.at)?;
        if self.left > 0 {
            self.left -= 1;
        } else if byte == 0 {
            self.at += 1;
            self.finish();
            return Some(());
        } else if byte & 0xc0 == 0xc0 {
            return self.follow(message, wanted);
        } else if byte > name::LONGEST_LABEL {
            return None;
        } else {
            self.left = byte;
        }
        self.size += 1;
        self.at += 1;
        self.hash = name::mix(self.hash, byte);
        // With the zero that is still to come.
        (self.size < name::LONGEST).then_some(())
    }

    #[inline(always)]
    fn follow<B: Bytes + ?Sized>(&mut self, message: &B, wanted: Wanted) -> Option<()> {
        let [high, low] = message.load(self.at)?;
        let to = usize::from(u16::from_be_bytes([high & 0x3f, low]));
        if self.end == 0 {
            self.end = self.at + 2;
        }
        if self.size == 0 && to == wanted.at {
            self.hash = wanted.hash;
            self.complete = true;
            return Some(());
        }
        if to < HEADER || to >= self.bound {
            return None;
        }
        self.bound = to;
        self.at = to;
        Some(())
    }

    #[inline(always)]
    fn finish(&mut self) {
        if self.end == 0 {
            self.end = self.at;
        }
        self.complete = true;
    }
}

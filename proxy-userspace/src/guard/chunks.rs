//! Bodies in chunks (RFC 9112, section 7.1), followed byte for byte to find their end.
//!
//! Only one spelling is accepted, so that nobody reads another end: sizes of up to sixteen
//! digits without space around them, CR LF after each line and each chunk.

use crate::limits;

/// Where in a body the next byte is.
#[derive(Debug)]
pub(super) enum Chunks {
    Size { digits: u8, size: u64 },
    Extension { length: usize, size: u64 },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers(Vec<u8>),
    End,
}

/// Why a body cannot be read.
pub(super) type Fault = &'static str;

const UNREADABLE: Fault = "the trailers cannot be read";
const SIZE: Fault = "the size of a chunk is not a hexadecimal number that a CR LF or ';' follows";

impl Chunks {
    /// Before the first chunk.
    pub(super) fn new() -> Self {
        Self::Size { digits: 0, size: 0 }
    }

    /// Follows the body and says how many of the bytes belong to it; it has ended when the
    /// state is [`Chunks::End`].
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() && !matches!(self, Self::End) {
            at += self.step(&bytes[at..])?;
        }
        Ok(at)
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let byte = bytes[0];
        let mut taken = 1;
        match self {
            Self::Size { digits, size } => match char::from(byte).to_digit(16) {
                Some(digit) if *digits < 16 => {
                    *digits += 1;
                    *size = *size << 4 | u64::from(digit);
                }
                None if *digits > 0 && byte == b'\r' => *self = Self::SizeEnd { size: *size },
                None if *digits > 0 && byte == b';' => {
                    *self = Self::Extension {
                        length: 0,
                        size: *size,
                    }
                }
                _ => return Err(SIZE),
            },
            Self::Extension { length, size } => match byte {
                b'\r' => *self = Self::SizeEnd { size: *size },
                byte if byte.is_ascii_control() && byte != b'\t' => {
                    return Err("the extension of a chunk has a control character");
                }
                _ if *length == limits::CHUNK_EXTENSION_BYTES => {
                    return Err("the extension of a chunk is too long");
                }
                _ => *length += 1,
            },
            Self::SizeEnd { size } => match (byte, *size) {
                (b'\n', 0) => *self = Self::Trailers(Vec::new()),
                (b'\n', left) => *self = Self::Data { left },
                _ => return Err(SIZE),
            },
            Self::Data { left } => {
                taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::DataCr;
                }
            }
            Self::DataCr if byte == b'\r' => *self = Self::DataLf,
            Self::DataLf if byte == b'\n' => *self = Self::new(),
            Self::DataCr | Self::DataLf => return Err("a chunk is longer than its size says"),
            Self::Trailers(lines) => {
                lines.push(byte);
                if lines == b"\r\n" || lines.ends_with(b"\r\n\r\n") {
                    check_trailers(lines)?;
                    *self = Self::End;
                } else if lines.len() >= limits::TRAILER_BYTES {
                    return Err("the trailers are too large");
                }
            }
            Self::End => taken = 0,
        }
        Ok(taken)
    }
}

/// Fields like those of a head, but none that says how the message is to be read, to whom it
/// goes, or who sent it (RFC 9110, section 6.5.1).
fn check_trailers(lines: &[u8]) -> Result<(), Fault> {
    if lines == b"\r\n" {
        return Ok(());
    }
    let folded = lines.windows(2).any(|w| w == b"\n " || w == b"\n\t");
    if folded || !matches!(super::head::end(lines, 0), Ok(Some(_))) {
        return Err(UNREADABLE);
    }
    let mut fields = [httparse::EMPTY_HEADER; limits::HEADERS];
    match httparse::parse_headers(lines, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == lines.len() => {
            let misplaced = fields.iter().any(|field| {
                [
                    "authorization",
                    "connection",
                    "content-length",
                    "host",
                    "transfer-encoding",
                ]
                .iter()
                .any(|name| field.name.eq_ignore_ascii_case(name))
            });
            if misplaced {
                return Err("the trailers have a field that belongs into the head");
            }
            Ok(())
        }
        _ => Err(UNREADABLE),
    }
}

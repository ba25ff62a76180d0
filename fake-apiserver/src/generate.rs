//! Identifiers and times.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The letters of generated names; none that form words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

fn random() -> u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one(COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A new uid.
pub fn uid() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

/// What is appended to `generateName`.
pub fn suffix() -> String {
    let mut bits = random();
    let count = LETTERS.len() as u64;
    (0..SUFFIX_LENGTH)
        .map(|_| {
            let index = usize::try_from(bits % count).unwrap_or_default();
            bits /= count;
            char::from(LETTERS[index])
        })
        .collect()
}

/// A token that nobody guesses by accident.
pub fn token() -> String {
    format!("fake.{:016x}{:016x}", random(), random())
}

/// A time as objects have it, whole seconds in UTC.
pub fn timestamp(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}

/// Now.
pub fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// How long ago a time was, as tables show it (`5m`, `3d4h`).
pub fn age(text: &str) -> String {
    let Ok(then) = OffsetDateTime::parse(text, &Rfc3339) else { return "<unknown>".to_owned() };
    duration((OffsetDateTime::now_utc() - then).whole_seconds().max(0))
}

fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |value: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{value}{unit}") } else { format!("{value}{unit}{rest}{small}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => with(days / 365, "y", days % 365, "d"),
    }
}

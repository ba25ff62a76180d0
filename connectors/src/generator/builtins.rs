//! The functions that a generator may call.
//!
//! None reaches outside of the process, and none makes much out of little: what a tenant
//! puts into a parameter or a Secret must not become gigabytes.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::{digest, hmac};
use regorus::{Engine, Value};

use crate::limits;

/// Functions of the engine that are available as they are.
const PLAIN: &[&str] = &[
    "abs",
    "array.slice",
    "base64.decode",
    "base64.encode",
    "base64.is_valid",
    "base64url.decode",
    "base64url.encode",
    "base64url.encode_no_pad",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "format_int",
    "hex.decode",
    "hex.encode",
    "indexof",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "json.is_valid",
    "json.marshal",
    "json.unmarshal",
    "lower",
    "max",
    "min",
    "object.get",
    "object.keys",
    "object.remove",
    "object.union",
    "regex.match",
    "round",
    "sort",
    "split",
    "sprintf",
    "startswith",
    "strings.reverse",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "upper",
    "urlquery.decode",
    "urlquery.encode",
];

/// What a function makes of its arguments.
type Function = fn(&[Value]) -> Result<Value>;

/// Functions of ours, with the number of their arguments: those that the engine lacks, and those of its own that need a bound.
const OURS: &[(&str, u8, Function)] = &[
    ("concat", 2, concat),
    ("crypto.hmac.sha1", 2, hmac_sha1),
    ("crypto.hmac.sha256", 2, hmac_sha256),
    ("crypto.hmac.sha512", 2, hmac_sha512),
    ("crypto.sha1", 1, sha1),
    ("crypto.sha256", 1, sha256),
    ("replace", 3, replace),
];

/// The one function whose value changes by itself.
pub(super) const NOW: &str = "time.now_ns";

/// Whether a generator may call this.
pub(super) fn is_available(name: &str) -> bool {
    name == NOW || PLAIN.contains(&name) || OURS.iter().any(|(own, ..)| *own == name)
}

/// Gives an engine our functions.
pub(super) fn add_to(engine: &mut Engine) -> Result<()> {
    for (name, arguments, function) in OURS {
        let function = |values: Vec<Value>| function(&values);
        engine.add_extension((*name).to_owned(), *arguments, Box::new(function))?;
    }
    // The same throughout an evaluation: each has a copy of the engine that was never asked.
    let mut now = None;
    let now_ns = move |_: Vec<Value>| {
        let now = match now {
            Some(known) => known,
            None => *now.insert(nanoseconds()?),
        };
        Ok(Value::from(now))
    };
    engine.add_extension(NOW.to_owned(), 0, Box::new(now_ns))
}

/// Since the Unix epoch.
fn nanoseconds() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.context("the clock is before 1970")?;
    u64::try_from(since.as_nanos()).context("the clock is after 2554")
}

fn text(values: &[Value], index: usize) -> Result<&str> {
    let value = values.get(index).context("an argument is missing")?;
    Ok(value.as_string()?)
}

/// `concat(delimiter, array or set)`.
fn concat(values: &[Value]) -> Result<Value> {
    let delimiter = text(values, 0)?;
    let list = values.get(1).context("an argument is missing")?;
    let items: Vec<&Value> = match list {
        Value::Set(set) => set.iter().collect(),
        list => list.as_array()?.iter().collect(),
    };
    let mut joined = String::new();
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            joined.push_str(delimiter);
        }
        joined.push_str(item.as_string()?);
        bounded(joined.len())?;
    }
    Ok(joined.into())
}

/// `replace(text, old, new)`.
fn replace(values: &[Value]) -> Result<Value> {
    let (text, old, new) = (text(values, 0)?, text(values, 1)?, text(values, 2)?);
    let found = text.matches(old).count();
    bounded(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(text.replace(old, new).into())
}

fn bounded(length: usize) -> Result<()> {
    ensure!(length <= limits::GENERATOR_TEXT, "the text is too long");
    Ok(())
}

fn hmac_sha1(values: &[Value]) -> Result<Value> {
    hmac_of(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, values)
}

fn hmac_sha256(values: &[Value]) -> Result<Value> {
    hmac_of(hmac::HMAC_SHA256, values)
}

fn hmac_sha512(values: &[Value]) -> Result<Value> {
    hmac_of(hmac::HMAC_SHA512, values)
}

/// `crypto.hmac.…(message, key)`, in lower-case hexadecimal.
fn hmac_of(algorithm: hmac::Algorithm, values: &[Value]) -> Result<Value> {
    let (message, key) = (text(values, 0)?, text(values, 1)?);
    let key = hmac::Key::new(algorithm, key.as_bytes());
    hex(hmac::sign(&key, message.as_bytes()).as_ref())
}

fn sha1(values: &[Value]) -> Result<Value> {
    let text = text(values, 0)?;
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

fn sha256(values: &[Value]) -> Result<Value> {
    let text = text(values, 0)?;
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> Result<Value> {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        if write!(text, "{byte:02x}").is_err() {
            bail!("out of memory");
        }
    }
    Ok(text.into())
}

/// Whether a format of `sprintf` has no width or precision that would make much of little.
pub(super) fn is_modest_format(format: &str) -> bool {
    format.split('%').skip(1).all(|directive| {
        let width = directive.chars().take_while(|c| !c.is_alphabetic());
        width.filter(char::is_ascii_digit).count() <= 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_reaches_outside_or_multiplies() {
        for name in [
            "http.send",
            "io.jwt.decode",
            "net.lookup_ip_addr",
            "numbers.range",
            "opa.runtime",
            "print",
            "rand.intn",
            "strings.replace_n",
            "trace",
            "uuid.rfc4122",
            "walk",
        ] {
            assert!(!is_available(name), "{name}");
        }
        for name in ["concat", "crypto.hmac.sha256", "sprintf", NOW] {
            assert!(is_available(name), "{name}");
        }
    }

    #[test]
    fn what_would_be_too_long_is_not_made() {
        let long = Value::from("a".repeat(limits::GENERATOR_TEXT / 2));
        let twice = Value::from(vec![long.clone(), long.clone()]);
        let pair = [Value::from("-"), twice];
        assert!(concat(&pair).is_err());
        assert!(replace(&[long.clone(), Value::from("a"), Value::from("bbb")]).is_err());
        assert!(replace(&[long, Value::from("a"), Value::from("b")]).is_ok());
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        // RFC 4231, test case 2.
        let pair = [Value::from("what do ya want for nothing?"), "Jefe".into()];
        assert_eq!(
            hmac_sha256(&pair).expect("a digest"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843".into()
        );
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            sha256(&["abc".into()]).expect("a digest"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into()
        );
    }

    #[test]
    fn widths_are_small() {
        for format in ["%s", "%d%%", "%02d", "%-10s:%.3f", "100 %s, 2000"] {
            assert!(is_modest_format(format), "{format}");
        }
        for format in ["%999d", "%0999999999d", "%s %1.000f"] {
            assert!(!is_modest_format(format), "{format}");
        }
    }
}

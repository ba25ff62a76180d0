//! As much HTTP as the token server needs: one request per connection.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail};

/// The longest head or body that is read.
const LIMIT: u64 = 64 * 1024;

/// A request for a token.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) method: String,
    pub(super) authorization: Option<String>,
    parameters: Vec<(String, String)>,
}

impl Question {
    /// The first value of a parameter.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.parameters
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads a request: the parameters are in the query or, as a form, in the body.
pub(super) fn read(stream: &mut impl Read) -> Result<Question> {
    let mut reader = BufReader::new(stream.take(LIMIT));
    let mut line = String::new();
    reader.read_line(&mut line).context("no request")?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        bail!("not a request: {line}");
    };
    let mut question = Question {
        method: method.to_owned(),
        ..Question::default()
    };
    if let Some((_, query)) = target.split_once('?') {
        question.parameters.extend(parameters(query));
    }

    let mut length = 0;
    loop {
        let mut line = String::new();
        // No line at all means that the client is gone or went beyond the limit.
        if reader.read_line(&mut line).context("no headers")? == 0 {
            bail!("the headers have no end");
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => question.authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().context("no length")?,
            _ => {}
        }
    }
    let mut body = String::new();
    reader
        .take(length)
        .read_to_string(&mut body)
        .context("no body")?;
    question.parameters.extend(parameters(&body));
    Ok(question)
}

/// A whole response with a JSON body.
pub(super) fn response(status: u16, body: &str) -> String {
    let challenge = if status == 401 {
        "WWW-Authenticate: Basic realm=\"tokens\"\r\n"
    } else {
        ""
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n{challenge}\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn parameters(text: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// Undoes the encoding of forms: `+` is a blank, `%41` an `A`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digits = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_and_form() {
        let text = b"GET /token?service=r&scope=repository%3Aa%2Fb%3Apull&scope=x+y HTTP/1.1\r\n\
                     Authorization: Basic abc\r\n\r\n";
        let question = read(&mut &text[..]).unwrap();
        assert_eq!(question.first("service"), Some("r"));
        assert_eq!(
            question.all("scope").collect::<Vec<_>>(),
            ["repository:a/b:pull", "x y"]
        );
        assert_eq!(question.authorization.as_deref(), Some("Basic abc"));

        let text = b"POST /token HTTP/1.1\r\ncontent-length: 10\r\n\r\npassword=%2etrailing";
        let question = read(&mut &text[..]).unwrap();
        assert_eq!(question.method, "POST");
        assert_eq!(question.first("password"), Some("%"));
        assert!(read(&mut &b"GET / HTTP/1.1\r\nhost: a\r\n"[..]).is_err());
    }
}

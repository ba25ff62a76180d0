//! The access log: what nginx saw.

use anyhow::{Context, Result, bail};

use super::Request;

/// Fields are separated by a character that nginx escapes in values.
pub(super) const FORMAT: &str = "$http_host|$request_method|$request_uri|$status|$http_authorization\
                          |$server_protocol|$ssl_server_name";

/// Reads one line.
pub(super) fn parse(line: &str) -> Result<Request> {
    let fields: Vec<_> = line.split('\t').collect();
    let [
        host,
        method,
        uri,
        status,
        authorization,
        protocol,
        server_name,
    ] = fields[..]
    else {
        bail!("not a line of our access log: {line}");
    };
    let optional = |value: &str| (value != "-").then(|| value.to_owned());
    Ok(Request {
        host: host.to_owned(),
        method: method.to_owned(),
        uri: uri.to_owned(),
        status: status
            .parse()
            .with_context(|| format!("not a status: {status}"))?,
        authorization: optional(authorization),
        protocol: protocol.to_owned(),
        server_name: optional(server_name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_log() {
        let line = "a.test:8443\tGET\t/x?y=1\t200\tBearer t\tHTTP/2.0\ta.test";
        let request = parse(line).unwrap();
        assert_eq!(request.authorization.as_deref(), Some("Bearer t"));
        assert_eq!((request.status, request.uri.as_str()), (200, "/x?y=1"));
        let bare = parse("a.test\tPUT\t/\t401\t-\tHTTP/1.1\t-").unwrap();
        assert_eq!((bare.authorization, bare.server_name), (None, None));
        assert!(parse("something else").is_err());
    }
}

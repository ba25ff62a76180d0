//! Reading `spec.address`.
//!
//! The `url` crate repairs what a browser would repair: it drops `..`, turns backslashes
//! around and finds a host where none was written. An address decides where a credential
//! goes, so whatever would need repair is refused here before the crate sees it.

use std::fmt;

use thiserror::Error;
use url::{Host, Url};

use super::{Address, Scheme, limits};

/// Why an address cannot be used. No variant repeats the address: one that was written with
/// a password in it must not end up in a log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// There is no `://`; holds what could be meant, if that is safe to repeat.
    #[error("has no scheme: write {}", .0.as_deref().unwrap_or("https:// or http:// before the host"))]
    NoScheme(Option<String>),
    /// A scheme other than the two.
    #[error("has a scheme other than https and http: use one of these two")]
    Scheme,
    /// A user name or password.
    #[error(
        "has a user name or password in it: put them into a Secret and name that in \
         spec.auth.secretRef"
    )]
    UserInfo,
    /// A query.
    #[error("has a query: leave out the `?` and what follows it")]
    Query,
    /// A fragment.
    #[error("has a fragment: leave out the `#` and what follows it")]
    Fragment,
    /// No host.
    #[error("has no host: write one after the scheme, as in https://registry.example.com")]
    NoHost,
    /// A host that no URL can have, or that stands for several.
    #[error("has a host that is neither a DNS name nor an IP address")]
    Host,
    /// A part of a DNS name with a hyphen at its end, for which no certificate can be issued.
    #[error("has a host of which a part begins or ends with `-`: no certificate can name it")]
    Hyphen,
    /// Longer than any address that works.
    #[error("is longer than {} bytes", limits::ADDRESS)]
    TooLong,
    /// A port that is no port.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// White space, a control character or a backslash.
    #[error("has white space, a control character or a backslash in it: leave that out")]
    Character,
    /// A `.` or `..` segment.
    #[error("has `.` or `..` as part of its path: write the path that is meant")]
    DotSegment,
    /// A path, where the protocol fixes all paths.
    #[error(
        "has a path, but its class has the protocol OCI, where every path starts with /v2/: \
         leave the path out"
    )]
    OciPath,
}

impl Address {
    /// Reads an absolute `http` or `https` URL without user, query or fragment.
    ///
    /// Host names come out in lower case (and in their ASCII form), paths without a
    /// trailing slash.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > limits::ADDRESS {
            return Err(AddressError::TooLong);
        }
        let (scheme, rest) = split_scheme(text)?;
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '\\')
        {
            return Err(AddressError::Character);
        }
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_end);
        if authority.contains('@') {
            return Err(AddressError::UserInfo);
        }
        if path.contains('#') {
            return Err(AddressError::Fragment);
        }
        if path.contains('?') {
            return Err(AddressError::Query);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(AddressError::NoHost);
        }
        if path.split('/').any(is_dot_segment) {
            return Err(AddressError::DotSegment);
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::InvalidPort => AddressError::Port,
            url::ParseError::EmptyHost => AddressError::NoHost,
            _ => AddressError::Host,
        })?;
        let port = url.port().unwrap_or(scheme.default_port());
        if port == 0 {
            return Err(AddressError::Port);
        }
        Ok(Self {
            scheme,
            host: host(&url)?,
            port,
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Host and port as a `Host` header has them: IPv6 in brackets, no default port.
    pub fn authority(&self) -> String {
        let host = self.bracketed_host();
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// The host as URLs have it: IPv6 in brackets.
    pub fn bracketed_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl Scheme {
    /// The port that a URL of this scheme means when it names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As written in a URL, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), AddressError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(AddressError::NoScheme(suggestion(text)));
    };
    if scheme.eq_ignore_ascii_case("https") {
        Ok((Scheme::Https, rest))
    } else if scheme.eq_ignore_ascii_case("http") {
        Ok((Scheme::Http, rest))
    } else {
        Err(AddressError::Scheme)
    }
}

/// The address with a scheme, if it consists of nothing but a host, a port and a path.
fn suggestion(text: &str) -> Option<String> {
    let host = text.split([':', '/']).next().unwrap_or_default();
    let plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".:/-_".contains(c));
    (plain && host.contains('.')).then(|| format!("https://{text}"))
}

fn is_dot_segment(segment: &str) -> bool {
    let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
    decoded == "." || decoded == ".."
}

fn host(url: &Url) -> Result<String, AddressError> {
    match url.host().ok_or(AddressError::NoHost)? {
        Host::Ipv4(address) => Ok(address.to_string()),
        Host::Ipv6(address) => Ok(address.to_string()),
        Host::Domain(name) => {
            let well_formed = name
                .split('.')
                .all(|label| !label.is_empty() && label.len() <= MAX_LABEL && is_label(label));
            if !well_formed || name.len() > MAX_NAME {
                return Err(AddressError::Host);
            }
            // Verifiers refuse all of a certificate whose name constraints hold such a name.
            let hyphen = |label: &str| label.starts_with('-') || label.ends_with('-');
            if name.split('.').any(hyphen) {
                return Err(AddressError::Hyphen);
            }
            Ok(name.to_owned())
        }
    }
}

/// Longest part between the dots of a DNS name, in bytes.
const MAX_LABEL: usize = 63;
/// Longest DNS name, in bytes.
const MAX_NAME: usize = 253;

fn is_label(label: &str) -> bool {
    label
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised() {
        for (text, shown, host, port, path) in [
            (
                "https://Registry.Example.com",
                "https://registry.example.com",
                "registry.example.com",
                443,
                "",
            ),
            (
                "HTTPS://registry.example.com/",
                "https://registry.example.com",
                "registry.example.com",
                443,
                "",
            ),
            (
                "http://registry.example.com:443",
                "http://registry.example.com:443",
                "registry.example.com",
                443,
                "",
            ),
            (
                "https://registry.example.com:443",
                "https://registry.example.com",
                "registry.example.com",
                443,
                "",
            ),
            (
                "https://npm.example.com/a/b//",
                "https://npm.example.com/a/b",
                "npm.example.com",
                443,
                "/a/b",
            ),
            (
                "http://10.1.2.3:5000",
                "http://10.1.2.3:5000",
                "10.1.2.3",
                5000,
                "",
            ),
            (
                "https://[2001:DB8::1]:8443/x",
                "https://[2001:db8::1]:8443/x",
                "2001:db8::1",
                8443,
                "/x",
            ),
            (
                "https://b\u{fc}cher.example",
                "https://xn--bcher-kva.example",
                "xn--bcher-kva.example",
                443,
                "",
            ),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(
                (&*address.host, address.port, &*address.path),
                (host, port, path),
                "{text}"
            );
        }
    }

    #[test]
    fn bad_addresses_are_refused() {
        use AddressError as E;
        for (text, error) in [
            (
                "registry.example.com",
                E::NoScheme(Some("https://registry.example.com".into())),
            ),
            (
                "registry.example.com:5000/x",
                E::NoScheme(Some("https://registry.example.com:5000/x".into())),
            ),
            ("https:registry.example.com", E::NoScheme(None)),
            ("me:hunter2@registry.example.com", E::NoScheme(None)),
            ("", E::NoScheme(None)),
            ("oci://registry.example.com", E::Scheme),
            ("https://me:hunter2@registry.example.com", E::UserInfo),
            ("https://me@registry.example.com", E::UserInfo),
            ("https://@registry.example.com", E::UserInfo),
            ("https://registry.example.com?token=hunter2", E::Query),
            ("https://registry.example.com/?", E::Query),
            ("https://registry.example.com/#top", E::Fragment),
            ("https://registry.example.com:0", E::Port),
            ("https://registry.example.com:65536", E::Port),
            ("https://registry.example.com:x", E::Port),
            ("https://", E::NoHost),
            ("https:///registry.example.com", E::NoHost),
            ("https://:443", E::NoHost),
            ("https://*.example.com", E::Host),
            ("https://registry.example.com.", E::Host),
            ("https://registry..example.com", E::Host),
            ("https://[::1", E::Host),
            ("https://-registry.example.com", E::Hyphen),
            ("https://registry-.example.com", E::Hyphen),
            ("https://registry.-example.com", E::Hyphen),
            ("https://registry.example.com-", E::Hyphen),
            ("https://git.example.com/a/../b", E::DotSegment),
            ("https://git.example.com/a/%2E%2e/b", E::DotSegment),
            ("https://git.example.com/.", E::DotSegment),
            ("https://git.example.com\\a", E::Character),
            (" https://git.example.com", E::Scheme),
            ("https://git.example.com\n", E::Character),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn an_address_has_a_greatest_length() {
        let longest = |length: usize| {
            let start = "https://registry.example.com/";
            start.to_owned() + &"a".repeat(length - start.len())
        };
        assert!(Address::parse(&longest(limits::ADDRESS)).is_ok());
        assert_eq!(
            Address::parse(&longest(limits::ADDRESS + 1)),
            Err(AddressError::TooLong)
        );
    }

    #[test]
    fn an_error_never_repeats_a_password() {
        for text in [
            "https://me:hunter2@registry.example.com",
            "me:hunter2@registry.example.com",
            "https://registry.example.com?token=hunter2",
            "hunter2://registry.example.com",
        ] {
            let error = Address::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}");
        }
    }
}

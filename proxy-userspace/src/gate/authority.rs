//! The name that a request carries has to be the name that the connection was made for.

use http::{HeaderMap, StatusCode, header::HOST, request::Parts};

use super::{Refusal, Site};
use crate::state::split_authority;

/// Refuses requests for another host than the site's.
///
/// Otherwise a client could use one name to reach Postern and another to choose where the
/// upstream takes the request to be for (domain fronting). 421 is the answer of RFC 9110,
/// section 15.5.20.
pub fn check_authority(site: &Site, head: &Parts) -> Result<(), Refusal> {
    let header = single_host(&head.headers)?;
    let target = head.uri.authority().map(http::uri::Authority::as_str);
    match (target, header) {
        // Spelled as Connectors are: nothing has to be made of it.
        (None, Some(name))
            if site
                .authority
                .as_ref()
                .is_some_and(|it| it.as_str() == name) =>
        {
            Ok(())
        }
        (None, None) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "the request names no host; send a Host header",
        )),
        // RFC 9112, section 3.2.2: they must not differ, and which one an upstream believes
        // is anybody's guess.
        (Some(target), Some(header)) if split_authority(target) != split_authority(header) => {
            Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "the Host header and the request target name different hosts",
            ))
        }
        (Some(name), _) | (None, Some(name)) => match split_authority(name) {
            Some((host, port))
                if host == site.host && port.is_none_or(|port| port == site.port) =>
            {
                Ok(())
            }
            Some(_) => Err(Refusal::new(
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "this connection was made for {}:{}, the request is for another host; \
                     open a connection to that host",
                    site.host, site.port
                ),
            )),
            None => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "the Host header is not a host with an optional port",
            )),
        },
    }
}

fn single_host(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "the request has more than one Host header",
        ));
    }
    first
        .map(|host| {
            host.to_str().map_err(|_| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "the Host header is not a host with an optional port",
                )
            })
        })
        .transpose()
}

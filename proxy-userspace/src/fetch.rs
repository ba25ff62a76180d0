//! Requests of Postern's own: to a registry's `/v2/`, to its token service, and for probes.

use bytes::{Bytes, BytesMut};
use http::{Request, Response, header::HOST};
use http_body_util::{BodyExt, Limited};

use crate::{
    credential::oci::{Fetch, FetchError, MAX_ANSWER},
    gate::Target,
    state::{Address, Scheme},
    upstream::{self, Body, HttpVersion, Upstream},
    workload::Egress,
};

/// Sends requests with the trust of one Connector to whatever address they name; its certificate
/// is shown at its own addresses alone.
pub struct Fetcher<'a> {
    upstream: &'a Upstream,
    egress: &'a Egress,
    target: &'a Target,
}

impl<'a> Fetcher<'a> {
    /// For the Connector of `target`, on behalf of the workload that `egress` belongs to.
    pub fn new(upstream: &'a Upstream, egress: &'a Egress, target: &'a Target) -> Self {
        Self {
            upstream,
            egress,
            target,
        }
    }
}

impl Fetcher<'_> {
    /// Sends one request and takes at most `limit` bytes of its answer's body; the rest is
    /// left unread.
    pub async fn truncated(
        &self,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let (head, mut body) = self.send(request).await?.into_parts();
        let mut bytes = BytesMut::new();
        while bytes.len() < limit
            && let Some(frame) = body.frame().await
        {
            if let Ok(data) = frame.map_err(unreadable)?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        bytes.truncate(limit);
        Ok(Response::from_parts(head, bytes.freeze()))
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Body>, FetchError> {
        let address = address(request.uri())
            .ok_or_else(|| FetchError::new("the address is no http or https URL"))?;
        let endpoint = self.target.endpoint_at(address);
        if let Ok(host) = endpoint.address.authority().parse() {
            request.headers_mut().insert(HOST, host);
        }
        self.upstream
            .send(
                self.egress,
                &endpoint,
                HttpVersion::Http1,
                request.map(upstream::full),
            )
            .await
            .map_err(FetchError::new)
    }
}

impl Fetch for Fetcher<'_> {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(unreadable)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

fn unreadable(error: impl std::fmt::Display) -> FetchError {
    FetchError::new(format!("its answer could not be read: {error}"))
}

fn address(uri: &http::Uri) -> Option<Address> {
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let default = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    Some(Address {
        scheme,
        host: crate::state::normal_host(uri.host()?),
        port: uri.port_u16().unwrap_or(default),
        path: String::new(),
    })
}

//! Requests of Postern's own: to a registry's `/v2/`, to its token service, and for probes.

use bytes::Bytes;
use http::{Request, Response, header::HOST};
use http_body_util::{BodyExt, Limited};

use crate::{
    credential::oci::{Fetch, FetchError},
    gate::Target,
    limits,
    state::{Address, ConnectorId, Scheme},
    tls::UpstreamTls,
    upstream::{self, Endpoint, HttpVersion, Upstream},
};

/// Sends requests with the trust of one Connector to whatever address they name.
pub struct Fetcher<'a> {
    upstream: &'a Upstream,
    connector: ConnectorId,
    trust: &'a UpstreamTls,
}

impl<'a> Fetcher<'a> {
    /// For the Connector of `target`.
    pub fn new(upstream: &'a Upstream, target: &'a Target) -> Self {
        Self {
            upstream,
            connector: target.connector.id,
            trust: &target.trust,
        }
    }
}

impl Fetch for Fetcher<'_> {
    async fn fetch(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let address = address(request.uri())
            .ok_or_else(|| FetchError::new("the address is no http or https URL"))?;
        let endpoint = Endpoint {
            connector: Some(self.connector),
            tls: (address.scheme == Scheme::Https).then(|| self.trust.clone()),
            address,
        };
        if let Ok(host) = upstream::authority(&endpoint.address).parse() {
            request.headers_mut().insert(HOST, host);
        }
        let response = self
            .upstream
            .send(&endpoint, HttpVersion::Http1, request.map(upstream::full))
            .await
            .map_err(FetchError::new)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, limits::OWN_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| FetchError::new(format!("its answer could not be read: {error}")))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
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
        host: crate::detect::normal_host(uri.host()?),
        port: uri.port_u16().unwrap_or(default),
        path: String::new(),
    })
}

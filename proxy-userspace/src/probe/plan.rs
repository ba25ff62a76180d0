//! From a Connector and its class to the requests that check them.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use proxy_common::api::{self, HttpMethod, HttpProbe, HttpScheme, Param, Probe};
use url::Url;

use super::template::Data;
use super::{ProbeRequest, Verdict, verdict};
use crate::state::{Address, Connector, Origin, Scheme};
use connectors::condition::reason;

/// What there is to do for one condition.
#[derive(Debug)]
pub enum Plan {
    /// The class has no such probe.
    Nothing,
    /// The probe cannot be carried out.
    Impossible {
        /// Reason of the condition.
        reason: &'static str,
        /// Message of the condition; no value of a Secret is in it.
        message: String,
    },
    /// Send this, and judge the answer.
    Probe(PlannedProbe),
}

/// A request and how its answer is judged.
#[derive(Debug)]
pub struct PlannedProbe {
    /// The request.
    pub request: ProbeRequest,
    /// Whether redirects are followed, on the same origin only.
    pub follow_redirects: bool,
    /// How the answer is judged.
    pub verdict: Verdict,
}

/// The plan for `LivenessReady`. It sees no Secret.
pub fn liveness(connector: &Connector, origin: &Origin) -> Plan {
    let given = origin
        .manifest
        .spec
        .auth
        .as_ref()
        .map_or(&[][..], |auth| &auth.params);
    let data = Data::new(connector, origin, given).without_secret();
    plan(
        origin.class.spec.liveness_probe.as_ref(),
        connector,
        origin,
        &data,
    )
}

/// The plan for `AuthReady`.
pub fn authentication(connector: &Connector, origin: &Origin) -> Plan {
    let Some(name) = &origin.auth_type else {
        return Plan::Nothing;
    };
    let Some(probe) = origin
        .class
        .spec
        .auth_probes
        .iter()
        .find(|it| it.auth_name == *name)
    else {
        return Plan::Nothing;
    };
    let given = origin
        .manifest
        .spec
        .auth
        .as_ref()
        .map_or(&[][..], |auth| &auth.params);
    match auth_params(given, &probe.params) {
        Ok(params) => {
            let data = Data::new(connector, origin, &params);
            plan(probe.probe.as_ref(), connector, origin, &data)
        }
        Err(missing) => Plan::Impossible {
            reason: reason::MISSING_PARAMS,
            message: format!(
                "the authentication probe of class {} needs `{missing}`: add it to spec.auth.params",
                connector.class
            ),
        },
    }
}

/// The parameters given, and the defaults of those that are not; `Err` is the name of one
/// that has neither.
fn auth_params(given: &[Param], declared: &[api::ParamSpec]) -> Result<Vec<Param>, String> {
    let mut params = given.to_vec();
    for spec in declared {
        let text = given
            .iter()
            .find(|it| it.name == spec.name)
            .and_then(|it| it.value.as_str());
        match (text, &spec.default) {
            (Some(text), _) if !text.is_empty() => {}
            (_, Some(value)) => {
                params.retain(|it| it.name != spec.name);
                params.push(Param {
                    name: spec.name.clone(),
                    value: value.clone(),
                });
            }
            (_, None) => return Err(spec.name.clone()),
        }
    }
    Ok(params)
}

fn plan(probe: Option<&Probe>, connector: &Connector, origin: &Origin, data: &Data) -> Plan {
    let planned = match probe {
        Some(Probe {
            http: Some(http), ..
        }) => http_probe(http, connector, data),
        Some(Probe { api: Some(api), .. }) => match api_base(origin) {
            Some(base) => api_probe(api, &base, data),
            None => return Plan::Nothing,
        },
        _ => return Plan::Nothing,
    };
    match planned {
        Ok(probe) => Plan::Probe(probe),
        Err(message) => {
            let message = format!(
                "the probe of class {} is not usable: {message}",
                connector.class
            );
            Plan::Impossible {
                reason: reason::INVALID_PROBE,
                message,
            }
        }
    }
}

fn http_probe(
    probe: &HttpProbe,
    connector: &Connector,
    data: &Data,
) -> Result<PlannedProbe, String> {
    let base = target(probe, &connector.address, data)?;
    if data.has_secret() && !connector.addresses().any(|it| is_origin(it, &base)) {
        return Err(format!(
            "{} is neither the address of the Connector nor one of its extensions, so no \
             credential is sent there",
            base.origin().ascii_serialization()
        ));
    }
    let path = data
        .render(&probe.path)
        .map_err(|error| format!("http.path: {error}"))?;
    let url = with_path(&base, &path).ok_or("http.path does not come out as a path")?;
    let mut headers = HeaderMap::new();
    for header in &probe.http_headers {
        let field = format!("http.httpHeaders `{}`", header.name);
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| format!("{field} is not the name of a header"))?;
        let value = data
            .render(&header.value)
            .map_err(|error| format!("{field}: {error}"))?;
        if value.is_empty() {
            continue;
        }
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| format!("{field} comes out with characters that no header can carry"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    let cel = probe
        .response
        .as_ref()
        .and_then(|response| response.cel.as_deref());
    let verdict = match cel.filter(|cel| !cel.trim().is_empty()) {
        Some(cel) => {
            verdict::compile(cel)?;
            Verdict::Cel(cel.to_owned())
        }
        None => Verdict::Success,
    };
    let method = match probe.method {
        None | Some(HttpMethod::Get) => Method::GET,
        Some(HttpMethod::Post) => Method::POST,
    };
    Ok(PlannedProbe {
        request: ProbeRequest {
            method,
            url,
            headers,
        },
        follow_redirects: !probe.disable_redirect.unwrap_or(false),
        verdict,
    })
}

/// The root of the host that a probe goes to.
fn target(probe: &HttpProbe, address: &Address, data: &Data) -> Result<Url, String> {
    let host = match &probe.host {
        Some(host) => {
            let data = data.without_secret();
            data.render(host)
                .map_err(|error| format!("http.host: {error}"))?
                .to_string()
        }
        None => String::new(),
    };
    let scheme = probe.scheme.map(|scheme| match scheme {
        HttpScheme::Http => Scheme::Http,
        HttpScheme::Https => Scheme::Https,
    });
    let own = host.is_empty() || host == address.host || host == address.authority();
    let root = if own {
        // A default port stands for the scheme, so it changes with it.
        let scheme = scheme.unwrap_or(address.scheme);
        let default = address.port == address.scheme.default_port();
        let port = if default {
            scheme.default_port()
        } else {
            address.port
        };
        Address {
            scheme,
            port,
            path: String::new(),
            ..address.clone()
        }
    } else {
        let scheme = scheme.unwrap_or(Scheme::Http);
        Address::parse(&format!("{scheme}://{host}"))
            .ok()
            .filter(|root| root.path.is_empty())
            .ok_or("http.host does not come out as a host, or host and port")?
    };
    Url::parse(&root.to_string()).map_err(|error| error.to_string())
}

fn is_origin(address: &Address, url: &Url) -> bool {
    let root = Address {
        path: String::new(),
        ..address.clone()
    };
    Url::parse(&root.to_string()).is_ok_and(|it| it.origin() == url.origin())
}

/// A URL on the same host, with this path and query.
fn with_path(base: &Url, path: &str) -> Option<Url> {
    let root = base.origin().ascii_serialization();
    let path = path.trim_start_matches('/');
    let url = Url::parse(&format!("{root}/{path}")).ok()?;
    let clean = url.origin() == base.origin()
        && url.fragment().is_none()
        && !path.contains(|c: char| c.is_control() || c == '\\');
    clean.then_some(url)
}

/// `spec.api` where it says by itself where it is; a reference needs a cluster.
fn api_base(origin: &Origin) -> Option<Url> {
    let api = origin
        .class
        .spec
        .api
        .as_ref()
        .filter(|api| api.ref_.is_none())?;
    let url = Url::parse(api.uri.as_deref()?).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn api_probe(probe: &api::ApiProbe, base: &Url, data: &Data) -> Result<PlannedProbe, String> {
    let path = data
        .without_secret()
        .render(probe.path.as_deref().unwrap_or_default())
        .map_err(|error| format!("api.path: {error}"))?;
    let prefix = base.path().trim_end_matches('/');
    let path = format!("{prefix}/{}", path.trim_start_matches('/'));
    let url = with_path(base, &path).ok_or("api.path does not come out as a path")?;
    Ok(PlannedProbe {
        request: ProbeRequest {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
        },
        follow_redirects: true,
        verdict: Verdict::Ok,
    })
}

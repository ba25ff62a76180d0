//! How each kind of Connector authenticates, prepared once and used for every request.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, Method, Uri};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{is_presigned, oci::RegistryAuth, paths};
use crate::state::{Connector, Credential, Protocol, generator::Generated};

/// Adds a Connector's credential to requests.
pub struct Injector {
    /// `Authorization` as it is sent; `None` when there is nothing fixed to send.
    header: Option<HeaderValue>,
    generated: Option<Arc<Generated>>,
    registry: Option<RegistryAuth>,
}

/// What a request gets.
#[derive(Debug)]
pub enum Plan<'a> {
    /// Nothing: there is no credential, or the request carries its own in its address.
    Nothing,
    /// This `Authorization`.
    Header(&'a HeaderValue),
    /// What the class's generator makes.
    Generated(&'a Generated),
    /// Whatever the registry asks for.
    Registry(&'a RegistryAuth),
}

impl Injector {
    /// Prepares a Connector's credential.
    pub fn new(connector: &Arc<Connector>) -> Self {
        let registry = match connector.protocol {
            Protocol::Oci => Some(RegistryAuth::new(Arc::clone(connector))),
            Protocol::Http => None,
        };
        let header = connector.credential.as_ref().and_then(authorization);
        if header.is_none()
            && matches!(
                connector.credential,
                Some(Credential::Basic { .. } | Credential::Bearer { .. })
            )
        {
            tracing::error!(%connector, "the credential cannot be a header; nothing is injected");
        }
        let generated = connector
            .credential
            .as_ref()
            .and_then(Credential::generated);
        Self {
            header,
            generated: generated.map(Arc::clone),
            registry,
        }
    }

    /// What to add to a request.
    pub fn plan(&self, method: &Method, uri: &Uri) -> Plan<'_> {
        if is_presigned(uri) {
            return Plan::Nothing;
        }
        if let Some(generated) = &self.generated {
            return Plan::Generated(generated);
        }
        match (&self.registry, &self.header) {
            (Some(registry), _)
                if is_registry_api(uri.path()) || registry.knows_session(method, uri) =>
            {
                Plan::Registry(registry)
            }
            (_, Some(header)) => Plan::Header(header),
            _ => Plan::Nothing,
        }
    }

    /// The registry's authentication, for Connectors of that protocol.
    pub fn registry(&self) -> Option<&RegistryAuth> {
        self.registry.as_ref()
    }
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector").finish_non_exhaustive()
    }
}

/// Paths whose authentication the registry's challenges decide. Everything else on its host,
/// such as a management API, takes the credential itself.
///
/// Paths with dot segments may mean the API to the registry, so they are not given the
/// credential itself.
fn is_registry_api(path: &str) -> bool {
    let normal = paths::normal(path);
    normal == "/v2" || normal.starts_with("/v2/") || paths::has_dot_segment(path)
}

/// RFC 7617 section 2, RFC 6750 section 2.1.
fn authorization(credential: &Credential) -> Option<HeaderValue> {
    let text = match credential {
        Credential::Basic { username, password } => {
            let pair = Zeroizing::new(format!(
                "{}:{}",
                username.expose_secret(),
                password.expose_secret()
            ));
            let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
            Zeroizing::new(format!("Basic {}", *encoded))
        }
        Credential::Bearer { token } => Zeroizing::new(format!("Bearer {}", token.expose_secret())),
        // Taken by a registry's token service alone, made for each request, shown in the
        // TLS handshake.
        Credential::IdentityToken { .. }
        | Credential::Generated(_)
        | Credential::Certificate { .. } => return None,
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_follow_their_specifications_and_hide_from_debug() {
        let basic = Credential::Basic {
            username: "Aladdin".into(),
            password: "open sesame".into(),
        };
        let header = authorization(&basic).expect("a header");
        assert_eq!(header.as_bytes(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(format!("{header:?}"), "Sensitive");
        let bearer = Credential::Bearer {
            token: "mF_9.B5f-4.1JqM".into(),
        };
        let header = authorization(&bearer).expect("a header");
        assert_eq!(header.as_bytes(), b"Bearer mF_9.B5f-4.1JqM");
    }

    #[test]
    fn a_management_api_is_told_from_the_registry_api() {
        for path in [
            "//v2/",
            "/v2",
            "/v2/",
            "/v2/a/tags/list",
            "/%76%32/",
            "/x/../v2/",
            "/./v2/",
        ] {
            assert!(is_registry_api(path), "{path}");
        }
        for path in [
            "/",
            "/api/v2.0/projects",
            "/api/v2.0/projects/library/repositories/team%252Fapp",
            "/.well-known/x",
            "/v2x",
            "/service/token",
        ] {
            assert!(!is_registry_api(path), "{path}");
        }
    }
}

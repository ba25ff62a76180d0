//! From an authority and a path to the Connector that is meant.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use connectors::Validity;
use http::uri::Authority;

use crate::{
    credential::Injector,
    state::{Address, Connector, ConnectorId, FailurePolicy, OnUntrustedCa, Scheme},
    tls::{ConnectorTls, Roots, TlsError, UpstreamTls},
    upstream::Endpoint,
    workload::PolicyId,
};

/// What each policy may use.
#[derive(Debug, Default)]
pub struct Policies {
    routes: HashMap<PolicyId, Arc<Routes>>,
}

/// A Connector with everything prepared that requests to it need. Kept for as long as the
/// Connector stays as it is, since registry tokens are cached here.
#[derive(Clone, Debug)]
pub struct Prepared {
    connector: Arc<Connector>,
    tls: ConnectorTls,
    injector: Arc<Injector>,
    usable: bool,
}

/// The Connectors of one policy by the authorities they claim.
#[derive(Debug, Default)]
pub struct Routes {
    /// By host, then by port.
    sites: HashMap<String, BTreeMap<u16, Arc<Site>>>,
}

/// One authority: a host and a port with the Connectors on it.
#[derive(Debug)]
pub struct Site {
    /// How its clients and Postern speak to it.
    pub scheme: Scheme,
    /// Host, in the form of [`Address::host`].
    pub host: String,
    /// Port.
    pub port: u16,
    /// Host and port as a target names them; `None` where no URI can.
    pub authority: Option<Authority>,
    /// Longest path first.
    targets: Vec<Arc<Target>>,
    /// For requests to paths that no Connector claims: no credential, no certificate.
    pub unclaimed: Endpoint,
}

/// One address of one Connector, with everything prepared that requests to it need.
#[derive(Debug)]
pub struct Target {
    /// Whose it is.
    pub connector: Arc<Connector>,
    /// Path prefix; empty for all.
    path: String,
    /// Where requests go.
    pub endpoint: Endpoint,
    /// How to meet other servers than its own on the Connector's behalf.
    elsewhere: UpstreamTls,
    /// What is added to them. Shared by all addresses of the Connector.
    pub injector: Arc<Injector>,
    /// Whether its credential may be used; otherwise its requests are refused.
    pub usable: bool,
}

impl Policies {
    /// Which Connectors each policy grants.
    pub fn new(grants: impl IntoIterator<Item = (PolicyId, Vec<Prepared>)>) -> Self {
        let routes = grants
            .into_iter()
            .map(|(policy, connectors)| (policy, Arc::new(Routes::new(&connectors))))
            .collect();
        Self { routes }
    }

    /// These, and the policies of `others` that are not among them.
    #[must_use]
    pub fn with_others(&self, others: &Self) -> Self {
        let mut routes = others.routes.clone();
        routes.extend(self.routes.iter().map(|(id, own)| (*id, Arc::clone(own))));
        Self { routes }
    }

    /// What a policy grants; `None`: nothing.
    pub fn routes(&self, policy: PolicyId) -> Option<Arc<Routes>> {
        self.routes.get(&policy).map(Arc::clone)
    }
}

impl Prepared {
    /// Sets up trust and credential of a Connector.
    pub fn new(connector: &Arc<Connector>, roots: &Roots) -> Result<Self, TlsError> {
        Ok(Self {
            connector: Arc::clone(connector),
            tls: ConnectorTls::new(roots, connector)?,
            injector: Arc::new(Injector::new(connector)),
            usable: true,
        })
    }

    /// A Connector whose own authorities cannot be used: its requests are refused, and nobody
    /// is trusted on its behalf.
    pub fn refused(connector: &Arc<Connector>) -> Result<Self, TlsError> {
        Ok(Self {
            connector: Arc::clone(connector),
            tls: ConnectorTls::of_nobody()?,
            injector: Arc::new(Injector::new(connector)),
            usable: false,
        })
    }

    /// The same Connector, with a credential that may be used or not.
    #[must_use]
    pub fn with_usable(self, usable: bool) -> Self {
        Self { usable, ..self }
    }

    /// The Connector.
    pub fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// The Connector's own address, all paths of its host.
    pub fn target(&self) -> Target {
        Target::new(self, &self.connector.address)
    }
}

impl Routes {
    fn new(connectors: &[Prepared]) -> Self {
        let mut targets: HashMap<(String, u16), Vec<Arc<Target>>> = HashMap::new();
        for prepared in connectors {
            for address in prepared.connector.addresses() {
                targets
                    .entry((address.host.clone(), address.port))
                    .or_default()
                    .push(Arc::new(Target::new(prepared, address)));
            }
        }
        let mut sites: HashMap<_, BTreeMap<_, _>> = HashMap::new();
        for ((host, port), targets) in targets {
            if let Some(site) = Site::new(targets) {
                sites.entry(host).or_default().insert(port, Arc::new(site));
            }
        }
        Self { sites }
    }

    /// The site that a client means by a host and a port.
    pub fn site(&self, scheme: Scheme, host: &str, port: u16) -> Option<Arc<Site>> {
        self.sites
            .get(host)?
            .get(&port)
            .filter(|site| site.scheme == scheme)
            .map(Arc::clone)
    }

    /// The site of a Connector at a port, for protocols that do not name their host in time;
    /// `None` when there are several.
    pub fn site_of(&self, scheme: Scheme, connector: ConnectorId, port: u16) -> Option<Arc<Site>> {
        let all = self.sites.values().flat_map(BTreeMap::values);
        let mut fitting = all.filter(|site| {
            site.scheme == scheme
                && site.port == port
                && site
                    .targets
                    .iter()
                    .any(|target| target.connector.id == connector)
        });
        let only = fitting.next()?;
        fitting.next().is_none().then(|| Arc::clone(only))
    }
}

impl Target {
    fn new(prepared: &Prepared, address: &Address) -> Self {
        let Prepared {
            connector,
            tls,
            injector,
            usable,
        } = prepared.clone();
        Self {
            path: address.path.clone(),
            endpoint: Endpoint {
                connector: Some(connector.id),
                address: address.clone(),
                tls: (address.scheme == Scheme::Https).then_some(tls.own),
            },
            connector,
            elsewhere: tls.elsewhere,
            injector,
            usable,
        }
    }

    /// An address to ask on the Connector's behalf. Its certificate is shown at its own
    /// addresses only, wherever else a token service or a probe may be.
    pub fn endpoint_at(&self, address: Address) -> Endpoint {
        let is_own = |own: &Address| {
            (own.scheme, &*own.host, own.port) == (address.scheme, &*address.host, address.port)
        };
        let tls = match &self.endpoint.tls {
            Some(own) if self.connector.addresses().any(is_own) => own,
            _ => &self.elsewhere,
        };
        Endpoint {
            connector: Some(self.connector.id),
            tls: (address.scheme == Scheme::Https).then(|| tls.clone()),
            address,
        }
    }
}

impl Site {
    fn new(mut targets: Vec<Arc<Target>>) -> Option<Self> {
        targets.sort_by_key(|target| std::cmp::Reverse(target.path.len()));
        let first = targets.first()?;
        let address = &first.endpoint.address;
        Some(Self {
            scheme: address.scheme,
            host: address.host.clone(),
            port: address.port,
            authority: address.authority().parse().ok(),
            unclaimed: Endpoint {
                connector: None,
                address: address.clone(),
                tls: (address.scheme == Scheme::Https).then(|| first.elsewhere.clone()),
            },
            targets,
        })
    }

    /// The target whose path prefix fits best, by whole segments.
    pub fn target(&self, path: &str) -> Option<&Arc<Target>> {
        self.targets.iter().find(|target| {
            path.strip_prefix(target.path.as_str()).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || target.path.is_empty()
            })
        })
    }

    /// Whether any Connector claims only a part of the site.
    pub fn has_prefixes(&self) -> bool {
        self.targets.iter().any(|target| !target.path.is_empty())
    }

    /// Whether clients that do not trust Postern may speak to the site directly: when all
    /// Connectors on it say so, and none of them is refused.
    pub fn may_pass(&self) -> bool {
        self.targets.iter().all(|target| {
            target.usable && target.connector.on_untrusted_ca == OnUntrustedCa::Passthrough
        })
    }

    /// Whether connections to the site are left alone at this time: all Connectors on it fail open,
    /// and none of them has a certificate that is valid. The kernel leaves those alone that it can
    /// tell from others; where Connectors share a port of an address, it cannot.
    pub fn is_left_alone(&self, now: SystemTime) -> bool {
        self.targets.iter().all(|target| {
            let connector = &target.connector;
            let is_untimely = connector
                .certificate()
                .is_some_and(|it| it.validity(now) != Validity::Current);
            target.usable && is_untimely && connector.failure_policy == FailurePolicy::Open
        })
    }

    /// Whether any Connector on it is in force. Nobody vouches for the host of one that is not,
    /// so it says nothing about a client that it does not trust our certificate.
    pub fn is_usable(&self) -> bool {
        self.targets.iter().any(|target| target.usable)
    }

    /// An endpoint to ask about the site itself, such as the HTTP version it speaks.
    pub fn endpoint(&self) -> &Endpoint {
        self.targets
            .first()
            .map_or(&self.unclaimed, |target| &target.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ClientAuthorization, ClientCertificate, Credential, Protocol};

    fn connector(id: u32, path: &str) -> Arc<Connector> {
        Arc::new(Connector {
            id: ConnectorId(id),
            namespace: "default".into(),
            name: format!("c{id}"),
            class: "generic-basic".into(),
            address: Address {
                scheme: Scheme::Https,
                host: "api.example.com".into(),
                port: 443,
                path: path.into(),
            },
            extensions: Vec::new(),
            protocol: Protocol::Http,
            credential: None,
            client_authorization: ClientAuthorization::Replace,
            failure_policy: FailurePolicy::Closed,
            on_untrusted_ca: OnUntrustedCa::Fail,
            extra_roots: Arc::default(),
        })
    }

    fn routes(connectors: &[Arc<Connector>]) -> Routes {
        let prepared: Vec<_> = connectors
            .iter()
            .map(|connector| Prepared::new(connector, &Roots::none()).expect("no roots to refuse"))
            .collect();
        Routes::new(&prepared)
    }

    #[test]
    fn policies_do_not_see_each_others_connectors() {
        let prepared =
            Prepared::new(&connector(1, ""), &Roots::none()).expect("no roots to refuse");
        let policies = Policies::new([(PolicyId(1), vec![prepared]), (PolicyId(2), vec![])]);
        let site = |policy| {
            policies
                .routes(PolicyId(policy))
                .and_then(|routes| routes.site(Scheme::Https, "api.example.com", 443))
        };
        assert!(site(1).is_some());
        assert!(site(2).is_none() && site(3).is_none());
    }

    #[test]
    fn the_longest_whole_segment_prefix_wins() {
        let connectors = [
            connector(1, ""),
            connector(2, "/team"),
            connector(3, "/team/a"),
        ];
        let routes = routes(&connectors);
        let site = routes
            .site(Scheme::Https, "api.example.com", 443)
            .expect("a site");
        for (path, expected) in [
            ("/", 1),
            ("/teams", 1),
            ("/team", 2),
            ("/team/b", 2),
            ("/team/a", 3),
            ("/team/a/x", 3),
            ("/team/ab", 2),
        ] {
            let target = site.target(path).expect("a target");
            assert_eq!(target.connector.id, ConnectorId(expected), "{path}");
        }
        assert!(routes.site(Scheme::Http, "api.example.com", 443).is_none());
        assert!(
            routes
                .site(Scheme::Https, "api.example.com", 8443)
                .is_none()
        );
    }

    #[test]
    fn a_certificate_is_for_the_connectors_own_addresses() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::default().self_signed(&key);
        let leaf = leaf.expect("a certificate").der().to_vec();
        let certificate =
            ClientCertificate::from_der(vec![leaf.into()], key.serialize_der().into());
        let address = |scheme, host: &str, port| Address {
            scheme,
            host: host.into(),
            port,
            path: String::new(),
        };
        let connector = Connector {
            credential: Some(Credential::Certificate {
                certificate: Arc::new(certificate.expect("a certificate")),
                generated: None,
            }),
            extensions: vec![address(Scheme::Https, "more.example.com", 8443)],
            ..Connector::clone(&connector(1, "/team"))
        };
        let prepared = Prepared::new(&Arc::new(connector), &Roots::none()).expect("no roots");
        let target = prepared.target();
        let shows = |endpoint: &Endpoint| {
            let tls = endpoint.tls.as_ref();
            tls.is_some_and(|tls| tls.any.client_auth_cert_resolver.has_certs())
        };
        assert!(shows(&target.endpoint));
        for (scheme, host, port, expected) in [
            (Scheme::Https, "api.example.com", 443, true),
            (Scheme::Https, "more.example.com", 8443, true),
            (Scheme::Https, "api.example.com", 8443, false),
            (Scheme::Https, "auth.example.com", 443, false),
            (Scheme::Http, "api.example.com", 443, false),
        ] {
            let endpoint = target.endpoint_at(address(scheme, host, port));
            assert_eq!(shows(&endpoint), expected, "{host}:{port}");
            assert_eq!(endpoint.tls.is_some(), scheme == Scheme::Https);
        }
        let routes = Routes::new(&[prepared]);
        let site = routes.site(Scheme::Https, "api.example.com", 443);
        let site = site.expect("a site");
        assert!(site.unclaimed.tls.is_some() && !shows(&site.unclaimed));
    }

    #[test]
    fn a_path_outside_all_prefixes_has_no_target() {
        let routes = routes(&[connector(1, "/team")]);
        let site = routes
            .site(Scheme::Https, "api.example.com", 443)
            .expect("a site");
        assert!(site.target("/other").is_none());
    }
}

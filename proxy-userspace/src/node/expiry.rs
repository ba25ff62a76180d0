//! When credentials begin and end, by the clock that the kernel decides with.
//!
//! A certificate says so by the wall clock, `CREDENTIALS` by the one that counts from boot. How
//! far they are apart changes whenever the wall clock is set, so it is looked at with each sign
//! of life.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use connectors::Validity;
use proxy_common::maps::{self, CREDENTIAL_BYPASS, CREDENTIAL_REFUSE, CREDENTIAL_USABLE};

use super::{Node, NodeError, grants::Binding};
use crate::{
    datapath::{DatapathError, boot_ns},
    state::{Connector, ConnectorId, FailurePolicy},
};

/// Two readings of clocks are never at the same moment; what is less is no change.
const TOLERANCE_NS: u64 = 1_000_000_000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    /// `CLOCK_BOOTTIME`.
    pub(super) boot_ns: u64,
}

impl Now {
    fn read() -> Result<Self, DatapathError> {
        Ok(Self {
            wall: SystemTime::now(),
            boot_ns: boot_ns()?,
        })
    }

    /// A moment of the wall clock by the other one. What was before the boot is at 1: 0 is never.
    fn boot_time(self, moment: SystemTime) -> u64 {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let moment = match moment.duration_since(self.wall) {
            Ok(ahead) => self.boot_ns.saturating_add(ns(ahead)),
            Err(behind) => self.boot_ns.saturating_sub(ns(behind.duration())),
        };
        moment.max(1)
    }
}

/// What was last said of the credentials that end.
#[derive(Debug, Default)]
pub(super) struct Terms(HashMap<ConnectorId, Term>);

#[derive(Debug)]
struct Term {
    not_after_ns: u64,
    validity: Validity,
}

impl Terms {
    /// What the kernel is told of a credential. Says so when it turns out not to be valid.
    ///
    /// The kernel refuses after the end by itself. It knows of no beginning, and does not leave
    /// alone what has ended; both is told when it is time.
    pub(super) fn entry(
        &mut self,
        connector: &Connector,
        binding: Binding,
        now: Now,
    ) -> maps::Credential {
        let entry = maps::Credential::from(binding);
        let certificate = connector.certificate().filter(|_| binding.usable);
        let Some(certificate) = certificate else {
            self.0.remove(&connector.id);
            return entry;
        };
        let validity = certificate.validity(now.wall);
        let exact = now.boot_time(certificate.not_after());
        let before = self.0.get(&connector.id);
        let not_after_ns = match before.map(|it| it.not_after_ns) {
            Some(before) if before.abs_diff(exact) < TOLERANCE_NS => before,
            _ => exact,
        };
        if before.is_none_or(|it| it.validity != validity) {
            match certificate.untimely(now.wall) {
                Some(what) => {
                    tracing::warn!(%connector, "the client certificate {what}");
                }
                None if before.is_some() => {
                    tracing::info!(%connector, "the client certificate is valid now");
                }
                None => {}
            }
        }
        let term = Term {
            not_after_ns,
            validity,
        };
        self.0.insert(connector.id, term);
        let (not_after_ns, state) = match (connector.failure_policy, validity) {
            (FailurePolicy::Closed, Validity::NotYet) => (not_after_ns, CREDENTIAL_REFUSE),
            (FailurePolicy::Closed, _) => (not_after_ns, CREDENTIAL_USABLE),
            (FailurePolicy::Open, Validity::Current) => (0, CREDENTIAL_USABLE),
            (FailurePolicy::Open, _) => (0, CREDENTIAL_BYPASS),
        };
        maps::Credential {
            not_after_ns,
            state,
            ..entry
        }
    }

    fn retain(&mut self, wanted: impl Fn(ConnectorId) -> bool) {
        self.0.retain(|id, _| wanted(*id));
    }
}

impl Node {
    /// Tells the kernel of all credentials.
    pub(super) fn update_credentials(&mut self) -> Result<(), NodeError> {
        let now = Now::read()?;
        let grants = &self.grants;
        self.terms.retain(|id| grants.contains(id));
        let mut without_place = BTreeSet::new();
        for (connector, binding) in grants.credentials() {
            let entry = self.terms.entry(connector, binding, now);
            match self.datapath.set_credential(connector.id.0, entry) {
                Ok(()) => {}
                Err(DatapathError::Full { .. }) => {
                    without_place.insert(connector.id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.shortage
            .of_credentials(without_place, self.grants.connectors());
        Ok(())
    }

    /// Tells the kernel of the credentials that end, as the clocks are now.
    pub(super) fn update_terms(&mut self) -> Result<(), NodeError> {
        if self.terms.0.is_empty() {
            return Ok(());
        }
        let now = Now::read()?;
        let ids: Vec<ConnectorId> = self.terms.0.keys().copied().collect();
        for id in ids {
            // One without a place among the kernel's credentials is the proxy's to refuse.
            if self.shortage.without_place.contains(&id) {
                continue;
            }
            if let Some((connector, binding)) = self.grants.credential(id) {
                let entry = self.terms.entry(connector, binding, now);
                self.datapath.set_credential(id.0, entry)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::CertificateDer;
    use zeroize::Zeroizing;

    use super::*;
    use crate::state::{
        Address, ClientAuthorization, ClientCertificate, Credential, OnUntrustedCa, Protocol,
        Scheme,
    };

    const SECOND: u64 = 1_000_000_000;
    const USABLE: Binding = Binding::of_file();

    /// By the wall clock, in seconds since 1970.
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn now(wall: u64, boot: u64) -> Now {
        Now {
            wall: at(wall),
            boot_ns: boot * SECOND,
        }
    }

    /// With a certificate that is valid from 10,000 to 20,000.
    fn connector(failure_policy: FailurePolicy) -> Connector {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(10_000).into(), at(20_000).into());
        let leaf = params.self_signed(&key).expect("a certificate");
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let certificate = ClientCertificate::from_der(chain, Zeroizing::new(key.serialize_der()));
        Connector {
            id: ConnectorId(7),
            namespace: "default".into(),
            name: "api".into(),
            class: "mutual".into(),
            address: Address {
                scheme: Scheme::Https,
                host: "api.example.com".into(),
                port: 443,
                path: String::new(),
            },
            extensions: Vec::new(),
            protocol: Protocol::Http,
            credential: Some(Credential::Certificate {
                certificate: Arc::new(certificate.expect("a certificate")),
                generated: None,
            }),
            client_authorization: ClientAuthorization::Replace,
            failure_policy,
            on_untrusted_ca: OnUntrustedCa::Fail,
            extra_roots: Arc::default(),
        }
    }

    fn told(terms: &mut Terms, connector: &Connector, now: Now) -> (u64, u32) {
        let entry = terms.entry(connector, USABLE, now);
        (entry.not_after_ns, entry.state)
    }

    #[test]
    fn the_end_follows_the_wall_clock_wherever_it_is_set() {
        let connector = connector(FailurePolicy::Closed);
        let mut terms = Terms::default();
        let end = |boot: u64| (boot * SECOND, CREDENTIAL_USABLE);
        for (wall, boot, expected) in [
            (15_000, 100, end(5_100)),
            (15_001, 101, end(5_100)),
            // An hour forward, then two back.
            (18_602, 102, end(1_500)),
            (11_403, 103, end(8_700)),
            // Beyond the end: not before the boot, where 0 would mean never.
            (30_000, 104, (1, CREDENTIAL_USABLE)),
            (20_005, 105, end(100)),
            // Before the beginning.
            (9_999, 106, (10_107 * SECOND, CREDENTIAL_REFUSE)),
            (10_000, 107, end(10_107)),
        ] {
            let found = told(&mut terms, &connector, now(wall, boot));
            assert_eq!(found, expected, "{wall} {boot}");
        }
    }

    #[test]
    fn readings_that_are_a_moment_apart_change_nothing() {
        let connector = connector(FailurePolicy::Closed);
        let mut terms = Terms::default();
        let first = told(&mut terms, &connector, now(15_000, 100));
        let mut later = now(15_001, 101);
        later.boot_ns += 999_999;
        assert_eq!(told(&mut terms, &connector, later), first);
        // What adds up is noticed.
        later.boot_ns += SECOND;
        assert_ne!(told(&mut terms, &connector, later), first);
    }

    #[test]
    fn what_fails_open_is_left_alone_while_it_is_not_valid() {
        let connector = connector(FailurePolicy::Open);
        let mut terms = Terms::default();
        for (wall, state) in [
            (9_999, CREDENTIAL_BYPASS),
            (15_000, CREDENTIAL_USABLE),
            (20_001, CREDENTIAL_BYPASS),
        ] {
            assert_eq!(told(&mut terms, &connector, now(wall, 100)), (0, state));
        }
    }

    #[test]
    fn what_is_refused_anyway_and_what_has_no_end_stay_as_they_are() {
        let mut connector = connector(FailurePolicy::Closed);
        let mut terms = Terms::default();
        let refused = Binding {
            usable: false,
            ..USABLE
        };
        let entry = terms.entry(&connector, refused, now(15_000, 100));
        assert_eq!((entry.not_after_ns, entry.state), (0, CREDENTIAL_REFUSE));
        told(&mut terms, &connector, now(15_000, 100));
        assert_eq!(terms.0.len(), 1);
        connector.credential = None;
        let entry = told(&mut terms, &connector, now(15_000, 100));
        assert_eq!(entry, (0, CREDENTIAL_USABLE));
        assert!(terms.0.is_empty());
    }
}

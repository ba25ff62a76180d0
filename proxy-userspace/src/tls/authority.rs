//! The certificate authority of a node or of one run.
//!
//! A root that clients are told to trust, and below it one intermediate that can only
//! vouch for the Connectors' hosts. The constraint stands in the intermediate because not
//! every verifier honours one in a trust anchor (RFC 5280, section 6.2). The root of a
//! cluster is the controller's, which signs a node's intermediate; the root of a run is made
//! here, and its key is gone as soon as the intermediate is signed. The intermediate's key
//! never leaves memory.

use std::{
    collections::BTreeSet,
    ops::Range,
    time::{Duration, SystemTime},
};

use connectors::pki::{BACKDATED, ca_params, common_name, constraints, serial};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use super::TlsError;
use crate::limits;

/// Life of root and intermediate of a run: longer than any command runs, whatever the clock
/// does. The key lives no longer than the process.
const LIFE: Duration = Duration::from_hours(10 * 365 * 24);

/// Signs leaf certificates for a fixed set of hosts.
pub struct Authority {
    hosts: BTreeSet<String>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    valid: Range<SystemTime>,
}

/// The key of an [`Authority`] that somebody else is to sign.
pub struct AuthorityKey(KeyPair);

impl AuthorityKey {
    /// A new key.
    pub fn generate() -> Result<Self, TlsError> {
        KeyPair::generate().map(Self).map_err(own_failure)
    }

    /// A certificate signing request for it (RFC 2986), DER.
    pub fn request(&self) -> Result<Vec<u8>, TlsError> {
        let params = CertificateParams::default();
        let request = params.serialize_request(&self.0).map_err(own_failure)?;
        Ok(request.der().to_vec())
    }

    /// The authority that `certificate` (DER) makes of it, which is limited to `hosts`.
    pub fn certified(
        self,
        certificate: Vec<u8>,
        hosts: BTreeSet<String>,
    ) -> Result<Authority, TlsError> {
        let intermediate = CertificateDer::from(certificate);
        let issuer = Issuer::from_ca_cert_der(&intermediate, self.0).map_err(own_failure)?;
        let (_, parsed) = parse_x509_certificate(&intermediate)
            .map_err(|_| own_failure(rcgen::Error::CouldNotParseCertificate))?;
        let validity = parsed.validity();
        let valid =
            validity.not_before.to_datetime().into()..validity.not_after.to_datetime().into();
        Ok(Authority {
            hosts,
            intermediate,
            issuer,
            valid,
        })
    }
}

impl Authority {
    /// An authority for `hosts`, DNS names and IP addresses, below a root of its own, and
    /// that root in PEM: what clients have to trust.
    pub fn with_root(hosts: &[String]) -> Result<(Self, String), TlsError> {
        let root_key = KeyPair::generate().map_err(own_failure)?;
        let root_params = ca_params("Postern root", BasicConstraints::Unconstrained, LIFE);
        let root = root_params.self_signed(&root_key).map_err(own_failure)?;
        let root_issuer = Issuer::new(root_params, root_key);

        let key = KeyPair::generate().map_err(own_failure)?;
        let mut params = ca_params(
            "Postern intermediate",
            BasicConstraints::Constrained(0),
            LIFE,
        );
        params.name_constraints = Some(constraints(hosts.iter().map(String::as_str)));
        params.use_authority_key_identifier_extension = true;
        let intermediate = params.signed_by(&key, &root_issuer).map_err(own_failure)?;
        let authority = Self {
            hosts: hosts.iter().cloned().collect(),
            intermediate: intermediate.der().clone(),
            valid: params.not_before.into()..params.not_after.into(),
            issuer: Issuer::new(params, key),
        };
        Ok((authority, root.pem()))
    }

    /// When it needs no successor, by the wall clock: until two thirds of its life are over.
    pub fn prime(&self) -> Range<SystemTime> {
        let Range { start, end } = self.valid;
        let life = end.duration_since(start).unwrap_or_default();
        start..end - life / 3
    }

    /// Whether clients that trust the root accept a certificate of this authority for `host`.
    pub(super) fn vouches_for(&self, host: &str) -> bool {
        self.hosts.contains(host)
    }

    /// A certificate for `host`, which has to be one of the authority's, and for the key; valid
    /// from now on, but no longer than the authority.
    pub(super) fn leaf(
        &self,
        host: &str,
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<Chain, TlsError> {
        let failed = |source| TlsError::Mint {
            host: host.to_owned(),
            source,
        };
        let Range { start, end } = self.valid;
        if !self.valid.contains(&now) {
            return Err(TlsError::Untimely {
                host: host.to_owned(),
                now: now.into(),
                start: start.into(),
                end: end.into(),
            });
        }
        let end = end.min(now + limits::LEAF_LIFE);
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(failed)?;
        params.distinguished_name = common_name("Postern");
        params.not_before = start.max(now - BACKDATED).into();
        params.not_after = end.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // All leaves have one key, from which rcgen would derive one serial number.
        params.serial_number = Some(serial().map_err(|_| TlsError::Random)?);
        let leaf = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(Chain {
            certificates: vec![leaf.der().clone(), self.intermediate.clone()],
            end,
        })
    }
}

/// A leaf certificate with the authority's.
pub(super) struct Chain {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// The end of the leaf's validity.
    pub(super) end: SystemTime,
}

fn own_failure(source: rcgen::Error) -> TlsError {
    TlsError::Mint {
        host: "Postern's own authority".into(),
        source,
    }
}

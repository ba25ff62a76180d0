//! The certificate authority of a node or of one run.
//!
//! A root that clients are told to trust, and below it one intermediate that can only
//! vouch for the Connectors' hosts. The constraint stands in the intermediate because not
//! every verifier honours one in a trust anchor (RFC 5280, section 6.2). The root of a
//! cluster is the controller's, which signs a node's intermediate; the root of a run is made
//! here, and its key is gone as soon as the intermediate is signed. The intermediate's key
//! never leaves memory.

use std::time::Duration;

use connectors::pki::{ca_params, common_name, constraints, serial, validity};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;

use super::TlsError;

/// Life of root and intermediate: longer than any command is expected to run.
const LIFE: Duration = Duration::from_hours(30 * 24);

/// Signs leaf certificates for a fixed set of hosts.
pub struct Authority {
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
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

    /// The authority that `certificate` (DER) makes of it.
    pub fn certified(self, certificate: Vec<u8>) -> Result<Authority, TlsError> {
        let intermediate = CertificateDer::from(certificate);
        let issuer = Issuer::from_ca_cert_der(&intermediate, self.0).map_err(own_failure)?;
        Ok(Authority {
            intermediate,
            issuer,
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
            intermediate: intermediate.der().clone(),
            issuer: Issuer::new(params, key),
        };
        Ok((authority, root.pem()))
    }

    /// A chain for `host`, which has to be one of the authority's, and the key's owner.
    pub(super) fn leaf(
        &self,
        host: &str,
        key: &KeyPair,
        life: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let failed = |source| TlsError::Mint {
            host: host.to_owned(),
            source,
        };
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(failed)?;
        params.distinguished_name = common_name("Postern");
        (params.not_before, params.not_after) = validity(life);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // All leaves have one key, from which rcgen would derive one serial number.
        params.serial_number = Some(serial().map_err(|_| TlsError::Random)?);
        let leaf = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(vec![leaf.der().clone(), self.intermediate.clone()])
    }
}

fn own_failure(source: rcgen::Error) -> TlsError {
    TlsError::Mint {
        host: "Postern's own authority".into(),
        source,
    }
}

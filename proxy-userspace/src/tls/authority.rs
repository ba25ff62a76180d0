//! The certificate authority of a node or of one run.
//!
//! A root that clients are told to trust, and below it one intermediate that can only
//! vouch for the Connectors' hosts. The constraint stands in the intermediate because not
//! every verifier honours one in a trust anchor (RFC 5280, section 6.2). The root of a
//! cluster is the controller's, which signs a node's intermediate; the root of a run is made
//! here, and its key is gone as soon as the intermediate is signed. The intermediate's key
//! never leaves memory.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SerialNumber,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::CertificateDer;

use super::TlsError;

/// Life of root and intermediate: longer than any command is expected to run.
const LIFE: Duration = Duration::from_hours(30 * 24);
/// Clocks of clients may be behind ours.
const BACKDATED: Duration = Duration::from_hours(1);
/// Stands in for "no DNS name at all": a constraint without names would allow every name.
const NO_NAME: &str = "postern.invalid";

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
        let root_params = ca_params("Postern root", BasicConstraints::Unconstrained);
        let root = root_params.self_signed(&root_key).map_err(own_failure)?;
        let root_issuer = Issuer::new(root_params, root_key);

        let key = KeyPair::generate().map_err(own_failure)?;
        let mut params = ca_params("Postern intermediate", BasicConstraints::Constrained(0));
        params.name_constraints = Some(constraints(hosts));
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
        params.serial_number = Some(serial()?);
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

/// 127 random bits: positive, and unique enough (RFC 5280, section 4.1.2.2).
fn serial() -> Result<SerialNumber, TlsError> {
    let mut bytes = [0; 16];
    default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| TlsError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn ca_params(name: &str, depth: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    (params.not_before, params.not_after) = validity(LIFE);
    params.is_ca = IsCa::Ca(depth);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(life: Duration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = SystemTime::now();
    ((now - BACKDATED).into(), (now + life).into())
}

/// Permits the hosts and nothing else, for both kinds of names.
fn constraints(hosts: &[String]) -> NameConstraints {
    let (addresses, names): (Vec<_>, Vec<_>) = hosts
        .iter()
        .map(|host| host.parse::<IpAddr>().map_err(|_| host.clone()))
        .partition(Result::is_ok);
    let mut permitted: Vec<_> = names
        .into_iter()
        .filter_map(Result::err)
        .map(GeneralSubtree::DnsName)
        .collect();
    if permitted.is_empty() {
        permitted.push(GeneralSubtree::DnsName(NO_NAME.into()));
    }
    let addresses: Vec<_> = addresses
        .into_iter()
        .flatten()
        .map(|ip| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, host_prefix(ip))))
        .collect();
    let mut excluded = Vec::new();
    if addresses.is_empty() {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    permitted.extend(addresses);
    NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: excluded,
    }
}

fn host_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

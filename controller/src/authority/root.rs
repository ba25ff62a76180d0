//! The root: made once, read ever after.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectors::pki::{ca_params, serial};
use rcgen::{
    BasicConstraints, Error as CertificateError, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tracing::warn;
use x509_parser::certificate::X509Certificate;
use zeroize::{Zeroize as _, Zeroizing};

use super::error::{AuthorityError, RootFault};
use crate::model::Key;

/// Life of the root.
pub const ROOT_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// How long before its end the root is warned about.
const END_IS_NEAR: Duration = Duration::from_hours(180 * 24);

/// A root that can sign.
pub(super) struct Root {
    /// DER.
    pub(super) certificate: CertificateDer<'static>,
    /// The same in PEM, and nothing else that was in the Secret.
    pub(super) pem: String,
    /// Its end; nothing that it signs lasts longer.
    pub(super) not_after: OffsetDateTime,
    pub(super) issuer: Issuer<'static, RootKey>,
}

/// A new root as its Secret holds it.
pub(super) struct NewRoot {
    /// PEM.
    pub(super) certificate: String,
    /// PKCS #8, PEM.
    pub(super) key: Zeroizing<String>,
}

impl NewRoot {
    /// Makes a root that may have one level of authorities below it.
    pub(super) fn generate() -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Make {
            whose: "the root authority",
            source,
        };
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let key = RootKey(pair);
        let mut params = ca_params("Postern root", BasicConstraints::Constrained(1), ROOT_LIFE);
        params.serial_number = Some(serial().map_err(|_| AuthorityError::Random)?);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            certificate: pem(certificate.der()),
            key: Zeroizing::new(key.0.serialize_pem()),
        })
    }
}

impl Root {
    /// Reads certificate and key, both PEM, and looks whether they are of use now.
    pub(super) fn parse(certificate: &str, key: &str) -> Result<Self, RootFault> {
        let certificate = only_certificate(certificate)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| RootFault::Malformed)?;
        check(&parsed)?;
        let key = RootKey::from_pem(key)?;
        if key.der_bytes() != &*parsed.public_key().subject_public_key.data {
            return Err(RootFault::OtherKey);
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|_| RootFault::Malformed)?;
        let pem = pem(&certificate);
        Ok(Self {
            certificate,
            pem,
            not_after,
            issuer,
        })
    }

    /// Nobody but an operator can replace the root, so one is told in time.
    pub(super) fn warn_about_its_end(&self, secret: &Key) {
        if self.not_after < OffsetDateTime::from(SystemTime::now() + END_IS_NEAR) {
            warn!(
                "the root authority in Secret {}/{} ends at {}; plan its replacement",
                secret.namespace, secret.name, self.not_after
            );
        }
    }
}

/// The one certificate of a PEM text.
fn only_certificate(text: &str) -> Result<CertificateDer<'static>, RootFault> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let mut certificates = certificates.map_err(|_| RootFault::Malformed)?;
    match certificates.pop() {
        Some(only) if certificates.is_empty() => Ok(only),
        last => Err(RootFault::Certificates(
            certificates.len() + usize::from(last.is_some()),
        )),
    }
}

fn check(certificate: &X509Certificate<'_>) -> Result<(), RootFault> {
    if certificate.subject().as_raw() != certificate.issuer().as_raw() {
        return Err(RootFault::NotARoot);
    }
    let constraints = certificate.basic_constraints().ok().flatten();
    let is_authority = constraints.is_some_and(|it| {
        it.value.ca
            && it
                .value
                .path_len_constraint
                .is_none_or(|length| length >= 1)
    });
    let usage = certificate.key_usage().map_err(|_| RootFault::Malformed)?;
    if !is_authority || !usage.is_none_or(|it| it.value.key_cert_sign()) {
        return Err(RootFault::NotAnAuthority);
    }
    let validity = certificate.validity();
    let (from, to) = (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    );
    let now = OffsetDateTime::from(SystemTime::now());
    if now < from || now > to {
        return Err(RootFault::NotValid { from, to });
    }
    Ok(())
}

/// As in RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The root's key. Its encoded form is wiped when it is dropped, the other is by the crypto
/// library.
pub(super) struct RootKey(KeyPair);

impl RootKey {
    fn from_pem(text: &str) -> Result<Self, RootFault> {
        let mut der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| RootFault::Key)?;
        let pair = KeyPair::try_from(&der);
        der.zeroize();
        pair.map(Self).map_err(|_| RootFault::Key)
    }
}

impl Drop for RootKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for RootKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for RootKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CertificateError> {
        self.0.sign(message)
    }
}

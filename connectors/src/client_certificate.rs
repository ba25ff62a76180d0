//! The certificate by which an upstream knows Postern (mutual TLS).

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use super::limits;
use super::secret::decode_base64;

/// `type` of a Secret with a certificate and its key.
pub const TLS: &str = "kubernetes.io/tls";
/// Key of the certificate in such a Secret, PEM: the leaf, then the issuer of each.
pub const CERTIFICATE_KEY: &str = "tls.crt";
/// Key of the private key in such a Secret, PEM.
pub const PRIVATE_KEY_KEY: &str = "tls.key";

/// A certificate, the chain above it, and its private key; `Debug` does not show the key.
#[derive(PartialEq, Eq)]
pub struct ClientCertificate {
    /// The leaf first.
    chain: Vec<CertificateDer<'static>>,
    /// DER: PKCS #8 (RFC 5958), PKCS #1 (RFC 8017) or SEC 1 (RFC 5915). Wiped when dropped.
    key: Zeroizing<Vec<u8>>,
    /// When the leaf is valid, both ends included (RFC 5280, section 4.1.2.5).
    valid: RangeInclusive<SystemTime>,
}

/// What is to be said of a certificate at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It begins later.
    NotYet,
    /// It is valid.
    Current,
    /// It has expired.
    Over,
}

/// Why a certificate and a key are of no use. No value is in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// More than anybody needs.
    #[error("is longer than {} KiB: keep the certificate and those that issued it", limits::CLIENT_CHAIN / 1024)]
    TooLong,
    /// No PEM.
    #[error("is not valid PEM: paste each certificate whole, with its BEGIN and END lines")]
    NotPem,
    /// Nothing in it.
    #[error("has no PEM certificate in it: add the client's own, and those between it and a root")]
    NoCertificate,
    /// Not X.509. Counted from 1.
    #[error("certificate {0} cannot be read as X.509: export it again")]
    Unreadable(usize),
    /// Servers take chains in one order only (RFC 8446, section 4.4.2). Counted from 1.
    #[error(
        "certificate {0} did not issue the one before it: the client's own certificate comes \
         first, then that of its issuer, and so on; leave others out"
    )]
    Order(usize),
    /// The key belongs to a certificate further down, counted from 1.
    #[error("tls.key belongs to certificate {0} in it: put that one first, then its issuers")]
    LeafNotFirst(usize),
    /// The key belongs to no certificate there.
    #[error("does not belong to the certificate in tls.crt: store both from the same issuance")]
    Mismatch,
    /// A key behind a password.
    #[error(
        "is encrypted with a password, which nobody is there to enter: store it decrypted \
         (`openssl pkey -in FILE`)"
    )]
    Encrypted,
    /// No key.
    #[error("has no PEM private key in it: add it, with its BEGIN and END lines")]
    NoKey,
    /// A key that the TLS library does not take.
    #[error(
        "holds no private key that can be used: it has to be RSA of 2048 to 8192 bits, ECDSA on \
         P-256, P-384 or P-521, or Ed25519, in PKCS #8, PKCS #1 or SEC 1"
    )]
    UnusableKey,
}

impl CertificateFault {
    /// The key of the Secret that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::TooLong
            | Self::NotPem
            | Self::NoCertificate
            | Self::Unreadable(_)
            | Self::Order(_)
            | Self::LeafNotFirst(_) => CERTIFICATE_KEY,
            Self::Mismatch | Self::Encrypted | Self::NoKey | Self::UnusableKey => PRIVATE_KEY_KEY,
        }
    }
}

impl ClientCertificate {
    /// Of the values of a Secret, both PEM.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, CertificateFault> {
        if certificates.len() > limits::CLIENT_CHAIN {
            return Err(CertificateFault::TooLong);
        }
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertificateFault::NotPem)?;
        Self::from_der(chain, private_key(key)?)
    }

    /// Of a chain, the leaf first, and the leaf's key.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, CertificateFault> {
        let parsed = chain
            .iter()
            .zip(1..)
            .map(|(der, number)| match parse_x509_certificate(der) {
                Ok(([], certificate)) => Ok(certificate),
                _ => Err(CertificateFault::Unreadable(number)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = parsed.first().ok_or(CertificateFault::NoCertificate)?;
        let valid = valid(leaf).ok_or(CertificateFault::Unreadable(1))?;
        check_owner(&parsed, &*signing_key(&key)?)?;
        check_order(&parsed)?;
        Ok(Self { chain, key, valid })
    }

    /// The certificates, DER; the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key, DER.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The last moment at which the leaf is valid.
    pub fn not_after(&self) -> SystemTime {
        *self.valid.end()
    }

    /// Whether the leaf is valid at some time.
    pub fn validity(&self, now: SystemTime) -> Validity {
        if now < *self.valid.start() {
            Validity::NotYet
        } else if now > *self.valid.end() {
            Validity::Over
        } else {
            Validity::Current
        }
    }

    /// What is wrong with it at some time, as the rest of a sentence; `None` while it is valid.
    pub fn untimely(&self, now: SystemTime) -> Option<String> {
        let at = |time: SystemTime| {
            let time = OffsetDateTime::from(time).format(&Rfc3339);
            time.unwrap_or_default()
        };
        match self.validity(now) {
            Validity::Current => None,
            Validity::NotYet => Some(format!(
                "is valid from {} on and cannot be used before: check the clocks, or renew it",
                at(*self.valid.start())
            )),
            Validity::Over => Some(format!(
                "has expired at {}: renew it in the Secret",
                at(*self.valid.end())
            )),
        }
    }

    /// What signs with the key.
    pub fn certified(&self) -> Result<CertifiedKey, CertificateFault> {
        Ok(CertifiedKey::new(
            self.chain.clone(),
            signing_key(&self.key)?,
        ))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("certificates", &self.chain.len())
            .field("valid", &self.valid)
            .finish_non_exhaustive()
    }
}

fn signing_key(der: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateFault> {
    let key = PrivateKeyDer::try_from(der).map_err(|_| CertificateFault::UnusableKey)?;
    any_supported_type(&key).map_err(|_| CertificateFault::UnusableKey)
}

/// Whether the key is the first certificate's.
fn check_owner(
    chain: &[X509Certificate<'_>],
    key: &dyn SigningKey,
) -> Result<(), CertificateFault> {
    let Some(public) = key.public_key() else {
        return Ok(());
    };
    let owner = chain
        .iter()
        .position(|certificate| certificate.public_key().raw == &*public);
    match owner {
        Some(0) => Ok(()),
        Some(index) => Err(CertificateFault::LeafNotFirst(index + 1)),
        None => Err(CertificateFault::Mismatch),
    }
}

fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), CertificateFault> {
    let issued =
        |pair: &[X509Certificate<'_>]| pair[0].issuer().as_raw() == pair[1].subject().as_raw();
    match chain.windows(2).position(|pair| !issued(pair)) {
        Some(index) => Err(CertificateFault::Order(index + 2)),
        None => Ok(()),
    }
}

fn valid(certificate: &X509Certificate<'_>) -> Option<RangeInclusive<SystemTime>> {
    let validity = certificate.validity();
    let time = |seconds: i64| {
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        }
    };
    let start = time(validity.not_before.timestamp())?;
    Some(start..=time(validity.not_after.timestamp())?)
}

/// The first private key of a PEM text, DER. Read here and not by a library, because each copy
/// of it is to be wiped.
fn private_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, CertificateFault> {
    let text = std::str::from_utf8(pem).map_err(|_| CertificateFault::NoKey)?;
    let mut rest = text;
    loop {
        let (_, begun) = rest
            .split_once("-----BEGIN ")
            .ok_or(CertificateFault::NoKey)?;
        let (label, after) = begun.split_once("-----").ok_or(CertificateFault::NoKey)?;
        rest = after;
        if !label.ends_with("PRIVATE KEY") {
            continue;
        }
        let end = format!("-----END {label}-----");
        let (body, _) = after.split_once(&end).ok_or(CertificateFault::NoKey)?;
        // The latter: RFC 1421's own way, which OpenSSL still writes.
        if label == "ENCRYPTED PRIVATE KEY" || body.contains("Proc-Type:") {
            return Err(CertificateFault::Encrypted);
        }
        // Of its final size at once: what it grew out of would not be wiped.
        let mut joined = Zeroizing::new(String::with_capacity(body.len()));
        joined.extend(body.split_ascii_whitespace());
        return decode_base64(&joined).ok_or(CertificateFault::UnusableKey);
    }
}

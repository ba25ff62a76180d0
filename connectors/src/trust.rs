//! Certificates that a Connector trusts besides the system's.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::{Findings, Problem};
use super::limits;
use super::secret::SecretData;

/// How every PEM section starts.
const PEM_HEADER: &[u8] = b"-----BEGIN ";

/// All certificates of a Secret, and what is wrong with them.
#[derive(Clone)]
pub(super) struct Certificates {
    found: Arc<[CertificateDer<'static>]>,
    /// With the keys at fault.
    faults: Vec<(String, Problem)>,
}

impl Certificates {
    /// Reads them: from keys that end in `.crt` or `.pem`, and from values that look like PEM.
    /// Other keys are skipped, and so are private keys.
    pub(super) fn read(secret: &SecretData) -> Self {
        let (mut found, mut faults, mut size) = (Vec::new(), Vec::new(), 0);
        for key in secret.keys() {
            let bytes = secret.get(key).unwrap_or_default();
            let named = matches!(key.rsplit_once('.'), Some((_, "crt" | "pem")));
            let looks_like_pem = bytes
                .windows(PEM_HEADER.len())
                .any(|window| window == PEM_HEADER);
            if !named && !looks_like_pem {
                continue;
            }
            let mut fault = |what: &str| {
                faults.push((secret.field(key), Problem::Rule(what.to_owned())));
            };
            size += bytes.len();
            if size > limits::CA_BUNDLE {
                let limit = limits::CA_BUNDLE / 1024;
                fault(&format!(
                    "makes more than {limit} KiB of certificates: keep those that this upstream \
                     needs"
                ));
                break;
            }
            match read(bytes) {
                Ok(read) if read.is_empty() && named => {
                    fault("has no PEM certificate in it: add one");
                }
                Ok(read) => found.extend(read),
                Err(what) => fault(what),
            }
        }
        // Part of a bundle is not trusted: a Connector has all of it or none.
        if size > limits::CA_BUNDLE {
            found.clear();
        }
        Self {
            found: found.into(),
            faults,
        }
    }
}

/// The certificates of a Secret for the Connector `user`; all Connectors share them.
pub(super) fn certificates(
    secret: &SecretData,
    user: &str,
    findings: &mut Findings<'_>,
) -> Arc<[CertificateDer<'static>]> {
    let Certificates { found, faults } = secret.certificates();
    for (field, problem) in faults {
        findings.add_at(secret.place().clone(), field.clone(), problem.clone());
    }
    if found.is_empty() && faults.is_empty() {
        let problem = Problem::Rule(format!(
            "has no certificate, but {user} names it in spec.caCertSecretRef: add one in PEM \
             under a key that ends in .crt or .pem"
        ));
        findings.add_at(secret.place().clone(), "", problem);
    }
    Arc::clone(found)
}

fn read(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(
            |_| "is not valid PEM: paste each certificate whole, with its BEGIN and END lines",
        )?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|_| "holds a certificate that cannot be read as X.509: export it again")?;
    }
    Ok(certificates)
}

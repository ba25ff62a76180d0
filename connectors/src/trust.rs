//! Certificates that a Connector trusts besides the system's.

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::{Findings, Problem};
use super::secret::SecretData;

/// How every PEM section starts.
const PEM_HEADER: &[u8] = b"-----BEGIN ";

/// Reads all certificates of a Secret: from keys that end in `.crt` or `.pem`, and from
/// values that look like PEM. Other keys are skipped, and so are private keys.
pub(super) fn certificates(
    secret: &SecretData,
    user: &str,
    findings: &mut Findings<'_>,
) -> Vec<CertificateDer<'static>> {
    let mut certificates = Vec::new();
    let mut sound = true;
    for key in secret.keys() {
        let bytes = secret.get(key).unwrap_or_default();
        let named = matches!(key.rsplit_once('.'), Some((_, "crt" | "pem")));
        let looks_like_pem = bytes
            .windows(PEM_HEADER.len())
            .any(|window| window == PEM_HEADER);
        if !named && !looks_like_pem {
            continue;
        }
        match read(bytes) {
            Ok(read) if read.is_empty() && named => {
                sound = false;
                let problem = Problem::Rule("has no PEM certificate in it: add one".to_owned());
                findings.add_at(secret.place().clone(), secret.field(key), problem);
            }
            Ok(read) => certificates.extend(read),
            Err(what) => {
                sound = false;
                let problem = Problem::Rule(what.to_owned());
                findings.add_at(secret.place().clone(), secret.field(key), problem);
            }
        }
    }
    if certificates.is_empty() && sound {
        let problem = Problem::Rule(format!(
            "has no certificate, but {user} names it in spec.caCertSecretRef: add one in PEM \
             under a key that ends in .crt or .pem"
        ));
        findings.add_at(secret.place().clone(), "", problem);
    }
    certificates
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

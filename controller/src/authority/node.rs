//! Authorities of nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use connectors::pki::{ca_params, constraints, serial};
use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::Authority;
use super::error::SignError;
use crate::snapshot::host_size;

/// Life of a node's authority; its agent asks for another one in time.
pub const NODE_LIFE: Duration = Duration::from_hours(24);
/// Longest common name, characters (RFC 5280, appendix A, `ub-common-name`).
const COMMON_NAME: usize = 64;
/// Bytes of the hosts of one node; a certificate is sent with every TLS handshake of the node,
/// and clients take no message that is much larger.
pub const HOSTS: usize = 32 * 1024;
/// A point on P-256, uncompressed: a byte 4 and two coordinates.
const POINT_BYTES: usize = 65;

/// An authority that was signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// The hosts that it can vouch for.
    pub hosts: BTreeSet<String>,
    /// The hosts that it has no room for.
    pub left_out: BTreeSet<String>,
}

impl Authority {
    /// Signs an authority for a node that can vouch for these hosts, DNS names and IP
    /// addresses, and for nothing else. Of the request, PKCS #10 in DER, only the key is
    /// used; its signature has to show that the sender has it.
    ///
    /// Hosts that do not fit into [`HOSTS`] bytes are left out, the last ones first.
    pub fn sign<'a>(
        &self,
        csr: &[u8],
        node: &str,
        hosts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Signed, SignError> {
        let (hosts, left_out) = fitting(hosts);
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|source| SignError::Request {
                    node: node.to_owned(),
                    source,
                })?;
        let key = request.public_key;
        // The request's signature algorithm does not tell the curve.
        let point = key.der_bytes();
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || point.len() != POINT_BYTES || point[0] != 4
        {
            let node = node.to_owned();
            return Err(SignError::KeyKind { node });
        }
        let name: String = format!("Postern node {node}")
            .chars()
            .take(COMMON_NAME)
            .collect();
        let mut params = ca_params(&name, BasicConstraints::Constrained(0), NODE_LIFE);
        params.not_after = params.not_after.min(self.root.not_after);
        params.serial_number = Some(serial().map_err(|_| SignError::Random)?);
        params.name_constraints = Some(constraints(hosts.iter().map(String::as_str)));
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.root.issuer);
        let certificate = signed.map_err(|source| SignError::Make {
            node: node.to_owned(),
            source,
        })?;
        Ok(Signed {
            certificate: certificate.der().clone(),
            hosts,
            left_out,
        })
    }
}

/// The hosts that fit into a certificate, and those that do not.
fn fitting<'a>(hosts: impl IntoIterator<Item = &'a str>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut fitting, mut left_out, mut size) = (BTreeSet::new(), BTreeSet::new(), 0);
    for host in hosts {
        let needed = host_size(host);
        if size + needed > HOSTS {
            left_out.insert(host.to_owned());
        } else if fitting.insert(host.to_owned()) {
            size += needed;
        }
    }
    (fitting, left_out)
}

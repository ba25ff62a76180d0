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

/// Life of a node's authority; its agent asks for another one in time.
pub const NODE_LIFE: Duration = Duration::from_hours(24);
/// Longest common name, characters (RFC 5280, appendix A, `ub-common-name`).
const COMMON_NAME: usize = 64;
/// A point on P-256, uncompressed: a byte 4 and two coordinates.
const POINT_BYTES: usize = 65;

impl Authority {
    /// Signs an authority for a node that can vouch for these hosts, DNS names and IP
    /// addresses, and for nothing else. Of the request, PKCS #10 in DER, only the key is
    /// used; its signature has to show that the sender has it.
    ///
    /// Returns the certificate in DER.
    pub fn sign(
        &self,
        csr: &[u8],
        node: &str,
        hosts: &BTreeSet<&str>,
    ) -> Result<CertificateDer<'static>, SignError> {
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
        params.name_constraints = Some(constraints(hosts.iter().copied()));
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.root.issuer);
        let certificate = signed.map_err(|source| SignError::Make {
            node: node.to_owned(),
            source,
        })?;
        Ok(certificate.der().clone())
    }
}

//! Signs tokens (RS256) with the `openssl` program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run_ok_with_input;
use crate::{TempDir, base64, run_ok};

/// A key and the certificate by which registries know it.
#[derive(Debug)]
pub(super) struct Signer {
    files: TempDir,
    header: String,
}

impl Signer {
    pub(super) fn new(name: &str) -> Result<Self> {
        let files = TempDir::new("token")?;
        let mut openssl = Command::new("openssl");
        openssl
            .current_dir(files.path())
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"]);
        openssl.args(["-days", "30", "-subj", &format!("/CN={name}")]);
        openssl.args(["-keyout", "key.pem", "-out", "certificate.pem"]);
        run_ok(openssl)?;

        let pem = fs::read_to_string(files.join("certificate.pem"))
            .context("cannot read the signer's certificate")?;
        // What is between the marks of a PEM file is the certificate as the header wants it.
        let body: String = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{body}"]}}"#);
        Ok(Self { files, header })
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.files.join("certificate.pem")
    }

    pub(super) fn sign(&self, claims: &str) -> Result<String> {
        let signed = format!(
            "{}.{}",
            base64::encode_url(&self.header),
            base64::encode_url(claims)
        );
        let mut openssl = Command::new("openssl");
        openssl
            .args(["dgst", "-sha256", "-sign"])
            .arg(self.files.join("key.pem"));
        let signature = run_ok_with_input(openssl, signed.as_bytes())?.stdout;
        Ok(format!("{signed}.{}", base64::encode_url(signature)))
    }
}

//! A certificate authority for tests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::{TempDir, run_ok};

/// A certificate authority and the certificates it signed; the files go with the value.
#[derive(Debug)]
pub struct Pki {
    dir: TempDir,
    next: AtomicU32,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

const CONFIG: &str = "\
[req]
distinguished_name = name
prompt = no
x509_extensions = authority
[name]
commonName = placeholder
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[ca]
default_ca = settings
[settings]
database = index.txt
new_certs_dir = .
certificate = ca.crt
private_key = ca.key
rand_serial = yes
default_md = sha256
default_days = 30
unique_subject = no
policy = any
x509_extensions = server
copy_extensions = copy
[any]
commonName = supplied
";

impl Pki {
    /// Makes an authority with a key of its own.
    pub fn new() -> Result<Self> {
        let dir = TempDir::new("pki")?;
        dir.write("openssl.cnf", CONFIG)?;
        dir.write("index.txt", "")?;
        let pki = Self {
            dir,
            next: AtomicU32::new(0),
        };
        let mut request = pki.openssl("req");
        request.args(["-x509", "-days", "30", "-subj", "/CN=Test authority"]);
        request
            .args(NEW_KEY)
            .args(["-keyout", "ca.key", "-out", "ca.crt"]);
        run_ok(request)?;
        Ok(pki)
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The text of the authority's certificate.
    pub fn ca_pem(&self) -> Result<String> {
        fs::read_to_string(self.ca()).context("cannot read the authority's certificate")
    }

    /// A certificate for a server with these names: DNS names or IP addresses.
    pub fn server(&self, names: &[&str]) -> Result<Certificate> {
        self.issue(names, &[])
    }

    /// Like [`server`](Self::server), but it expired long ago.
    pub fn expired(&self, names: &[&str]) -> Result<Certificate> {
        self.issue(
            names,
            &[
                "-startdate",
                "20200101000000Z",
                "-enddate",
                "20200102000000Z",
            ],
        )
    }

    /// A certificate for a client of this name.
    pub fn client(&self, name: &str) -> Result<Certificate> {
        self.issue(&[name], &["-extensions", "client"])
    }

    /// Like [`client`](Self::client), but valid up to this time only, to the second.
    pub fn client_until(&self, name: &str, end: SystemTime) -> Result<Certificate> {
        let end = end.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let mut date = Command::new("date");
        date.args(["--utc", &format!("--date=@{end}"), "+%Y%m%d%H%M%SZ"]);
        let end = run_ok(date)?;
        let end = String::from_utf8(end.stdout)?;
        let validity = ["-startdate", "20200101000000Z", "-enddate", end.trim()];
        self.issue(
            &[name],
            &[&["-extensions", "client"][..], &validity].concat(),
        )
    }

    /// Like [`server`](Self::server), but signed by an authority that nobody knows.
    pub fn untrusted(&self, names: &[&str]) -> Result<Certificate> {
        let stranger = Self::new()?;
        let theirs = stranger.server(names)?;
        let ours = self.next_certificate();
        for (from, to) in [(&theirs.cert, &ours.cert), (&theirs.key, &ours.key)] {
            fs::copy(from, to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(ours)
    }

    fn issue(&self, names: &[&str], validity: &[&str]) -> Result<Certificate> {
        let first = names.first().context("a certificate needs a name")?;
        let files = self.next_certificate();
        let request = files.cert.with_extension("csr");

        let mut openssl = self.openssl("req");
        openssl
            .args(["-new", "-subj", &format!("/CN={first}")])
            .args(NEW_KEY);
        openssl.args([
            "-addext",
            &format!("subjectAltName={}", alternative_names(names)),
        ]);
        openssl
            .arg("-keyout")
            .arg(&files.key)
            .arg("-out")
            .arg(&request);
        run_ok(openssl)?;

        let mut openssl = self.openssl("ca");
        openssl.args(["-batch", "-notext"]).args(validity);
        openssl
            .arg("-in")
            .arg(&request)
            .arg("-out")
            .arg(&files.cert);
        run_ok(openssl)?;
        Ok(files)
    }

    fn next_certificate(&self) -> Certificate {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = |ending: &str| self.dir.join(format!("{number}.{ending}"));
        Certificate {
            cert: file("crt"),
            key: file("key"),
        }
    }

    fn openssl(&self, task: &str) -> Command {
        let mut command = Command::new("openssl");
        command
            .current_dir(self.dir.path())
            .args([task, "-config", "openssl.cnf"]);
        command
    }
}

const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

fn alternative_names(names: &[&str]) -> String {
    let kind = |name: &str| {
        if name.parse::<std::net::IpAddr>().is_ok() {
            "IP"
        } else {
            "DNS"
        }
    };
    names
        .iter()
        .map(|name| format!("{}:{name}", kind(name)))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(pki: &Pki, certificate: &Certificate, name: &[&str]) -> Result<()> {
        let mut openssl = Command::new("openssl");
        openssl
            .arg("verify")
            .arg("-CAfile")
            .arg(pki.ca())
            .args(name)
            .arg(&certificate.cert);
        run_ok(openssl).map(drop)
    }

    #[test]
    fn certificates_are_what_they_say() {
        let pki = Pki::new().unwrap();
        let good = pki
            .server(&["a.test", "*.b.test", "127.0.0.1", "::1"])
            .unwrap();
        verify(&pki, &good, &["-verify_hostname", "a.test"]).unwrap();
        verify(&pki, &good, &["-verify_hostname", "x.b.test"]).unwrap();
        verify(&pki, &good, &["-verify_ip", "127.0.0.1"]).unwrap();
        verify(&pki, &good, &["-verify_ip", "::1"]).unwrap();
        assert!(verify(&pki, &good, &["-verify_hostname", "c.test"]).is_err());

        let expired = verify(&pki, &pki.expired(&["a.test"]).unwrap(), &[]).unwrap_err();
        assert!(expired.to_string().contains("expired"), "{expired}");
        let unknown = verify(&pki, &pki.untrusted(&["a.test"]).unwrap(), &[]).unwrap_err();
        assert!(unknown.to_string().contains("issuer"), "{unknown}");
    }
}

//! The certificates that the command trusts: what it trusted before, and Postern's CA.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where distributions keep the system's bundle.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables whose file replaces what a program trusts by default.
const REPLACING: [&str; 15] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NPM_CONFIG_CAFILE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "HEX_CACERTS_PATH",
    "JULIA_SSL_CA_ROOTS_PATH",
];

/// Variables whose file is added to what a program trusts by default.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Set when unset. The others only matter to those who set them.
const WELL_KNOWN: [&str; 9] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NPM_CONFIG_CAFILE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// A file to show in place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// What is shown.
    pub source: PathBuf,
    /// Where.
    pub target: PathBuf,
}

type Variables = Vec<(OsString, OsString)>;

/// How a command comes to trust Postern's CA.
#[derive(Debug)]
pub(super) struct Trust {
    /// Files to cover in the command's mount namespace; its variables may keep their values.
    pub(super) overlays: Vec<Bind>,
    /// Variables to set beside the overlays.
    pub(super) variables: Variables,
    /// Variables that do without overlays.
    pub(super) copies: Variables,
}

impl Trust {
    /// Writes the merged files into `dir`.
    pub(super) fn prepare(root_pem: &str, dir: &Path) -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        prepare(root_pem, dir, system_bundle().as_deref(), set)
    }
}

fn prepare(
    root_pem: &str,
    dir: &Path,
    system: Option<&Path>,
    set: impl Fn(&str) -> Option<OsString>,
) -> Result<Trust> {
    let own = dir.join("postern-ca.pem");
    write(&own, root_pem)?;
    let mut merged = Merged {
        root_pem,
        dir,
        copies: HashMap::new(),
    };
    let system_copy = match system {
        Some(system) => merged.copy_of(system)?,
        None => own.clone(),
    };
    let mut variables = Vec::new();
    let mut copies = Vec::new();
    for name in REPLACING {
        // What points to no file does not work today and is left as it is.
        match set(name).map(PathBuf::from) {
            Some(file) if file.is_file() => {
                copies.push((name.into(), merged.copy_of(&file)?.into()));
            }
            None if WELL_KNOWN.contains(&name) => {
                let shown = system.unwrap_or(&own);
                variables.push((name.into(), shown.into()));
                copies.push((name.into(), system_copy.clone().into()));
            }
            _ => {}
        }
    }
    for name in ADDING {
        match set(name).map(PathBuf::from) {
            Some(file) if file.is_file() => {
                copies.push((name.into(), merged.copy_of(&file)?.into()));
            }
            Some(_) => {}
            None => {
                variables.push((name.into(), own.clone().into()));
                copies.push((name.into(), own.clone().into()));
            }
        }
    }
    Ok(Trust {
        overlays: merged.binds(),
        variables,
        copies,
    })
}

/// Copies of bundles with Postern's CA at their end.
struct Merged<'a> {
    root_pem: &'a str,
    dir: &'a Path,
    /// By the file behind all symbolic links, which is what a mount covers.
    copies: HashMap<PathBuf, PathBuf>,
}

impl Merged<'_> {
    fn copy_of(&mut self, bundle: &Path) -> Result<PathBuf> {
        let real = fs::canonicalize(bundle)
            .with_context(|| format!("cannot resolve {}", bundle.display()))?;
        if let Some(copy) = self.copies.get(&real) {
            return Ok(copy.clone());
        }
        let mut text = fs::read(&real)
            .with_context(|| format!("cannot read the CA bundle {}", real.display()))?;
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(self.root_pem.as_bytes());
        let copy = self.dir.join(format!("bundle-{}.pem", self.copies.len()));
        write(&copy, text)?;
        self.copies.insert(real, copy.clone());
        Ok(copy)
    }

    fn binds(self) -> Vec<Bind> {
        self.copies
            .into_iter()
            .map(|(target, source)| Bind { source, target })
            .collect()
    }
}

fn system_bundle() -> Option<PathBuf> {
    SYSTEM_BUNDLES
        .iter()
        .map(PathBuf::from)
        .find(|bundle| bundle.is_file())
}

/// Writes a file that everybody may read, whatever the umask: it stands for one that
/// everybody may read.
fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o644)))
        .with_context(|| format!("cannot write {}", path.display()))
}

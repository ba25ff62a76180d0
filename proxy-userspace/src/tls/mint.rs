//! Leaf certificates, made when first asked for and kept.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rcgen::KeyPair;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Authority, TlsError, authority::Chain};
use crate::{limits, state::normal_host};

/// Answers with a certificate for the name that the client asks for.
pub(super) struct Minter {
    /// One key for all leaves of the process.
    key: KeyPair,
    signing_key: Arc<dyn rustls::sign::SigningKey>,
    signed: Mutex<Signed>,
}

/// Who signs, and what was signed.
#[derive(Default)]
struct Signed {
    authority: Option<Authority>,
    leaves: HashMap<String, Leaf>,
}

struct Leaf {
    certified: Arc<CertifiedKey>,
    /// When it is given out, by the wall clock like its validity: during the first half of
    /// that. A clock that was put back has another one made as well.
    fresh: Range<SystemTime>,
}

impl Minter {
    pub(super) fn new() -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(|source| TlsError::Mint {
            host: "any host".into(),
            source,
        })?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self {
            signing_key: rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)?,
            key,
            signed: Mutex::default(),
        })
    }

    /// From now on `authority` signs.
    pub(super) fn set_authority(&self, authority: Authority) {
        *self.lock() = Signed {
            authority: Some(authority),
            leaves: HashMap::new(),
        };
    }

    /// Whether the authority that signs now may vouch for `host`.
    pub(super) fn vouches_for(&self, host: &str) -> bool {
        let signed = self.lock();
        signed
            .authority
            .as_ref()
            .is_some_and(|it| it.vouches_for(host))
    }

    /// The certificate for `host`, from the cache or made now.
    pub(super) fn leaf(&self, host: &str) -> Result<Arc<CertifiedKey>, TlsError> {
        self.leaf_at(host, SystemTime::now())
    }

    pub(super) fn leaf_at(
        &self,
        host: &str,
        now: SystemTime,
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        // Hosts are the Connectors' own, so the lock is held while signing only a few times;
        // that it is held has each of them signed once.
        let mut signed = self.lock();
        let Signed { authority, leaves } = &mut *signed;
        if let Some(leaf) = leaves.get(host)
            && leaf.fresh.contains(&now)
        {
            return Ok(Arc::clone(&leaf.certified));
        }
        let authority = authority.as_ref().ok_or(TlsError::NoAuthority)?;
        let Chain { certificates, end } = authority.leaf(host, &self.key, now)?;
        let life = end.duration_since(now).unwrap_or_default();
        let certified = Arc::new(CertifiedKey::new(
            certificates,
            Arc::clone(&self.signing_key),
        ));
        if leaves.len() >= limits::LEAVES {
            leaves.clear();
        }
        leaves.insert(
            host.to_owned(),
            Leaf {
                certified: Arc::clone(&certified),
                fresh: now..now + life / 2,
            },
        );
        Ok(certified)
    }

    fn lock(&self) -> MutexGuard<'_, Signed> {
        // Nothing panics while it holds the lock.
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Minter {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = normal_host(hello.server_name()?);
        self.leaf(&host)
            .inspect_err(|error| tracing::error!("{error}"))
            .ok()
    }
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").finish_non_exhaustive()
    }
}

//! Session tickets: what a client shows to spare the handshake with certificates.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustls::{crypto::aws_lc_rs::Ticketer, server::ProducesTickets};

use super::TlsError;

/// Makes tickets that hold all of the session, sealed with keys of this process, so that
/// nothing is kept here. Every ticket belongs to one authority and, for clients that send no
/// server name, to one host: a client that resumes sees no certificate, and rustls compares
/// server names only.
#[derive(Debug)]
pub(super) struct Tickets {
    /// Seals, and changes its keys every six hours.
    sealer: Arc<dyn ProducesTickets>,
    /// Counts the authorities.
    era: Arc<AtomicU64>,
    /// For clients that name no host; otherwise empty.
    host: String,
}

impl Tickets {
    pub(super) fn new() -> Result<Self, TlsError> {
        Ok(Self {
            sealer: Ticketer::new()?,
            era: Arc::default(),
            host: String::new(),
        })
    }

    /// Tickets for clients of `host` that do not name it.
    pub(super) fn of_host(&self, host: &str) -> Self {
        Self {
            sealer: Arc::clone(&self.sealer),
            era: Arc::clone(&self.era),
            host: host.to_owned(),
        }
    }

    /// From now on tickets that were given out are of no use.
    pub(super) fn forget(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }

    /// What a session has to begin with: the era, and the host with a zero byte behind it,
    /// which no host contains.
    fn binding(&self) -> Vec<u8> {
        let mut binding = self.era.load(Ordering::Relaxed).to_be_bytes().to_vec();
        binding.extend(self.host.as_bytes());
        binding.push(0);
        binding
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds.
    fn lifetime(&self) -> u32 {
        self.sealer.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.sealer.encrypt(&[&self.binding(), plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.sealer.decrypt(cipher)?;
        plain.strip_prefix(&*self.binding()).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_its_host_and_its_authority() {
        let tickets = Tickets::new().expect("tickets");
        let (one, two) = (tickets.of_host("192.0.2.1"), tickets.of_host("192.0.2.10"));
        let ticket = one.encrypt(b"session").expect("a ticket");
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(two.decrypt(&ticket), None);
        assert_eq!(tickets.decrypt(&ticket), None);
        let named = tickets.encrypt(b"session").expect("a ticket");
        assert_eq!(tickets.decrypt(&named).as_deref(), Some(&b"session"[..]));
        assert_eq!(one.decrypt(&named), None);

        tickets.forget();
        assert_eq!(one.decrypt(&ticket), None);
        assert_eq!(tickets.decrypt(&named), None);
        let ticket = one.encrypt(b"session").expect("a ticket");
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    }
}

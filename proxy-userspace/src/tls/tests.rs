use std::{
    io::{Read, Write},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, ServerConnection,
    SupportedProtocolVersion,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    crypto::aws_lc_rs::default_provider,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{mint::Minter, *};
use crate::limits;

const HOSTS: [&str; 4] = ["a.test", "b.test", "192.0.2.1", "192.0.2.2"];

fn authority() -> (Authority, CertificateDer<'static>) {
    let (authority, root) = Authority::with_root(&HOSTS.map(str::to_owned)).expect("an authority");
    let root = CertificateDer::from_pem_slice(root.as_bytes()).expect("a root");
    (authority, root)
}

fn minter() -> Minter {
    let minter = Minter::new().expect("a minter");
    minter.set_authority(authority().0);
    minter
}

#[test]
fn a_leaf_says_no_more_than_it_has_to() {
    let minter = minter();
    let mut serials = Vec::new();
    for host in HOSTS {
        let before = SystemTime::now();
        let leaf = minter.leaf(host).expect("a leaf");
        assert_eq!(leaf.cert.len(), 2, "leaf and intermediate");
        let (_, parsed) = parse_x509_certificate(&leaf.cert[0]).expect("a certificate");
        let names = parsed
            .subject_alternative_name()
            .expect("one")
            .expect("SAN");
        let [name] = &names.value.general_names[..] else {
            panic!("{names:?}");
        };
        match name {
            GeneralName::DNSName(name) => assert_eq!(*name, host),
            GeneralName::IPAddress(ip) => {
                let bytes: [u8; 4] = (*ip).try_into().expect("an IPv4 address");
                assert_eq!(std::net::Ipv4Addr::from(bytes).to_string(), host);
            }
            other => panic!("{other:?}"),
        }
        let usage = parsed
            .extended_key_usage()
            .expect("one")
            .expect("EKU")
            .value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let usage = parsed.key_usage().expect("one").expect("key usage").value;
        assert_eq!(usage.flags, 1, "digitalSignature alone");
        assert!(!parsed.is_ca());
        let key = &parsed.public_key().algorithm;
        assert_eq!(key.algorithm.to_id_string(), "1.2.840.10045.2.1");
        serials.push((
            parsed.raw_serial().to_vec(),
            parsed.public_key().raw.to_vec(),
        ));

        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            i64::try_from(since.expect("after 1970").as_secs()).expect("a date")
        };
        let begins = parsed.validity().not_before.timestamp();
        let ends = parsed.validity().not_after.timestamp();
        assert!(begins <= seconds(before), "clocks may be behind");
        assert!(ends <= seconds(SystemTime::now() + limits::LEAF_LIFE));
    }
    for (serial, key) in &serials {
        assert!((8..=16).contains(&serial.len()), "{serial:?}");
        assert_eq!(*key, serials[0].1, "one key for all");
        assert_eq!(
            serials.iter().filter(|(other, _)| other == serial).count(),
            1
        );
    }
}

#[test]
fn a_leaf_is_replaced_after_half_its_life_and_when_the_clock_jumps() {
    let minter = minter();
    let now = SystemTime::now();
    let at = |now| minter.leaf_at("a.test", now).expect("a leaf");
    let first = at(now);
    let second = Duration::from_secs(1);
    assert!(Arc::ptr_eq(
        &first,
        &at(now + limits::LEAF_LIFE / 2 - second)
    ));
    let later = at(now + limits::LEAF_LIFE / 2);
    assert!(!Arc::ptr_eq(&first, &later));
    assert!(!Arc::ptr_eq(&later, &at(now - second)), "put back");
}

#[test]
fn a_leaf_is_valid_at_whatever_time_it_is_given_out() {
    let minter = minter();
    let (hour, now) = (Duration::from_hours(1), SystemTime::now());
    let life = limits::LEAF_LIFE;
    // On its way, forward beyond the end of the first, back before its beginning, and there again.
    for at in [
        now,
        now + life / 4,
        now + life * 3,
        now + hour,
        now - hour / 2,
        now + life * 3,
        now,
    ] {
        let leaf = minter.leaf_at("a.test", at).expect("a leaf");
        let (_, parsed) = parse_x509_certificate(&leaf.cert[0]).expect("a certificate");
        let (start, end) = (parsed.validity().not_before, parsed.validity().not_after);
        let start = SystemTime::from(start.to_datetime());
        let end = SystemTime::from(end.to_datetime());
        assert!((start..end).contains(&at), "{start:?} {end:?} {at:?}");
        assert!(end >= at + life / 2 - hour, "about to expire");
    }
}

#[test]
fn a_leaf_ends_no_later_than_its_authority() {
    let minter = minter();
    let prime = authority().0.prime();
    let day = Duration::from_hours(24);
    // The authority lives for ten years; its prime ends after two thirds.
    let end = prime.end + prime.end.duration_since(prime.start).expect("a life") / 2;
    let (soon, seconds) = (end - Duration::from_mins(10), Duration::from_secs(10));
    let leaf = minter.leaf_at("a.test", soon).expect("a leaf");
    let ends = |der: &CertificateDer<'_>| {
        let (_, parsed) = parse_x509_certificate(der).expect("a certificate");
        parsed.validity().not_after.timestamp()
    };
    assert_eq!(ends(&leaf.cert[0]), ends(&leaf.cert[1]));
    let again = minter.leaf_at("a.test", soon + Duration::from_mins(5) + seconds);
    assert!(
        !Arc::ptr_eq(&leaf, &again.expect("another")),
        "half of what is left"
    );

    for wrong in [end + day, prime.start - day] {
        let error = minter.leaf_at("a.test", wrong).expect_err("no authority");
        assert!(matches!(error, TlsError::Untimely { .. }), "{error}");
        assert!(
            error.to_string().contains("check the node's clock"),
            "{error}"
        );
    }
}

#[test]
fn a_host_is_signed_once_however_many_ask() {
    let minter = minter();
    let leaves: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| minter.leaf("a.test")))
            .collect();
        let answers = asking
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        answers.map(|leaf| leaf.expect("a leaf")).collect()
    });
    assert!(leaves.iter().all(|leaf| Arc::ptr_eq(leaf, &leaves[0])));
}

/// Shows what it was given by one server to all of them.
#[derive(Debug)]
struct Promiscuous(ClientSessionMemoryCache);

fn any() -> ServerName<'static> {
    ServerName::try_from("any.test").expect("a name")
}

impl ClientSessionStore for Promiscuous {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(any(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&any())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(any(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&any())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&any());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(any(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&any())
    }
}

/// A client that trusts these roots, and the handshakes that it makes with an interceptor.
struct Client(Arc<ClientConfig>);

impl Client {
    fn new(roots: &[CertificateDer<'static>], version: &'static SupportedProtocolVersion) -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let mut config = ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(store)
            .with_no_client_auth();
        let sessions = Promiscuous(ClientSessionMemoryCache::new(8));
        config.resumption = Resumption::store(Arc::new(sessions));
        config.enable_early_data = true;
        Self(Arc::new(config))
    }

    /// Shakes hands for a host, and passes one byte in each direction.
    fn connects(&self, interceptor: &Interceptor, host: &'static str) -> HandshakeKind {
        let name = ServerName::try_from(host).expect("a name");
        let named = matches!(name, ServerName::DnsName(_));
        let mut client = ClientConnection::new(Arc::clone(&self.0), name).expect("a client");
        assert!(client.early_data().is_none(), "early data is never offered");
        let config = interceptor
            .config(host, named, None)
            .expect("a configuration");
        let mut server = ServerConnection::new(config).expect("a server");
        server.writer().write_all(b"s").expect("room");
        client.writer().write_all(b"c").expect("room");
        for _ in 0..8 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).expect("room");
            }
            feed(&bytes, |rest| server.read_tls(rest));
            server.process_new_packets().expect("a good client");
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).expect("room");
            }
            feed(&bytes, |rest| client.read_tls(rest));
            client.process_new_packets().expect("a good server");
        }
        let mut byte = [0];
        server.reader().read_exact(&mut byte).expect("a byte");
        client.reader().read_exact(&mut byte).expect("a byte");
        let kind = server.handshake_kind().expect("a handshake");
        assert_eq!(client.handshake_kind(), Some(kind));
        kind
    }
}

fn feed(mut bytes: &[u8], mut read: impl FnMut(&mut dyn Read) -> std::io::Result<usize>) {
    while !bytes.is_empty() {
        read(&mut bytes).expect("room");
    }
}

#[test]
fn a_session_is_resumed_with_the_same_host_and_authority_only() {
    for version in [&TLS13, &TLS12] {
        let interceptor = Interceptor::new().expect("an interceptor");
        let (first, root) = authority();
        interceptor.set_authority(first);
        let (second, other_root) = authority();
        let client = Client::new(&[root, other_root], version);
        let connects = |host| client.connects(&interceptor, host);

        // One that sends its name, and one that has none to send.
        for (host, other) in [("a.test", "b.test"), ("192.0.2.1", "192.0.2.2")] {
            assert_eq!(connects(host), HandshakeKind::Full, "{version:?}");
            assert_eq!(connects(host), HandshakeKind::Resumed, "{version:?}");
            assert_eq!(connects(other), HandshakeKind::Full, "{version:?}");
        }
        let resumable = HandshakeKind::Resumed;
        assert_eq!(connects("192.0.2.2"), resumable, "{version:?}");
        assert_eq!(connects("b.test"), HandshakeKind::Full, "{version:?}");
        assert_eq!(connects("b.test"), resumable, "{version:?}");
        interceptor.set_authority(second);
        assert_eq!(connects("b.test"), HandshakeKind::Full, "{version:?}");
        assert_eq!(connects("b.test"), resumable, "{version:?}");
    }
}

#[test]
fn an_authority_vouches_for_its_own_hosts_until_another_one_signs() {
    let interceptor = Interceptor::new().expect("an interceptor");
    assert!(!interceptor.vouches_for("a.test"), "nobody signs");
    interceptor.set_authority(authority().0);
    for host in HOSTS {
        assert!(interceptor.vouches_for(host), "{host}");
    }
    assert!(!interceptor.vouches_for("c.test"));
    let key = AuthorityKey::generate().expect("a key");
    let (_, root) = authority();
    // Whatever it says: the controller that signed it has named the hosts.
    let other = key.certified(root.to_vec(), ["c.test".to_owned()].into());
    interceptor.set_authority(other.expect("an authority"));
    assert!(interceptor.vouches_for("c.test") && !interceptor.vouches_for("a.test"));
}

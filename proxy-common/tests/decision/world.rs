//! Maps and callers in plain memory.

use std::{cell::RefCell, collections::HashMap};

use proxy_common::{
    decision::{Callers, Decision, Dial, Facts, Transport, decide},
    maps::{
        CREDENTIAL_USABLE, Config, Credential, Destination, DestinationKey, HostnameKey, Learned,
        LearnedKey, MAX_LEVELS, NAMES_PER_ADDRESS, WHOLE_HOST, Workload,
    },
};

pub(crate) const POLICY: u32 = 7;
pub(crate) const CONNECTOR: u32 = 3;
pub(crate) const CGROUP: u64 = 4711;
pub(crate) const LEVEL: u8 = 2;
pub(crate) const PORT: u16 = 443;
/// All that are wanted where something is.
pub(crate) const PORTS: [u16; 2] = [80, PORT];
pub(crate) const LISTENER_V4: u16 = 40_004;
pub(crate) const LISTENER_V6: u16 = 40_006;
/// 192.0.2.1 and `2001:db8::1`.
pub(crate) const V4: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
pub(crate) const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const NOW: u64 = 1_000_000;

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) config: Option<Config>,
    /// The caller's cgroup at each level, from the root on.
    pub(crate) cgroups: Vec<u64>,
    pub(crate) workloads: HashMap<u64, Workload>,
    pub(crate) destinations: HashMap<DestinationKey, Destination>,
    pub(crate) hostnames: HashMap<HostnameKey, Destination>,
    pub(crate) learned: HashMap<LearnedKey, Learned>,
    pub(crate) credentials: HashMap<u32, Credential>,
    pub(crate) bound_to_device: bool,
    /// What a decision marked as dialled.
    pub(crate) dialled: RefCell<Vec<LearnedKey>>,
}

impl World {
    /// One in which TCP to [`PORT`] of [`V4`] and [`V6`] is redirected.
    pub(crate) fn new() -> Self {
        let mut levels = [0; MAX_LEVELS];
        levels[0] = LEVEL;
        let workload = Workload {
            policy: POLICY,
            port_v4: LISTENER_V4,
            port_v6: LISTENER_V6,
            flags: 0,
            pad: 0,
        };
        let mut world = Self {
            config: Some(Config {
                heartbeat_ns: NOW - 10,
                grace_ns: 10,
                abi: proxy_common::maps::ABI,
                pad: 0,
                levels,
                owner: 0,
            }),
            cgroups: vec![1, 2, CGROUP, 9],
            workloads: HashMap::from([(CGROUP, workload)]),
            destinations: HashMap::new(),
            hostnames: HashMap::new(),
            learned: HashMap::new(),
            credentials: HashMap::new(),
            bound_to_device: false,
            dialled: RefCell::default(),
        };
        world.set_credential(CREDENTIAL_USABLE, 0);
        world.want(V4, CONNECTOR, 0);
        world.want(V6, CONNECTOR, 0);
        world
    }

    pub(crate) fn settings(&mut self) -> &mut Config {
        self.config.as_mut().expect("there is one")
    }

    pub(crate) fn entry(&mut self) -> &mut Workload {
        self.workloads.get_mut(&CGROUP).expect("there is one")
    }

    pub(crate) fn set_credential(&mut self, state: u32, not_after_ns: u64) {
        let credential = Credential {
            generation: 1,
            revision: 1,
            not_after_ns,
            state,
            flags: 0,
        };
        self.credentials.insert(CONNECTOR, credential);
    }

    pub(crate) fn want(&mut self, addr: [u8; 16], connector: u32, flags: u32) {
        for port in PORTS {
            self.want_port(addr, port, wanted(connector, flags));
        }
    }

    pub(crate) fn want_port(&mut self, addr: [u8; 16], port: u16, destination: Destination) {
        let key = DestinationKey {
            policy: POLICY,
            addr,
            port,
            pad: 0,
        };
        self.destinations.insert(key, destination);
    }

    /// The workload was told the address for these names, of which [`PORTS`] are wanted.
    pub(crate) fn told(&mut self, addr: [u8; 16], names: &[(u64, Destination)]) {
        let mut learned = Learned {
            names: [0; NAMES_PER_ADDRESS],
            seen_ns: 0,
        };
        for (place, (name, destination)) in learned.names.iter_mut().zip(names) {
            *place = *name;
            for port in PORTS.into_iter().chain([WHOLE_HOST]) {
                let key = HostnameKey {
                    name: *name,
                    policy: POLICY,
                    port,
                    pad: 0,
                };
                self.hostnames.insert(key, *destination);
            }
        }
        let key = LearnedKey {
            workload: CGROUP,
            addr,
        };
        self.learned.insert(key, learned);
    }

    pub(crate) fn tcp(&self, addr: [u8; 16], port: u16) -> Decision {
        self.decide(addr, port, Transport::Tcp)
    }

    pub(crate) fn udp(&self, addr: [u8; 16], port: u16) -> Decision {
        self.decide(addr, port, Transport::Udp)
    }

    fn decide(&self, addr: [u8; 16], port: u16, transport: Transport) -> Decision {
        decide(
            self,
            &Dial {
                addr,
                port,
                transport,
            },
        )
    }
}

/// What is wanted of a port of an address or host.
pub(crate) fn wanted(connector: u32, flags: u32) -> Destination {
    Destination { connector, flags }
}

impl Callers for World {
    fn ancestor(&self, level: u8) -> u64 {
        self.cgroups
            .get(usize::from(level))
            .copied()
            .unwrap_or_default()
    }

    fn workload(&self, cgroup_id: u64) -> Option<Workload> {
        self.workloads.get(&cgroup_id).copied()
    }
}

impl Facts for World {
    type Learned = LearnedKey;

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn destination(&self, key: DestinationKey) -> Option<Destination> {
        self.destinations.get(&key).copied()
    }

    fn hostname(&self, key: HostnameKey) -> Option<Destination> {
        self.hostnames.get(&key).copied()
    }

    fn learned(&self, key: LearnedKey) -> Option<LearnedKey> {
        self.learned.contains_key(&key).then_some(key)
    }

    fn names(&self, learned: LearnedKey) -> [u64; NAMES_PER_ADDRESS] {
        self.learned[&learned].names
    }

    fn dialled(&self, learned: LearnedKey) {
        self.dialled.borrow_mut().push(learned);
    }

    fn credential(&self, connector: u32) -> Option<Credential> {
        self.credentials.get(&connector).copied()
    }

    fn is_bound_to_device(&self) -> bool {
        self.bound_to_device
    }

    fn monotonic_ns(&self) -> u64 {
        NOW
    }

    fn boot_ns(&self) -> u64 {
        NOW
    }
}

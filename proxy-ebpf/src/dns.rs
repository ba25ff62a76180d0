//! Learns from a workload's own DNS answers which addresses it takes for a Connector's.
//!
//! Only answers over UDP from port 53 are seen, of servers that the socket [asked](crate::asked):
//! what comes over TCP or encrypted, or from a resolver that the packet shows with another port or
//! address, is left to the addresses that the agent resolves. IPv6 extension headers are not looked
//! behind; no resolver sends them.

use core::hint::black_box;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use proxy_common::{
    decision::{Caller, Callers, caller},
    dns::{Bytes, STEPS, Step, Walk, is_of_host},
    maps::{
        HostnameKey, Learned, LearnedKey, NAMES_PER_ADDRESS, WHOLE_HOST, Workload, WorkloadKey,
    },
};

use crate::{
    addr::Addr,
    asked::has_asked,
    facts,
    maps::{BUDGETS, CONFIG, DNS_SCRATCH, HOSTNAMES, LEARNED, atomic_add, count},
};

const EEXIST: i32 = -17;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;
const IPV6_HEADER: u32 = 40;
/// Places of the source address in the two.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
const UDP_HEADER: u32 = 8;
const DNS_HEADER: u32 = 12;
/// What is surely in one piece: the rest of a packet may be in pages that are not mapped here.
const IPV4_HEADER: usize = 20;

/// What is kept of a message, at most: a power of two, larger than what resolvers send over
/// UDP. What is behind is as if it were cut.
const SIZE: usize = 2048;
/// Longest piece that is loaded at once.
const PIECE: usize = 16;
/// Addresses taken from one answer.
const ADDRESSES: usize = 32;

/// Room for one answer: too large for the stack.
#[repr(C)]
pub(crate) struct Scratch {
    message: [u8; SIZE + PIECE],
    length: usize,
    walk: Walk,
    name: u64,
    addresses: [[u8; 16]; ADDRESSES],
    found: usize,
}

/// Lets every packet pass.
#[cgroup_skb(ingress)]
pub(crate) fn dns_ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    if let Some(answer) = answer(skb) {
        learn(skb, &answer);
    }
    1
}

/// A packet that comes from a resolver.
struct Answer {
    /// Whether it is one of IPv4.
    is_v4: bool,
    /// Where the UDP payload starts.
    payload: u32,
}

/// Packets of open TCP connections come here as well, so the first look is cheap.
#[inline(always)]
fn answer(skb: *mut __sk_buff) -> Option<Answer> {
    // SAFETY: reads of the packet's first bytes, behind the check that they are there.
    let (first, v4_protocol, v6_protocol) = unsafe {
        let data = (*skb).data as usize;
        let end = (*skb).data_end as usize;
        if data + IPV4_HEADER > end {
            return None;
        }
        let data = data as *const u8;
        (*data, *data.add(9), *data.add(6))
    };
    let udp = match (first >> 4, v4_protocol, v6_protocol) {
        (4, UDP, _) => u32::from(first & 0x0f) * 4,
        (6, _, UDP) => IPV6_HEADER,
        _ => return None,
    };
    let mut port = [0u8; 2];
    // SAFETY: the helper fills `port`, or fails.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), udp, port.as_mut_ptr().cast(), 2) };
    (failed == 0 && u16::from_be_bytes(port) == DNS_PORT).then_some(Answer {
        is_v4: first >> 4 == 4,
        payload: udp + UDP_HEADER,
    })
}

/// The source address of a packet.
#[inline(always)]
fn source(skb: *mut __sk_buff, is_v4: bool) -> Option<Addr> {
    let mut words = [0u32; 4];
    let (at, size) = if is_v4 {
        (IPV4_SOURCE, 4)
    } else {
        (IPV6_SOURCE, 16)
    };
    // SAFETY: `words` has room for what the helper loads, or it fails.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), at, words.as_mut_ptr().cast(), size) };
    let [first, ..] = words;
    (failed == 0).then_some(if is_v4 { Addr::v4(first) } else { Addr(words) })
}

/// The socket that a packet is for.
struct Receiver(*mut __sk_buff);

impl Callers for Receiver {
    #[inline(always)]
    fn ancestor(&self, level: u8) -> u64 {
        // SAFETY: takes no more than the context and a number.
        unsafe { bpf_skb_ancestor_cgroup_id(self.0, i32::from(level)) }
    }

    #[inline(always)]
    fn workload(&self, cgroup_id: u64) -> Option<Workload> {
        facts::workload(cgroup_id)
    }
}

#[inline(always)]
fn learn(skb: *mut __sk_buff, answer: &Answer) {
    let Some(config) = CONFIG.get(0) else { return };
    let Some(Caller {
        cgroup_id,
        workload,
        ..
    }) = caller(&Receiver(skb), config)
    else {
        return;
    };
    count!(dns_answers);
    if !source(skb, answer.is_v4).is_some_and(|server| has_asked(skb, server)) {
        count!(dns_unasked);
        return;
    }
    if !start(skb, answer.payload) || dns_asks(u64::from(workload.policy)) == 0 {
        count!(dns_ignored);
        return;
    }
    dns_read();
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    dns_learn(cgroup_id, now);
}

/// Nobody holds on to it while [`dns_step`] is called, which gets it as well.
#[inline(always)]
fn scratch<'a>() -> Option<&'a mut Scratch> {
    let scratch = DNS_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the slot of this CPU. Packets are handled one at a time on it; even if not, the
    // worst is an address that this workload was not told.
    Some(unsafe { &mut *scratch })
}

/// Takes the message into the scratch; whether there is one.
#[inline(always)]
fn start(skb: *mut __sk_buff, payload: u32) -> bool {
    let Some(scratch) = scratch() else {
        return false;
    };
    let Some(length) = load(skb, payload, &mut scratch.message) else {
        return false;
    };
    scratch.length = length;
    scratch.found = 0;
    true
}

const END: u64 = 0;
const MORE: u64 = 1;
const QUESTION: u64 = 2;

// Functions that the verifier looks at by themselves: they are global, and take and return
// nothing but numbers. What is followed in one is not followed anew for each way that leads to it,
// and what one needs of the stack is not added to what another does. Inlined into each other they
// were beyond a million instructions on some kernels, and with some choices of the compiler beyond
// the stack.

/// Whether the message is about a Connector's host.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_asks(policy: u64) -> u64 {
    if !begin() {
        return 0;
    }
    for _ in 0..STEPS {
        match dns_step() {
            MORE => {}
            QUESTION => {
                let Some(scratch) = scratch() else {
                    return 0;
                };
                let key = HostnameKey {
                    name: scratch.name,
                    policy: policy as u32,
                    port: WHOLE_HOST,
                    pad: 0,
                };
                // SAFETY: only whether it is there counts.
                return u64::from(unsafe { HOSTNAMES.get(key) }.is_some());
            }
            _ => break,
        }
    }
    0
}

/// Gets ready to read the message; whether there is something to read.
#[inline(always)]
fn begin() -> bool {
    let Some(scratch) = scratch() else {
        return false;
    };
    let message = Message {
        bytes: &scratch.message,
        length: scratch.length,
    };
    let Some(walk) = Walk::new(&message) else {
        return false;
    };
    scratch.walk = walk;
    true
}

/// The rest of the message.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_read() -> u64 {
    for _ in 0..STEPS {
        if dns_step() == END {
            break;
        }
    }
    0
}

/// One step over the message in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_step() -> u64 {
    let Some(scratch) = scratch() else {
        return END;
    };
    let message = Message {
        bytes: &scratch.message,
        length: scratch.length,
    };
    match scratch.walk.step(&message) {
        Step::End => END,
        Step::More => MORE,
        Step::Question(name) => {
            scratch.name = name;
            QUESTION
        }
        Step::Address(address) => {
            let place = black_box(scratch.found) & (ADDRESSES - 1);
            // SAFETY: masked to be below the length, which is a power of two.
            unsafe { *scratch.addresses.get_unchecked_mut(place) = address };
            scratch.found += 1;
            MORE
        }
    }
}

/// Loads the message; its length, or `None` if it is none.
#[inline(always)]
fn load(skb: *mut __sk_buff, payload: u32, message: &mut [u8; SIZE + PIECE]) -> Option<usize> {
    const MASK: u32 = SIZE as u32 - 1;
    // SAFETY: a read of a context field.
    let rest = unsafe { (*skb).len }.saturating_sub(payload);
    // The verifier has to see the bounds of just the value that goes to the helper: without
    // the black box the compiler merges minimum, mask and check, and some kernels refuse it.
    let length = black_box(if rest > MASK { MASK } else { rest }) & MASK;
    if length < DNS_HEADER {
        return None;
    }
    // SAFETY: `length` is below the size of `message`.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), payload, message.as_mut_ptr().cast(), length) };
    (failed == 0).then_some(length as usize)
}

/// A message whose first bytes are in the scratch.
struct Message<'a> {
    bytes: &'a [u8; SIZE + PIECE],
    length: usize,
}

impl Bytes for Message<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        const { assert!(N <= PIECE) }
        // The black box keeps mask and check apart; with the mask, all places look alike to
        // the verifier, which lets it skip what it has seen.
        let at = black_box(at);
        if at + N > self.length {
            return None;
        }
        let at = at & (SIZE - 1);
        // SAFETY: a masked place and a piece are within the array.
        Some(unsafe { self.bytes.as_ptr().add(at).cast::<[u8; N]>().read() })
    }
}

/// Learns the addresses in the scratch that can be a host's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_learn(workload: u64, now: u64) -> u64 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    for (place, addr) in scratch.addresses.iter().enumerate() {
        if place >= scratch.found {
            break;
        }
        if is_of_host(addr) {
            let addr = *addr;
            remember(&LearnedKey { workload, addr }, scratch.name, now);
        }
    }
    0
}

#[inline(always)]
fn remember(key: &LearnedKey, name: u64, now: u64) {
    if let Some(learned) = LEARNED.get_ptr_mut(key) {
        // SAFETY: an entry of this workload. Two CPUs that write it at the same time may lose
        // a name of several, until it is told again.
        unsafe {
            (*learned).seen_ns = now;
            add_name(&mut (*learned).names, name);
        }
        return;
    }
    let Some(budget) = BUDGETS.get_ptr_mut(WorkloadKey {
        cgroup_id: key.workload,
    }) else {
        return;
    };
    // SAFETY: an entry, which the kernel keeps while the program runs.
    let (used, limit) = unsafe { (&raw mut (*budget).used, (*budget).limit) };
    // SAFETY: as above; other CPUs write it.
    if unsafe { used.read_volatile() } >= limit {
        count!(learned_full);
        return;
    }
    let mut names = [0; NAMES_PER_ADDRESS];
    names[0] = name;
    let learned = Learned {
        names,
        seen_ns: now,
    };
    match LEARNED.insert(key, learned, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            // SAFETY: as above, and aligned.
            unsafe { atomic_add(used.cast(), 1) };
            count!(learned);
        }
        // Another CPU was faster, and counts.
        Err(EEXIST) => {}
        Err(_) => count!(learned_full),
    }
}

/// Puts a name in front, in an empty place or in that of the oldest.
#[inline(always)]
fn add_name(names: &mut [u64; NAMES_PER_ADDRESS], name: u64) {
    let [a, b, c, d] = *names;
    if a != name && b != name && c != name && d != name {
        *names = [name, a, b, c];
    }
}

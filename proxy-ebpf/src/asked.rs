//! Which name servers a socket asked: nobody else teaches its workload addresses.

use core::{
    mem::{offset_of, size_of},
    ptr::{NonNull, from_ref, null_mut, read_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get},
    programs::SockAddrContext,
};
use proxy_common::{
    decision::caller,
    maps::{Asked, SERVERS_PER_SOCKET},
};

use crate::{
    addr::Addr,
    facts::Call,
    maps::{ASKED, CONFIG},
};

/// Keeps with the socket of a workload that it asks a server. Without memory for it the answer
/// teaches nothing.
#[inline(always)]
pub(crate) fn note(ctx: *mut bpf_sock_addr, server: Addr) {
    let Some(config) = CONFIG.get(0) else { return };
    if caller(&Call(ctx), config).is_none() {
        return;
    }
    let mut nobody = Asked {
        servers: [[0; 16]; SERVERS_PER_SOCKET],
    };
    let ctx = SockAddrContext::new(ctx);
    // SAFETY: the context's own socket; `nobody` is initialised to the last byte.
    let asked = unsafe { ASKED.get_or_insert_ptr_mut(&ctx, Some(&mut nobody)) };
    let Some(asked) = NonNull::new(asked) else {
        return;
    };
    if is_among(asked, server) {
        return;
    }
    // SAFETY: the storage of this socket. Two CPUs that write it at the same time may lose a
    // server, until it is asked again.
    unsafe {
        let [a, b, c, _] = (*asked.as_ptr()).servers;
        (*asked.as_ptr()).servers = [server.bytes(), a, b, c];
    }
}

/// Whether the socket that a packet is for asked the server that it comes from.
#[inline(always)]
pub(crate) fn has_asked(skb: *mut __sk_buff, server: Addr) -> bool {
    // SAFETY: a read of a context field.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return false;
    }
    // SAFETY: a socket of the context that is not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return false;
    }
    is_connected(sk) || {
        // SAFETY: a full socket; without the create flag the helper only looks up.
        let asked = unsafe {
            bpf_sk_storage_get(from_ref(&ASKED).cast_mut().cast(), sk.cast(), null_mut(), 0)
        };
        NonNull::new(asked.cast()).is_some_and(|asked| is_among(asked, server))
    }
}

/// The kernel hands a connected socket nothing but what its peer sends.
#[inline(always)]
fn is_connected(sk: *mut bpf_sock) -> bool {
    const { assert!(offset_of!(bpf_sock, dst_port).is_multiple_of(size_of::<u32>())) }
    let word = offset_of!(bpf_sock, dst_port) / size_of::<u32>();
    // SAFETY: a read of a socket's field. All kernels take one of four bytes, as wide as the field
    // was before 5.18, and before that no other; where it has two, the others are zero.
    unsafe { read_volatile(sk.cast::<u32>().add(word)) != 0 }
}

/// Compares where the servers are: copies of all of them would be a fifth of the stack.
#[expect(
    clippy::cast_ptr_alignment,
    reason = "the kernel aligns what is stored with a socket to eight bytes"
)]
#[inline(always)]
fn is_among(asked: NonNull<Asked>, server: Addr) -> bool {
    const { assert!(size_of::<Asked>() == SERVERS_PER_SOCKET * size_of::<Addr>()) }
    let [a, b, c, d] = server.0;
    let words = asked.as_ptr().cast::<u32>();
    for place in 0..SERVERS_PER_SOCKET {
        // SAFETY: the storage of a socket, which the kernel keeps while the program runs, aligned
        // for its words; the place is one of its servers.
        let found = unsafe {
            let words = words.add(place * 4);
            words.read_volatile() == a
                && words.add(1).read_volatile() == b
                && words.add(2).read_volatile() == c
                && words.add(3).read_volatile() == d
        };
        if found {
            return true;
        }
    }
    false
}

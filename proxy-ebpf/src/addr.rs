//! Addresses as the hooks see them: four words in network order, which the maps hold as
//! sixteen bytes.

/// Third word of `::ffff:0:0/96`.
const MAPPED: u32 = 0xffffu32.to_be();

/// An IPv6 address, or an IPv4 one in its v4-mapped form.
#[derive(Clone, Copy)]
pub(crate) struct Addr(pub(crate) [u32; 4]);

impl Addr {
    #[inline(always)]
    pub(crate) fn v4(ip: u32) -> Self {
        Self([0, 0, MAPPED, ip])
    }

    #[inline(always)]
    pub(crate) fn is_v4(self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && c == MAPPED
    }

    /// Whether a listener may be there: `127.0.0.1` or `::1`.
    #[inline(always)]
    pub(crate) fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.0;
        let v4 = c == MAPPED && d == u32::from_ne_bytes([127, 0, 0, 1]);
        let v6 = c == 0 && d == 1u32.to_be();
        a == 0 && b == 0 && (v4 || v6)
    }

    #[inline(always)]
    pub(crate) fn bytes(self) -> [u8; 16] {
        // SAFETY: same size, and any bit pattern is valid for bytes.
        unsafe { core::mem::transmute(self.0) }
    }

    #[inline(always)]
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        // SAFETY: same size, and any bit pattern is valid for integers.
        Self(unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(bytes) })
    }
}

//! Why something is decided, what that means, and where it is counted.

use super::Transport;
use crate::maps::Stats;

/// What happens to a connection or a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it wants to.
    LeaveAlone,
    /// It goes to the workload's listener.
    Redirect,
    /// The caller gets ECONNREFUSED, or EPERM from kernels before 5.18.
    Refuse,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The caller is no workload.
    NotEnrolled,
    /// A question to a name server.
    Dns,
    /// No Connector of the policy wants the address or port.
    Unwanted,
    /// It is the workload's listener already.
    Listener,
    /// The Connector is switched off.
    SwitchedOff,
    /// The workload is not served yet, and all Connectors there fail open.
    PendingOpen,
    /// Postern does not answer, and all Connectors there fail open.
    StaleOpen,
    /// The workload is not served yet.
    Pending,
    /// The Connector's credential is not known.
    CredentialUnknown,
    /// The credential is known to be bad or gone.
    CredentialRefused,
    /// The credential's time is over.
    CredentialExpired,
    /// Postern does not answer.
    Stale,
    /// It is UDP, such as QUIC; Postern speaks TCP.
    Udp,
    /// There is no listener for the address family.
    NoListener,
    /// The socket is bound to a network device, from which the listener cannot be reached.
    BoundToDevice,
    /// No memory to remember where the socket wanted to go. The kernel alone finds that, after
    /// the decision.
    NoMemory,
    /// It is wanted, and nothing is in the way.
    Redirected,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::NotEnrolled,
        Self::Dns,
        Self::Unwanted,
        Self::Listener,
        Self::SwitchedOff,
        Self::PendingOpen,
        Self::StaleOpen,
        Self::Pending,
        Self::CredentialUnknown,
        Self::CredentialRefused,
        Self::CredentialExpired,
        Self::Stale,
        Self::Udp,
        Self::NoListener,
        Self::BoundToDevice,
        Self::NoMemory,
        Self::Redirected,
    ];

    /// What follows.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::NotEnrolled
            | Self::Dns
            | Self::Unwanted
            | Self::Listener
            | Self::SwitchedOff
            | Self::PendingOpen
            | Self::StaleOpen => Verdict::LeaveAlone,
            Self::Pending
            | Self::CredentialUnknown
            | Self::CredentialRefused
            | Self::CredentialExpired
            | Self::Stale
            | Self::Udp
            | Self::NoListener
            | Self::BoundToDevice
            | Self::NoMemory => Verdict::Refuse,
            Self::Redirected => Verdict::Redirect,
        }
    }
}

impl Stats {
    /// Counts a decision. Of UDP only what is refused is counted: unlike connections, datagrams
    /// are too many for more.
    #[inline(always)]
    pub const fn count(&mut self, transport: Transport, reason: Reason) {
        if matches!(reason, Reason::Udp) {
            self.refused_udp = self.refused_udp.wrapping_add(1);
            return;
        }
        if matches!(transport, Transport::Udp) {
            return;
        }
        let counter = match reason {
            Reason::NotEnrolled | Reason::Dns | Reason::Udp => return,
            Reason::Unwanted | Reason::Listener => &mut self.untouched,
            Reason::SwitchedOff | Reason::PendingOpen | Reason::StaleOpen => &mut self.bypassed,
            Reason::Pending => &mut self.refused_pending,
            Reason::CredentialUnknown | Reason::CredentialRefused | Reason::CredentialExpired => {
                &mut self.refused_cred
            }
            Reason::Stale => &mut self.refused_stale,
            Reason::NoListener | Reason::BoundToDevice => &mut self.refused_sock,
            Reason::NoMemory => &mut self.refused_mem,
            Reason::Redirected => &mut self.redirected,
        };
        *counter = counter.wrapping_add(1);
        self.connects = self.connects.wrapping_add(1);
    }
}

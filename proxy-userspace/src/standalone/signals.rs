//! Signals that Postern gets and that are meant for its command.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use anyhow::{Context, Result};
use nix::{
    libc,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        signalfd::{SfdFlags, SignalFd},
    },
};
use tokio::io::unix::AsyncFd;

/// Passed on to the command.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The signals of this process, taken from a descriptor instead of by handlers: only so is it
/// known who sent them.
pub(super) struct Signals(AsyncFd<Source>);

struct Source(SignalFd);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Signals {
    /// From here on the signals wait to be taken. To be called before there are other
    /// threads, which inherit that; programs that are started get their signals as ever.
    pub(super) fn listen() -> Result<Self> {
        restore_sigchld().context("cannot handle SIGCHLD")?;
        let ignored = ignored_signals();
        let mut mask = SigSet::empty();
        for signal in PASSED_ON {
            // What nohup(1) or a shell in the background had ignored stays ignored, by the
            // command as well.
            if ignored & (1 << (signal as i32 - 1)) == 0 {
                mask.add(signal);
            }
        }
        mask.thread_block().context("cannot hold signals back")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let source = SignalFd::with_flags(&mask, flags).context("cannot receive signals")?;
        Ok(Self(
            register(Source(source)).context("cannot receive signals")?,
        ))
    }

    /// The next signal that the command does not get anyway. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Result<Signal> {
        loop {
            let mut ready = self.0.readable().await?;
            while let Some(info) = self.0.get_ref().0.read_signal()? {
                // A terminal sends its signals to the whole foreground group: twice would
                // mean something else to many programs.
                if info.ssi_code == libc::SI_KERNEL {
                    continue;
                }
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                if let Ok(signal) = Signal::try_from(number) {
                    return Ok(signal);
                }
            }
            ready.clear_ready();
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for it with every descriptor")]
fn register(source: Source) -> io::Result<AsyncFd<Source>> {
    // SAFETY: `Source` owns its descriptor, and nothing replaces or closes it while the
    // `AsyncFd` owns the `Source`.
    Ok(unsafe { AsyncFd::register(source) }?)
}

/// A parent that ignores SIGCHLD hands that down, and with it the kernel forgets how children
/// ended.
#[expect(unsafe_code, reason = "dispositions belong to the whole process")]
fn restore_sigchld() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default disposition runs no code.
    unsafe { sigaction(Signal::SIGCHLD, &default) }.map(drop)
}

/// The signals that this process ignores, one bit each (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

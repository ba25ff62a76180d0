//! What this process may take of the machine.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process have as many open files as it may, since every connection takes two,
/// and returns how many it had before. That it may not have more is logged.
pub fn raise_open_files() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        tracing::warn!("cannot raise the limit of open files from {soft} to {hard}: {errno}");
    }
    Ok(soft)
}

//! Programs that stay attached when this process goes, in the place of those that an earlier
//! agent attached.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use nix::errno::Errno;

use super::{
    DatapathError, Pins,
    load::{self, Hook},
    sys,
};

/// What was done about one hook.
enum Change {
    /// A link that was there runs another program.
    Updated {
        link: OwnedFd,
        path: PathBuf,
        before: OwnedFd,
    },
    /// A new link is pinned at `new`, and is to take the place of whatever is at `path`.
    Attached { new: PathBuf, path: PathBuf },
}

/// Attaches programs to the cgroup with an id, one link for each; after an error everything is
/// as it was, but for [`DatapathError::Settle`]: all programs are attached then.
///
/// A link that is there goes on with the new program: each call runs either the old one or the
/// new one. Which of the hooks have the new one already does not matter, because old and new
/// programs share their maps.
pub(super) fn attach_pinned(
    ebpf: &mut Ebpf,
    programs: &[Hook],
    cgroup: BorrowedFd<'_>,
    id: u64,
    pins: &Pins,
) -> Result<(), DatapathError> {
    let mut changes = Vec::with_capacity(programs.len());
    for &hook in programs {
        match change(ebpf, hook, cgroup, id, pins) {
            Ok(change) => changes.push(change),
            Err(error) => {
                changes.into_iter().rev().for_each(Change::undo);
                return Err(error);
            }
        }
    }
    // What fails of one hook must not keep the others from their places.
    let settled = changes.into_iter().map(Change::settle);
    settled.fold(Ok(()), Result::and)
}

/// Finishes what an agent began that ended between attaching a program and giving its link the
/// name under which it is looked for: until then the program runs, and would run beside the next
/// one. A link that leads nowhere any more is removed.
pub(super) fn finish_begun(pins: &Pins) -> Result<(), DatapathError> {
    for (hook, id) in pins.begun_links()? {
        let (new, path) = (pins.new_link(&hook, id), pins.link(&hook, id));
        let attachment = sys::open(&new).and_then(|link| sys::attachment(link.as_fd()));
        let is_used = attachment.is_ok_and(|found| {
            found.is_some_and(|it| it.cgroup == id && Some(it.hook) == load::attach_type(&hook))
        });
        if is_used {
            tracing::info!(
                "an earlier agent did not finish attaching {}",
                path.display()
            );
            Change::Attached { new, path }.settle()?;
        } else if let Err(error) = fs::remove_file(&new) {
            // It does nothing there, but for being in the way of the next one.
            tracing::warn!(
                "cannot remove {}, which is of no use: {error}",
                new.display()
            );
        }
    }
    Ok(())
}

fn change(
    ebpf: &mut Ebpf,
    (name, since): Hook,
    cgroup: BorrowedFd<'_>,
    id: u64,
    pins: &Pins,
) -> Result<Change, DatapathError> {
    let program = load::program(ebpf, name)?;
    let path = pins.link(name, id);
    if let Some(updated) = update(program, name, &path, id)? {
        return Ok(updated);
    }
    let new = pins.new_link(name, id);
    // Of an attempt that was not finished.
    let _ = fs::remove_file(&new);
    let failed = |source: ProgramError| DatapathError::program(name, since, source);
    let link = load::link(program, name, cgroup, failed)?;
    link.pin(&new)
        .map_err(|error| DatapathError::pins("pin", &new)(io::Error::other(error)))?;
    Ok(Change::Attached { new, path })
}

/// Has a pinned link run a program; `None` if there is no link, or not one of this hook and
/// cgroup: one whose cgroup was removed leads nowhere.
fn update(
    program: &Program,
    name: &'static str,
    path: &Path,
    id: u64,
) -> Result<Option<Change>, DatapathError> {
    let unusable = |error: io::Error| DatapathError::pins("replace the program of", path)(error);
    let link = match sys::open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error)),
    };
    let hook = load::attach_type(name).ok_or(DatapathError::Object { name })?;
    let found = sys::attachment(link.as_fd()).map_err(unusable)?;
    let Some(found) = found.filter(|found| found.cgroup == id && found.hook == hook) else {
        return Ok(None);
    };
    let before = sys::program(found.program).map_err(unusable)?;
    let program = program
        .fd()
        .map_err(|_| DatapathError::Object { name })?
        .as_fd();
    match sys::update_link(link.as_fd(), program) {
        Ok(()) => Ok(Some(Change::Updated {
            link,
            path: path.to_path_buf(),
            before,
        })),
        // The cgroup was removed this moment, or something else has a link's name.
        Err(error) if is_any(&error, &[Errno::ENOLINK, Errno::EINVAL]) => Ok(None),
        Err(error) => Err(unusable(error)),
    }
}

impl Change {
    fn undo(self) {
        match self {
            Self::Updated { link, path, before } => {
                if let Err(error) = sys::update_link(link.as_fd(), before.as_fd()) {
                    let path = path.display();
                    tracing::error!("cannot put back the program of {path}: {error}");
                }
            }
            Self::Attached { new, .. } => {
                if let Err(error) = fs::remove_file(&new) {
                    tracing::error!("cannot remove {}: {error}", new.display());
                }
            }
        }
    }

    fn settle(self) -> Result<(), DatapathError> {
        match self {
            Self::Updated { .. } => Ok(()),
            // A link that loses its last name is detached.
            Self::Attached { new, path } => {
                fs::rename(new, &path).map_err(|source| DatapathError::Settle { path, source })
            }
        }
    }
}

fn is_any(error: &io::Error, errnos: &[Errno]) -> bool {
    let found = error.raw_os_error().map(Errno::from_raw);
    found.is_some_and(|found| errnos.contains(&found))
}

//! Brings the embedded object into the kernel.

use std::{io, os::fd::BorrowedFd};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapError},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Program, ProgramError,
        SockOps, links::FdLink,
    },
};

use super::{DatapathError, Features, Pins};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/postern.bpf.o"));

/// How often a program is given to a verifier that is interrupted.
const LOAD_ATTEMPTS: usize = 10;

/// A program, and since when kernels have its hook.
pub(super) type Hook = (&'static str, &'static str);

/// What a cgroup above all workloads gets.
pub(super) const PROGRAMS: [Hook; 5] = [
    ("connect4", "5.8"),
    ("connect6", "5.8"),
    ("flows", "5.8"),
    ("getpeername4", "5.8"),
    ("getpeername6", "5.8"),
];

/// What the cgroup of a workload gets: these run for each packet and each datagram, so not for
/// those of others.
pub(super) const OF_WORKLOAD: [Hook; 3] = [
    ("dns_ingress", "5.8"),
    ("sendmsg4", "5.8"),
    ("sendmsg6", "5.8"),
];

/// Where the kernel has a program run: `enum bpf_attach_type` of `linux/bpf.h`.
pub(super) fn attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "dns_ingress" => 0,
        "flows" => 3,
        "connect4" => 10,
        "connect6" => 11,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "getpeername4" => 29,
        "getpeername6" => 30,
        _ => return None,
    })
}

/// Creates the maps, or uses those that are pinned, and has every program verified.
///
/// Kernels before 5.11 count maps as locked memory, of which a process may have little. Where
/// that is in the way, aya raises the limit (`RLIMIT_MEMLOCK`), for which it needs the
/// capability `CAP_SYS_RESOURCE`.
pub(super) fn object(pins: Option<&Pins>, features: Features) -> Result<Ebpf, DatapathError> {
    let has_set_retval = u8::from(features.chosen_error);
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    for (name, path) in pins.into_iter().flat_map(Pins::maps) {
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.load(OBJECT).map_err(DatapathError::load)?;
    for (name, since) in PROGRAMS.into_iter().chain(OF_WORKLOAD) {
        let program = program(&mut ebpf, name)?;
        let loaded = verified(program).ok_or(DatapathError::Object { name })?;
        loaded.map_err(|source| DatapathError::program(name, since, source))?;
    }
    Ok(ebpf)
}

/// Has the kernel verify a program; `None` if it is of no kind that is known here.
///
/// The verifier gives up (EAGAIN) when the thread that waits for it gets a signal, which says
/// nothing about the program.
fn verified(program: &mut Program) -> Option<Result<(), ProgramError>> {
    let mut attempts = 0..LOAD_ATTEMPTS;
    loop {
        let loaded = match program {
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            _ => return None,
        };
        match loaded {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock && attempts.next().is_some() => {}
            loaded => return Some(loaded),
        }
    }
}

/// Attaches all programs; after an error some may be attached.
pub(super) fn attach(ebpf: &mut Ebpf, cgroup: BorrowedFd<'_>) -> Result<(), DatapathError> {
    // Flags 0 already means "beside the programs of others"; a link refuses ALLOW_MULTI.
    let mode = CgroupAttachMode::Single;
    for (name, since) in PROGRAMS {
        let failed = |source: ProgramError| DatapathError::program(name, since, source);
        match program(ebpf, name)? {
            Program::CgroupSockAddr(program) => {
                CgroupSockAddr::attach(program, cgroup, mode).map_err(failed)?;
            }
            Program::SockOps(program) => {
                SockOps::attach(program, cgroup, mode).map_err(failed)?;
            }
            _ => return Err(DatapathError::Object { name }),
        }
    }
    Ok(())
}

/// Attaches what the cgroup of a workload gets, for as long as the links are there.
pub(super) fn attach_to_workload(
    ebpf: &mut Ebpf,
    cgroup: BorrowedFd<'_>,
) -> Result<Vec<FdLink>, DatapathError> {
    let attach = |(name, since)| {
        let failed = |source: ProgramError| DatapathError::program(name, since, source);
        link(program(ebpf, name)?, name, cgroup, failed)
    };
    OF_WORKLOAD.into_iter().map(attach).collect()
}

/// Attaches one program and takes its link out of aya's hands.
pub(super) fn link(
    program: &mut Program,
    name: &'static str,
    cgroup: BorrowedFd<'_>,
    failed: impl Fn(ProgramError) -> DatapathError,
) -> Result<FdLink, DatapathError> {
    let mode = CgroupAttachMode::Single;
    // Kernels that have all the hooks have links as descriptors.
    let no_link = |_| DatapathError::Object { name };
    match program {
        Program::CgroupSockAddr(program) => {
            let id = CgroupSockAddr::attach(program, cgroup, mode).map_err(&failed)?;
            let link = program.take_link(id).map_err(failed)?;
            FdLink::try_from(link).map_err(no_link)
        }
        Program::SockOps(program) => {
            let id = SockOps::attach(program, cgroup, mode).map_err(&failed)?;
            let link = program.take_link(id).map_err(failed)?;
            FdLink::try_from(link).map_err(no_link)
        }
        Program::CgroupSkb(program) => {
            let hook = CgroupSkbAttachType::Ingress;
            let id = CgroupSkb::attach(program, cgroup, hook, mode).map_err(&failed)?;
            let link = program.take_link(id).map_err(failed)?;
            FdLink::try_from(link).map_err(no_link)
        }
        _ => Err(DatapathError::Object { name }),
    }
}

/// Removes all programs from wherever they are attached.
pub(super) fn detach(ebpf: &mut Ebpf) {
    for (_, program) in ebpf.programs_mut() {
        // Not loaded is as good as unloaded.
        let _ = match program {
            Program::CgroupSockAddr(program) => program.unload(),
            Program::SockOps(program) => program.unload(),
            _ => Ok(()),
        };
    }
}

/// Takes a map out of the object.
pub(super) fn map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    ebpf.take_map(name)
        .ok_or(DatapathError::Object { name })?
        .try_into()
        .map_err(|source| DatapathError::map(name, source))
}

pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Program, DatapathError> {
    ebpf.program_mut(name).ok_or(DatapathError::Object { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_place() {
        let mut places: Vec<_> = PROGRAMS
            .iter()
            .chain(&OF_WORKLOAD)
            .map(|(name, _)| attach_type(name).expect(name))
            .collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), PROGRAMS.len() + OF_WORKLOAD.len());
    }
}

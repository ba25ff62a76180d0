//! Brings the embedded object into the kernel.

use std::{fs, io, os::fd::BorrowedFd};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapError},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Program, ProgramError,
        ProgramType, SockOps, links::FdLink,
    },
    sys::{BpfHelper, is_helper_supported},
};

use super::{DatapathError, Pins};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/postern.bpf.o"));

/// A program, and since when kernels have its hook.
type Hook = (&'static str, &'static str);

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

/// Creates the maps, or uses those that are pinned, and has every program verified.
pub(super) fn object(pins: Option<&Pins>) -> Result<Ebpf, DatapathError> {
    // Kernels before 5.18 cannot choose the errno of a refused connect(); they say EPERM.
    let has_set_retval = u8::from(
        is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            .unwrap_or(false),
    );
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    for (name, path) in pins.into_iter().flat_map(Pins::maps) {
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.load(OBJECT).map_err(DatapathError::load)?;
    for (name, since) in PROGRAMS.into_iter().chain(OF_WORKLOAD) {
        let failed = |source| DatapathError::program(name, since, source);
        match program(&mut ebpf, name)? {
            Program::CgroupSkb(program) => program.load().map_err(failed)?,
            Program::CgroupSockAddr(program) => program.load().map_err(failed)?,
            Program::SockOps(program) => program.load().map_err(failed)?,
            _ => return Err(DatapathError::Object { name }),
        }
    }
    Ok(ebpf)
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

/// Attaches programs so that they stay when this process goes, in the place of those
/// that an earlier agent attached; after an error everything is as it was.
///
/// For a moment both are attached. They share their maps, and the later one leaves alone what
/// the earlier one has redirected: the listener is no Connector's address.
pub(super) fn attach_pinned(
    ebpf: &mut Ebpf,
    programs: &[Hook],
    cgroup: BorrowedFd<'_>,
    id: u64,
    pins: &Pins,
) -> Result<(), DatapathError> {
    let attached = programs.iter().try_for_each(|&(name, since)| {
        let path = pins.new_link(name, id);
        // Of an attempt that was not finished.
        let _ = fs::remove_file(&path);
        let failed = |source: ProgramError| DatapathError::program(name, since, source);
        let link = link(program(ebpf, name)?, name, cgroup, failed)?;
        link.pin(&path)
            .map_err(|error| DatapathError::pins("pin", &path)(io::Error::other(error)))?;
        Ok(())
    });
    if let Err(error) = attached {
        for (name, _) in programs {
            // Not made yet is as good as removed.
            let _ = fs::remove_file(pins.new_link(name, id));
        }
        return Err(error);
    }
    for (name, _) in programs {
        // Taking the place of the old link detaches it.
        let path = pins.link(name, id);
        fs::rename(pins.new_link(name, id), &path)
            .map_err(DatapathError::pins("replace", &path))?;
    }
    Ok(())
}

/// Attaches one program and takes its link out of aya's hands.
fn link(
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

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, DatapathError> {
    ebpf.program_mut(name).ok_or(DatapathError::Object { name })
}

//! Brings the embedded object into the kernel.

use std::os::fd::BorrowedFd;

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapError},
    programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError, ProgramType, SockOps},
    sys::{BpfHelper, is_helper_supported},
};

use super::DatapathError;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/postern.bpf.o"));

/// Every program, and since when kernels have its hook.
const PROGRAMS: [(&str, &str); 5] = [
    ("connect4", "5.8"),
    ("connect6", "5.8"),
    ("flows", "5.8"),
    ("getpeername4", "5.8"),
    ("getpeername6", "5.8"),
];

/// Creates the maps and has every program verified.
pub(super) fn object() -> Result<Ebpf, DatapathError> {
    // Kernels before 5.18 cannot choose the errno of a refused connect(); they say EPERM.
    let has_set_retval = u8::from(
        is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            .unwrap_or(false),
    );
    let mut ebpf = EbpfLoader::new()
        .override_global("HAS_SET_RETVAL", &has_set_retval, true)
        .load(OBJECT)
        .map_err(DatapathError::load)?;
    for (name, since) in PROGRAMS {
        let failed = |source| DatapathError::program(name, since, source);
        match program(&mut ebpf, name)? {
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

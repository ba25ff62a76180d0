//! bpf(2) for what aya has no call: the program of a link is replaced in place, and maps are
//! read and written whose layout is that of another version.
#![expect(
    unsafe_code,
    reason = "bpf(2) takes pointers and descriptors as numbers"
)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::maps::{MapData, MapError, MapType};
use nix::libc::{self, c_long};

/// Commands of bpf(2): `enum bpf_cmd` of `linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjectGet = 7,
    ProgramFromId = 13,
    ObjectInfo = 15,
    LinkUpdate = 29,
}

/// `BPF_LINK_TYPE_CGROUP`.
const CGROUP: u32 = 3;

/// Where a link has a program run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// Id of the program.
    pub(super) program: u32,
    /// Id of the cgroup; 0 once it is gone.
    pub(super) cgroup: u64,
    /// One of `enum bpf_attach_type` of `linux/bpf.h`.
    pub(super) hook: u32,
}

/// Opens what is pinned at a path, of whatever kind.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attributes of BPF_OBJ_GET; the path ends with a zero byte and lives until
    // the call returns.
    unsafe { new_descriptor(Command::ObjectGet, &mut attr) }
}

/// The program with an id.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        flags: u32,
    }
    let mut attr = Attr {
        id,
        next_id: 0,
        flags: 0,
    };
    // SAFETY: the attributes of BPF_PROG_GET_FD_BY_ID, none of which is a pointer.
    unsafe { new_descriptor(Command::ProgramFromId, &mut attr) }
}

/// Where a link has its program run; `None` if that is not a cgroup.
pub(super) fn attachment(link: BorrowedFd<'_>) -> io::Result<Option<Attachment>> {
    /// The beginning of `struct bpf_link_info`, as a cgroup's link fills it in.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        cgroup: u64,
        hook: u32,
        end: u32,
    }
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attr = Attr {
        fd: number(link),
        length: u32::try_from(size_of::<Info>()).unwrap_or_default(),
        info: address(&raw mut info),
    };
    // SAFETY: the attributes of BPF_OBJ_GET_INFO_BY_FD. The kernel writes no more than `length`
    // bytes to `info`, whose fields take any value.
    unsafe { bpf(Command::ObjectInfo, &mut attr) }?;
    Ok((info.kind == CGROUP).then_some(Attachment {
        program: info.program,
        cgroup: info.cgroup,
        hook: info.hook,
    }))
}

/// Has a link run another program from now on: no call meets neither of them, or both.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        before: u32,
    }
    let mut attr = Attr {
        link: number(link),
        program: number(program),
        flags: 0,
        before: 0,
    };
    // SAFETY: the attributes of BPF_LINK_UPDATE, none of which is a pointer.
    unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
}

/// A map of which only the sizes of keys and values are known.
#[derive(Debug)]
pub(super) struct RawMap {
    data: MapData,
    key: usize,
    value: usize,
}

impl RawMap {
    /// Opens a pinned hash or array; `None` if the map is of another kind.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, MapError> {
        let data = MapData::from_pin(path)?;
        let info = data.info()?;
        // Values of other kinds have not the size that the kernel tells.
        let is_plain = matches!(info.map_type(), Ok(MapType::Hash | MapType::Array));
        let size = |n: u32| usize::try_from(n).unwrap_or_default();
        Ok(is_plain.then(|| Self {
            key: size(info.key_size()),
            value: size(info.value_size()),
            data,
        }))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.value];
        self.element(Command::MapLookup, Some(key), address(value.as_mut_ptr()))?;
        Ok(value)
    }

    /// Changes the value of a key.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.element(Command::MapUpdate, Some(key), address(value.as_ptr()))
    }

    /// Removes a key.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.element(Command::MapDelete, Some(key), 0)
    }

    /// The key after another one, or the first; `None` after the last.
    pub(super) fn next_key(&self, before: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut key = vec![0; self.key];
        let found = self.element(Command::MapNextKey, before, address(key.as_mut_ptr()));
        match found {
            Ok(()) => Ok(Some(key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One of the commands about an element. `result` is the address of a value to read or to
    /// write, or of room for a key, of the map's size; 0 if the command has none.
    fn element(&self, command: Command, key: Option<&[u8]>, result: u64) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            map: u32,
            pad: u32,
            key: u64,
            result: u64,
            flags: u64,
        }
        if key.is_some_and(|key| key.len() != self.key) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attr = Attr {
            map: number(self.data.fd().as_fd()),
            pad: 0,
            key: key.map_or(0, |key| address(key.as_ptr())),
            result,
            flags: 0,
        };
        // SAFETY: the attributes of the commands BPF_MAP_*_ELEM and BPF_MAP_GET_NEXT_KEY. The
        // key is as long as the map's keys are; the callers, all above, see to it that there
        // are as many bytes at `result` as the kernel reads or writes there.
        unsafe { bpf(command, &mut attr) }.map(drop)
    }
}

/// # Safety
///
/// As for [`bpf`], with a command that returns a descriptor.
unsafe fn new_descriptor<A>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
///
/// `attr` begins like the part of `union bpf_attr` that the command reads, and what its
/// pointers lead to is valid for what the command reads and writes there.
unsafe fn bpf<A>(command: Command, attr: &mut A) -> io::Result<c_long> {
    // SAFETY: `attr` is valid for its size; the rest is as the caller promises.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i32,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

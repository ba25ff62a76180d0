//! What a probe can do. Each step names a socket first; its answer is `ok`, what was asked
//! for, or the name of the error.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    str::FromStr,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{
        MsgFlags, MultiHeaders, SockaddrStorage, VsockAddr, sendmmsg, setsockopt,
        sockopt as nix_options,
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags,
        SocketType, bind, connect, connect_unspec, getpeername, getsockname, ipproto, listen, recv,
        recvmsg, sendmsg, sendto, shutdown, socket_with, sockopt,
    },
};

use super::{MARK, as_probe, uring};

/// Far more than anything here takes, on a slow machine as well.
const PATIENCE: Duration = Duration::from_mins(2);
/// Not in rustix (`linux/socket.h`).
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// Why a step has no answer.
enum Failure {
    /// The kernel refused it.
    Errno(Errno),
    /// It makes no sense.
    Nonsense(String),
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Errno(Errno::from_raw(errno.raw_os_error()))
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::Errno(Errno::from_raw(errno)),
            None => Self::Nonsense(error.to_string()),
        }
    }
}

type Answer = Result<String, Failure>;

fn nonsense<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Nonsense(what.into()))
}

fn done<E: Into<Failure>>(result: Result<(), E>) -> Answer {
    result.map(|()| "ok".into()).map_err(Into::into)
}

/// The sockets of a probe, by name.
#[derive(Default)]
pub(super) struct Steps {
    sockets: HashMap<String, OwnedFd>,
}

impl Steps {
    /// Takes one step.
    pub(super) fn take(&mut self, step: &str) -> String {
        match self.attempt(step) {
            Ok(answer) => answer,
            Err(Failure::Errno(errno)) => format!("{errno:?}"),
            Err(Failure::Nonsense(what)) => what,
        }
    }

    /// Takes steps that are separated by semicolons; the answers are as well.
    fn take_all(&mut self, steps: &str) -> String {
        let answers: Vec<_> = steps
            .split(';')
            .map(|step| self.take(step.trim()))
            .collect();
        answers.join("; ")
    }

    fn attempt(&mut self, step: &str) -> Answer {
        let words: Vec<_> = step.split_whitespace().collect();
        match words[..] {
            // Of processes and threads.
            ["join", cgroup] => {
                let file = format!("{cgroup}/cgroup.procs");
                done(fs::write(file, "0"))
            }
            ["join-thread", cgroup] => {
                let file = format!("{cgroup}/cgroup.threads");
                done(fs::write(file, "0"))
            }
            ["hide-cgroups"] => done(unshare(CloneFlags::CLONE_NEWCGROUP)),
            ["child", ref steps @ ..] => child(&steps.join(" "), None),
            ["heir", name, ref steps @ ..] => child(
                &steps.join(" "),
                Some(self.get(name)?.try_clone_to_owned()?),
            ),
            ["inherit", name] => {
                let inherited = io::stderr().as_fd().try_clone_to_owned()?;
                Ok(self.put(name, inherited))
            }
            ["thread", ref steps @ ..] => {
                let steps = steps.join(" ");
                thread::scope(|scope| scope.spawn(|| self.take_all(&steps)).join())
                    .or_else(|_| nonsense("the thread panicked"))
            }

            // Of sockets.
            ["socket", name, family, kind] => self.socket(name, family, kind, ""),
            ["socket", name, family, kind, protocol] => self.socket(name, family, kind, protocol),
            ["dup", name, other] => {
                let copy = self.get(name)?.try_clone_to_owned()?;
                Ok(self.put(other, copy))
            }
            ["close", name] => match self.sockets.remove(name) {
                Some(_) => Ok("ok".into()),
                None => nonsense(format!("no socket {name}")),
            },
            ["set", name, option] => set(self.get(name)?, option, ""),
            ["set", name, option, value] => set(self.get(name)?, option, value),
            ["bind", name, address] => match local(address) {
                Some(path) => done(bind(self.get(name)?, &path?)),
                None => done(bind(self.get(name)?, &parsed::<SocketAddr>(address)?)),
            },
            ["listen", name] => done(listen(self.get(name)?, 1)),
            ["connect", name, address] => match (local(address), address.split_once("cid:")) {
                (Some(path), _) => done(connect(self.get(name)?, &path?)),
                (None, Some((_, cid))) => {
                    let address = VsockAddr::new(parsed(cid)?, 80);
                    let fd = self.get(name)?.as_raw_fd();
                    done(nix::sys::socket::connect(fd, &address))
                }
                (None, None) => done(connect(self.get(name)?, &parsed::<SocketAddr>(address)?)),
            },
            ["unconnect", name] => done(connect_unspec(self.get(name)?)),
            ["uring", name, address] => {
                done(uring::connect(self.get(name)?, parsed(address)?, false))
            }
            ["uring-async", name, address] => {
                done(uring::connect(self.get(name)?, parsed(address)?, true))
            }
            ["wait", name] => wait(self.get(name)?),
            ["peer", name] => match getpeername(self.get(name)?)? {
                Some(address) => Ok(shown(address)),
                None => Ok("nobody".into()),
            },
            ["local", name] => Ok(shown(getsockname(self.get(name)?)?)),

            ["flood", address, connects] => self.flood(parsed(address)?, parsed(connects)?),

            // Of what is in them.
            ["send", name, text] => done(
                rustix::net::send(self.get(name)?, text.as_bytes(), SendFlags::NOSIGNAL).map(drop),
            ),
            ["sendto", name, address, text] => {
                self.sendto(name, address, text, SendFlags::NOSIGNAL)
            }
            ["sendmmsg", name, address, text] => self.sendmmsg(name, address, text),
            ["fastopen", name, address, text] => {
                let flags = SendFlags::NOSIGNAL | SendFlags::from_bits_retain(MSG_FASTOPEN);
                self.sendto(name, address, text, flags)
            }
            ["packet", name, address, ref hex @ ..] => {
                let address: SocketAddr = parsed(address)?;
                let bytes = bytes(&hex.concat())?;
                done(sendto(self.get(name)?, &bytes, SendFlags::empty(), &address).map(drop))
            }
            ["drain", name] => drain(self.get(name)?),
            ["exchange", name] => exchange(self.get(name)?),
            ["read", name] => read(self.get(name)?),
            ["half-close", name] => done(shutdown(self.get(name)?, Shutdown::Write)),
            ["pass", name, channel] => pass(self.get(name)?, self.get(channel)?),
            ["receive", name, channel] => {
                let received = receive(self.get(channel)?)?;
                Ok(self.put(name, received))
            }
            _ => nonsense(format!("no such step: {step}")),
        }
    }

    fn get(&self, name: &str) -> Result<BorrowedFd<'_>, Failure> {
        match self.sockets.get(name) {
            Some(socket) => Ok(socket.as_fd()),
            None => nonsense(format!("no socket {name}")),
        }
    }

    fn put(&mut self, name: &str, socket: OwnedFd) -> String {
        self.sockets.insert(name.into(), socket);
        "ok".into()
    }

    fn socket(&mut self, name: &str, family: &str, kind: &str, protocol: &str) -> Answer {
        let family = match family {
            "v4" => AddressFamily::INET,
            "v6" => AddressFamily::INET6,
            "unix" => AddressFamily::UNIX,
            "vsock" => AddressFamily::VSOCK,
            _ => return nonsense(format!("no family {family}")),
        };
        let kind = match kind {
            "stream" => SocketType::STREAM,
            "dgram" => SocketType::DGRAM,
            "raw" => SocketType::RAW,
            _ => return nonsense(format!("no type {kind}")),
        };
        let protocol = match protocol {
            "" => None,
            "mptcp" => Some(ipproto::MPTCP),
            "sctp" => Some(ipproto::SCTP),
            "udplite" => Some(ipproto::UDPLITE),
            "icmp" => Some(ipproto::ICMP),
            "udp" => Some(ipproto::UDP),
            // With their headers.
            "packets" => Some(ipproto::RAW),
            _ => return nonsense(format!("no protocol {protocol}")),
        };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
        // A socket that hangs shall be an answer as well: EINPROGRESS or EAGAIN.
        for which in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, which, Some(PATIENCE))?;
        }
        Ok(self.put(name, socket))
    }

    /// Begins connections and neither waits for them nor closes them.
    fn flood(&mut self, address: SocketAddr, connects: usize) -> Answer {
        for n in 0..connects {
            let name = format!("flood-{n}");
            self.socket(&name, "v4", "stream", "")?;
            let socket = self.get(&name)?;
            ioctl_fionbio(socket, true)?;
            match connect(socket, &address) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok("ok".into())
    }

    fn sendto(&self, name: &str, address: &str, text: &str, flags: SendFlags) -> Answer {
        let address: SocketAddr = parsed(address)?;
        done(sendto(self.get(name)?, text.as_bytes(), flags, &address).map(drop))
    }

    /// Two datagrams with one call; how many of them went out.
    fn sendmmsg(&self, name: &str, address: &str, text: &str) -> Answer {
        let address = SockaddrStorage::from(parsed::<SocketAddr>(address)?);
        let data = [[IoSlice::new(text.as_bytes())]; 2];
        let mut headers = MultiHeaders::preallocate(2, None);
        let fd = self.get(name)?.as_raw_fd();
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = sendmmsg(fd, &mut headers, &data, [Some(address); 2], [], flags)?;
        Ok(sent.count().to_string())
    }
}

fn parsed<T: FromStr>(text: &str) -> Result<T, Failure> {
    text.parse()
        .or_else(|_| nonsense(format!("cannot be read: {text}")))
}

fn bytes(hex: &str) -> Result<Vec<u8>, Failure> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16))
        .collect::<Result<_, _>>()
        .or_else(|_| nonsense(format!("no bytes: {hex}")))
}

/// Reads all datagrams that are there; how many.
fn drain(socket: BorrowedFd<'_>) -> Answer {
    let mut buffer = [0; 1];
    let mut count = 0;
    loop {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(_) => count += 1,
            Err(rustix::io::Errno::AGAIN) => return Ok(count.to_string()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// An address of a unix socket, which is a path.
fn local(address: &str) -> Option<rustix::io::Result<SocketAddrUnix>> {
    address
        .starts_with('/')
        .then(|| SocketAddrUnix::new(address))
}

fn shown(address: SocketAddrAny) -> String {
    match SocketAddr::try_from(address) {
        Ok(address) => address.to_string(),
        Err(_) => "no address of IP".into(),
    }
}

fn set(socket: BorrowedFd<'_>, option: &str, value: &str) -> Answer {
    match option {
        "nonblocking" => done(ioctl_fionbio(socket, true)),
        "v6only" => done(sockopt::set_ipv6_v6only(socket, true)),
        "freebind" => done(sockopt::set_ip_freebind(socket, true)),
        "reuse" => done(sockopt::set_socket_reuseaddr(socket, true)),
        "broadcast" => done(sockopt::set_socket_broadcast(socket, true)),
        "reset" => done(sockopt::set_socket_linger(socket, Some(Duration::ZERO))),
        "transparent" => done(setsockopt(&socket, nix_options::IpTransparent, &true)),
        "late-port" => done(setsockopt(&socket, nix_options::IpBindAddressNoPort, &true)),
        "fastopen" => done(setsockopt(&socket, nix_options::TcpFastOpenConnect, &true)),
        "mark" => done(setsockopt(&socket, nix_options::Mark, &parsed(value)?)),
        "device" => done(setsockopt(
            &socket,
            nix_options::BindToDevice,
            &OsString::from(value),
        )),
        _ => nonsense(format!("no option {option}")),
    }
}

/// Waits for the end of a `connect()` that is under way, and says how it ended.
fn wait(socket: BorrowedFd<'_>) -> Answer {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    let patience = Timespec::try_from(PATIENCE).ok();
    if poll(&mut fds, patience.as_ref())? == 0 {
        return nonsense("nothing happened");
    }
    done(sockopt::socket_error(socket)?)
}

/// Says something and reads the answer to the end; its body.
fn exchange(socket: BorrowedFd<'_>) -> Answer {
    let mut stream = std::net::TcpStream::from(socket.try_clone_to_owned()?);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    read(socket)
}

/// Reads an answer to the end; its body.
fn read(socket: BorrowedFd<'_>) -> Answer {
    let mut stream = std::net::TcpStream::from(socket.try_clone_to_owned()?);
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.into()),
        None => Ok(format!("not HTTP: {answer:?}")),
    }
}

/// Hands a socket to whoever has the other end of `channel` (`SCM_RIGHTS`).
fn pass(socket: BorrowedFd<'_>, channel: BorrowedFd<'_>) -> Answer {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return nonsense("no room for a socket");
    }
    let data = [IoSlice::new(b"s")];
    done(sendmsg(channel, &data, &mut control, SendFlags::empty()).map(drop))
}

fn receive(channel: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    recvmsg(channel, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sockets = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    match sockets {
        Some(socket) => Ok(socket),
        None => nonsense("no socket came"),
    }
}

/// Has another process take steps, separated by semicolons; the answers likewise. It is
/// started as `posix_spawn` does it (vfork and exec), and finds `heirloom` by the step `inherit`.
fn child(steps: &str, heirloom: Option<OwnedFd>) -> Answer {
    let mut command = Command::new("/proc/self/exe");
    as_probe(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(socket) = heirloom {
        command.stderr(socket);
    }
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        for step in steps.split(';') {
            writeln!(input, "{}", step.trim())?;
        }
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers: Vec<_> = text
        .lines()
        .filter_map(|line| Some(line.split_once(MARK)?.1))
        .collect();
    Ok(answers.join("; "))
}

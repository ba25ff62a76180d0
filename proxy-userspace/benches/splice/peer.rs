//! The two ends: one asks for bytes, the other sends them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::parent_id,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testkit::proc::processor_time;

const BUFFER: usize = 256 * 1024;
/// No first byte of TLS or HTTP, so that Postern passes the connection through at once.
const OPAQUE: u8 = 0;

/// What a client asks for.
pub(crate) struct Load {
    pub(crate) connections: u64,
    pub(crate) bytes: u64,
}

/// What that took, in seconds.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    /// Processor time of the proxy.
    pub(crate) proxy: f64,
}

/// Sends as many bytes as the first nine of each connection ask for.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("cannot listen")?;
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept")?;
        thread::spawn(move || {
            // A client that goes away is of no interest.
            let mut wish = [0; 9];
            if stream.read_exact(&mut wish).is_err() {
                return;
            }
            let [_, bytes @ ..] = wish;
            let buffer = vec![7; BUFFER];
            let mut left = u64::from_be_bytes(bytes);
            while left > 0 {
                let n = left.min(BUFFER as u64);
                let piece = usize::try_from(n).unwrap_or(BUFFER);
                if stream.write_all(&buffer[..piece]).is_err() {
                    return;
                }
                left -= n;
            }
        });
    }
}

/// Runs a client, and prints what it took.
pub(crate) fn measure(address: SocketAddr, load: &Load, proxy: u32) -> Result<()> {
    let proxy = if proxy == 1 { parent_id() } else { proxy };
    let mut buffer = vec![0; BUFFER];
    // Connections, windows and pipes of a proxy that has been running.
    download(address, 1024 * 1024, &mut buffer)?;
    let before = time_of(proxy)?;
    let start = Instant::now();
    for _ in 0..load.connections {
        download(address, load.bytes, &mut buffer)?;
    }
    let seconds = start.elapsed();
    let proxy = time_of(proxy)?.saturating_sub(before);
    println!("{} {}", seconds.as_secs_f64(), proxy.as_secs_f64());
    Ok(())
}

fn download(address: SocketAddr, bytes: u64, buffer: &mut [u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("cannot connect")?;
    let mut wish = vec![OPAQUE];
    wish.extend(bytes.to_be_bytes());
    stream.write_all(&wish)?;
    let mut read = 0;
    loop {
        match stream.read(buffer).context("cannot read")? {
            0 => break,
            n => read += n as u64,
        }
    }
    ensure!(read == bytes, "{read} bytes came instead of {bytes}");
    Ok(())
}

/// What the proxy, if there is one, has had of the processors.
fn time_of(proxy: u32) -> Result<Duration> {
    if proxy == 0 {
        return Ok(Duration::ZERO);
    }
    processor_time(proxy)
}

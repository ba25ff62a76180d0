//! The two ends: one asks for bytes, the other sends them.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZero,
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
    /// Bytes per second that the server sends; 0 for as many as it can.
    pub(crate) rate: u64,
}

/// What that took, in seconds.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    /// Processor time of the proxy.
    pub(crate) proxy: f64,
}

/// Sends as many bytes, and as fast, as each connection asks for at its beginning.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("cannot listen")?;
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept")?;
        thread::spawn(move || {
            // A client that goes away is of no interest.
            let _ = send(&mut stream);
        });
    }
}

fn send(stream: &mut TcpStream) -> io::Result<()> {
    let mut wish = [0; 17];
    stream.read_exact(&mut wish)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&wish[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let (bytes, rate) = (number(1), number(9));
    let buffer = vec![7; BUFFER];
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let n = (bytes - sent).min(BUFFER as u64);
        stream.write_all(&buffer[..usize::try_from(n).unwrap_or(BUFFER)])?;
        sent += n;
        if let Some(rate) = NonZero::new(rate) {
            let due = Duration::from_secs(sent / rate)
                + Duration::from_nanos(sent % rate * 1_000_000_000 / rate);
            // What a sleep was too long is made up for by the next ones.
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(())
}

/// Runs a client, and prints what it took.
pub(crate) fn measure(address: SocketAddr, load: &Load, proxy: u32) -> Result<()> {
    let proxy = if proxy == 1 { parent_id() } else { proxy };
    let mut buffer = vec![0; BUFFER];
    // Connections, windows and pipes of a proxy that has been running.
    let before = Load {
        connections: 1,
        bytes: 1024 * 1024,
        rate: 0,
    };
    download(address, &before, &mut buffer)?;
    let before = time_of(proxy)?;
    let start = Instant::now();
    for _ in 0..load.connections {
        download(address, load, &mut buffer)?;
    }
    let seconds = start.elapsed();
    let proxy = time_of(proxy)?.saturating_sub(before);
    println!("{} {}", seconds.as_secs_f64(), proxy.as_secs_f64());
    Ok(())
}

fn download(address: SocketAddr, load: &Load, buffer: &mut [u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("cannot connect")?;
    let mut wish = vec![OPAQUE];
    wish.extend(load.bytes.to_be_bytes());
    wish.extend(load.rate.to_be_bytes());
    stream.write_all(&wish)?;
    let mut read = 0;
    loop {
        match stream.read(buffer).context("cannot read")? {
            0 => break,
            n => read += n as u64,
        }
    }
    ensure!(
        read == load.bytes,
        "{read} bytes came instead of {}",
        load.bytes
    );
    Ok(())
}

/// What the proxy, if there is one, has had of the processors.
fn time_of(proxy: u32) -> Result<Duration> {
    if proxy == 0 {
        return Ok(Duration::ZERO);
    }
    processor_time(proxy)
}

//! Packets that a workload receives.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpStream, UdpSocket},
};

use anyhow::Result;

/// Of a Connector.
pub(crate) const HOST: &str = "registry.example.com";

#[derive(Clone, Copy)]
pub(crate) enum Traffic {
    /// Data and acknowledgements of a connection.
    Tcp,
    /// Datagrams that do not come from a name server.
    Udp,
    /// DNS answers about something else.
    Stranger,
    /// DNS answers about a Connector's host, with four addresses that are known.
    Connector,
}

pub(crate) const ALL: [(&str, Traffic); 4] = [
    ("TCP packet", Traffic::Tcp),
    ("UDP packet, not of DNS", Traffic::Udp),
    ("DNS answer about something else", Traffic::Stranger),
    (
        "DNS answer about a Connector, 4 addresses",
        Traffic::Connector,
    ),
];

/// Sends a byte at a time.
pub(crate) fn stream(mut from: &TcpStream, mut to: &TcpStream, packets: u32) -> Result<()> {
    from.set_nodelay(true)?;
    let mut byte = [0];
    for _ in 0..packets {
        from.write_all(&byte)?;
        to.read_exact(&mut byte)?;
    }
    Ok(())
}

/// Sends datagrams, and reads them now and then.
pub(crate) fn datagrams(
    from: &UdpSocket,
    to: &UdpSocket,
    payload: &[u8],
    packets: u32,
) -> Result<()> {
    let mut buffer = [0; 512];
    for n in 0..packets {
        from.send(payload)?;
        if n % 32 != 31 {
            continue;
        }
        loop {
            match to.recv(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// A DNS answer with four addresses (RFC 1035, section 4).
pub(crate) fn answer(host: &str) -> Vec<u8> {
    const ADDRESSES: u8 = 4;
    // An answer without an error, one question.
    let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, ADDRESSES, 0, 0, 0, 0];
    for label in host.split('.') {
        message.extend(u8::try_from(label.len()));
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    for n in 0..ADDRESSES {
        // The question's name, A, IN, a minute.
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend([198, 51, 100, 100 + n]);
    }
    message
}

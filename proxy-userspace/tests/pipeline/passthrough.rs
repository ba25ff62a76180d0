//! Connections that are passed through: ends, resets, and bytes that nobody reads.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use postern::{
    limits,
    upstream::{Passed, Pipes, relay, reset},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use crate::rig::soon;

const MEBIBYTE: usize = 1024 * 1024;

/// A client and a server with the relay between them.
pub(crate) struct Through {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    pipes: Arc<Pipes>,
    pub(crate) relay: JoinHandle<Passed>,
}

impl Through {
    pub(crate) async fn new(pipes: &Arc<Pipes>) -> Self {
        Self::with_buffers(pipes, None).await
    }

    /// With sockets whose buffers have so many bytes.
    async fn with_buffers(pipes: &Arc<Pipes>, bytes: Option<usize>) -> Self {
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        if let Some(bytes) = bytes {
            for stream in [&client, &near, &far, &server] {
                setsockopt(stream, sockopt::RcvBuf, &bytes).expect("a socket");
                setsockopt(stream, sockopt::SndBuf, &bytes).expect("a socket");
            }
        }
        let lends = Arc::clone(pipes);
        let relay = tokio::spawn(async move { relay(near, far, &lends).await });
        Self {
            client,
            server,
            pipes: Arc::clone(pipes),
            relay,
        }
    }

    /// Exchanges a word in each direction, so that the relay is known to be at work.
    async fn greet(&mut self) {
        say_hello(&mut self.client, &mut self.server).await;
        say_hello(&mut self.server, &mut self.client).await;
    }

    async fn ended(self) -> Passed {
        let Self {
            client,
            server,
            pipes,
            relay,
        } = self;
        drop((client, server));
        let passed = soon(relay).await.expect("no panic");
        assert_eq!(pipes.lent(), 0);
        passed
    }
}

async fn say_hello(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").await.expect("a relay");
    let mut word = [0; 5];
    soon(to.read_exact(&mut word)).await.expect("a word");
    assert_eq!(&word, b"hello");
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let near = TcpStream::connect(address).await.expect("a connection");
    let (far, _) = listener.accept().await.expect("a connection");
    (near, far)
}

/// With pipes, and with none to be had.
fn kinds() -> [Arc<Pipes>; 2] {
    [Pipes::default(), Pipes::new(0)].map(Arc::new)
}

async fn rest(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

/// Bytes that do not repeat at any power of two, and that no two seeds share.
pub(crate) fn content(seed: u8, length: usize) -> Vec<u8> {
    const PRIME: usize = 65_521;
    let block: Vec<u8> = (0..PRIME)
        .map(|n| (n >> 4).to_le_bytes()[0] ^ n.to_le_bytes()[1] ^ seed)
        .collect();
    let mut bytes = block.repeat(length / PRIME + 1);
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn what_is_let_go_in_the_middle_does_not_look_complete() {
    for pipes in kinds() {
        let mut through = Through::new(&pipes).await;
        through.greet().await;
        through.relay.abort();
        for stream in [&mut through.client, &mut through.server] {
            let end = rest(stream).await.expect_err("no orderly end");
            assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    for pipes in kinds() {
        for from_client in [true, false] {
            let mut through = Through::new(&pipes).await;
            through.greet().await;
            let (client, server) = (&mut through.client, &mut through.server);
            let (first, last) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            first.write_all(b"that is all").await.expect("a relay");
            first.shutdown().await.expect("an open connection");
            assert_eq!(rest(last).await.expect("an end"), b"that is all");
            // Long after one direction has ended.
            for _ in 0..3 {
                last.write_all(b"and now me").await.expect("open");
                let mut answer = [0; 10];
                soon(first.read_exact(&mut answer)).await.expect("open");
                assert_eq!(&answer, b"and now me");
            }
            last.shutdown().await.expect("an open connection");
            assert_eq!(rest(first).await.expect("an end"), b"");
            let passed = through.ended().await;
            assert!(passed.end.is_ok(), "{passed:?}");
            assert_eq!(passed.bytes(), 10 + 11 + 30);
        }
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_behind_what_came_before_it() {
    for pipes in kinds() {
        for from_client in [true, false] {
            let mut through = Through::new(&pipes).await;
            through.greet().await;
            let Through {
                mut client,
                mut server,
                relay,
                ..
            } = through;
            let (first, last) = if from_client {
                (&mut client, &mut server)
            } else {
                (&mut server, &mut client)
            };
            first.write_all(b"last words").await.expect("a relay");
            let mut words = [0; 10];
            soon(last.read_exact(&mut words)).await.expect("words");
            reset(first);
            if from_client {
                drop(client);
                let error = rest(&mut server).await.expect_err("a reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            } else {
                drop(server);
                let error = rest(&mut client).await.expect_err("a reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            let passed = soon(relay).await.expect("no panic");
            assert!(passed.end.is_err(), "{passed:?}");
            assert_eq!(pipes.lent(), 0);
        }
    }
}

/// Nobody reads on the other side, so the relay waits to write; it still has to notice.
#[tokio::test]
async fn a_reset_is_noticed_while_the_other_side_does_not_read() {
    for pipes in kinds() {
        let mut through = Through::new(&pipes).await;
        through.greet().await;
        stuff(&through.client).await;
        let Through {
            client,
            mut server,
            relay,
            ..
        } = through;
        reset(&client);
        drop(client);
        let passed = soon(relay).await.expect("no panic");
        assert!(passed.end.is_err(), "{passed:?}");
        assert_eq!(pipes.lent(), 0);
        let mut bytes = Vec::new();
        let read = soon(server.read_to_end(&mut bytes)).await;
        assert_eq!(
            read.expect_err("a reset").kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}

/// A server that refuses an upload answers and closes, with the upload unread: a reset that
/// comes together with the answer must not hide it.
#[tokio::test]
async fn an_answer_that_comes_with_a_reset_is_handed_over() {
    for pipes in kinds() {
        let mut through = Through::new(&pipes).await;
        through.greet().await;
        stuff(&through.client).await;
        let Through {
            mut client,
            mut server,
            relay,
            ..
        } = through;
        server.write_all(b"413").await.expect("open");
        drop(server);
        let mut answer = [0; 3];
        soon(client.read_exact(&mut answer))
            .await
            .expect("an answer");
        assert_eq!(&answer, b"413");
        assert!(soon(relay).await.expect("no panic").end.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_in_both_directions_arrives_as_it_was() {
    const LENGTH: usize = 64 * MEBIBYTE;
    for pipes in kinds() {
        let through = Through::new(&pipes).await;
        let Through {
            client,
            server,
            relay,
            ..
        } = through;
        both_ways(client, server, LENGTH).await;
        let passed = soon(relay).await.expect("no panic");
        assert!(passed.end.is_ok(), "{passed:?}");
        assert_eq!(
            (passed.to_server, passed.to_client),
            (LENGTH as u64, LENGTH as u64)
        );
        assert_eq!(pipes.lent(), 0);
    }
}

/// Has each side send so much and an end, and read all that the other one sends.
pub(crate) async fn both_ways(client: TcpStream, server: TcpStream, length: usize) {
    let sides = [(client, 1, 2), (server, 2, 1)].map(|(stream, own, other)| {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.into_split();
            let send = async {
                write.write_all(&content(own, length)).await?;
                write.shutdown().await
            };
            let mut bytes = Vec::with_capacity(length);
            let (sent, received) = tokio::join!(send, read.read_to_end(&mut bytes));
            sent.expect("a relay");
            received.expect("a relay");
            assert!(bytes == content(other, length), "other bytes arrived");
        })
    });
    for side in sides {
        soon(side).await.expect("the same bytes");
    }
}

/// Bytes wait where they are: in the four sockets and one pipe.
#[tokio::test]
async fn who_does_not_read_holds_the_sender_up() {
    for pipes in kinds() {
        let mut through = Through::with_buffers(&pipes, Some(MEBIBYTE / 16)).await;
        let taken = stuff(&through.client).await;
        // The kernel counts twice what it was told, and what a pipe takes is a turn.
        let bound = 4 * MEBIBYTE / 8 + limits::SPLICE_TURN;
        // It may have as much as a segment more in each of the sockets.
        assert!(
            taken < bound + 4 * MEBIBYTE / 16,
            "{taken} bytes were taken"
        );
        assert!(pipes.lent() <= 1);
        // The other direction does not notice.
        through.server.write_all(b"hello").await.expect("a relay");
        let mut word = [0; 5];
        soon(through.client.read_exact(&mut word))
            .await
            .expect("a word");
        through.client.shutdown().await.expect("open");
        let arrived = rest(&mut through.server).await.expect("all of it").len();
        assert_eq!(arrived, taken);
        through.server.shutdown().await.expect("open");
        assert!(through.ended().await.end.is_ok());
    }
}

#[tokio::test]
async fn connections_without_traffic_have_no_pipe() {
    let pipes = Arc::new(Pipes::default());
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut through = Through::new(&pipes).await;
        through.greet().await;
        idle.push(through);
    }
    for _ in 0..1000 {
        if pipes.lent() == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pipes.lent(), 0);
    for mut through in idle {
        through.greet().await;
        assert!(through.ended().await.end.is_ok());
    }
}

/// A stream without an end does not keep others waiting, on a runtime with one thread.
#[tokio::test]
async fn a_stream_without_an_end_leaves_others_their_turn() {
    let pipes = Arc::new(Pipes::default());
    let Through {
        client,
        server,
        relay,
        ..
    } = Through::new(&pipes).await;
    let read = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&read);
    // With threads of their own, so that there is always something to pass on.
    let [client, server] = [client, server].map(|stream| {
        let stream = stream.into_std().expect("a socket");
        stream.set_nonblocking(false).expect("a socket");
        stream
    });
    let writer = std::thread::spawn(move || {
        let bytes = vec![7; MEBIBYTE];
        while io::Write::write_all(&mut &client, &bytes).is_ok() {}
    });
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; MEBIBYTE];
        while let Ok(n @ 1..) = io::Read::read(&mut &server, &mut bytes) {
            count.fetch_add(n as u64, Ordering::Relaxed);
        }
    });
    let others = Arc::new(Pipes::default());
    for _ in 0..100 {
        let mut through = Through::new(&others).await;
        through.greet().await;
        assert!(through.ended().await.end.is_ok());
    }
    assert!(!relay.is_finished());
    relay.abort();
    // Its ends are closed with it, and the threads with them.
    assert!(soon(relay).await.is_err());
    writer.join().expect("no panic");
    reader.join().expect("no panic");
    assert!(read.load(Ordering::Relaxed) > 0);
}

/// Sends until no more is taken for a while; how much that was.
pub(crate) async fn stuff(stream: &TcpStream) -> usize {
    const ENOUGH: usize = 64 * MEBIBYTE;
    let bytes = vec![42; MEBIBYTE];
    let mut taken = 0;
    while taken < ENOUGH {
        let pause = Duration::from_millis(300);
        if tokio::time::timeout(pause, stream.writable())
            .await
            .is_err()
        {
            break;
        }
        match stream.try_write(&bytes) {
            Ok(n) => taken += n,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    taken
}

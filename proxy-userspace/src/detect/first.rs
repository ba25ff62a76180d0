//! Whose are the first bytes of a connection.

use std::{future::pending, io, net::SocketAddr, pin::pin, time::Duration};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Protocol, peek::peek};
use crate::{limits, workload::Egress};

/// Who spoke first on a connection. What was said is left in the sockets.
#[derive(Debug)]
pub enum First {
    /// The client, in this protocol.
    Client(Protocol),
    /// The server that the client dialled, on this connection to it.
    Server(TcpStream),
    /// Nobody, or the client did not say enough.
    Nobody,
}

/// How long is waited for whom.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// For the client, before the server is asked.
    client: Duration,
    /// For the server, while the client may speak as well.
    server: Duration,
    /// For the client in all.
    all: Duration,
}

const TIMES: Times = Times {
    client: limits::CLIENT_FIRST,
    server: limits::SERVER_FIRST,
    all: limits::REQUEST_HEAD,
};

/// Waits for the first bytes of a connection that was on its way to `destination`.
///
/// A client that is silent may be slow, or may wait for a greeting. Only the server knows: after
/// a while it is asked, by a connection on which nothing is said.
///
/// # Errors
///
/// When the client went away.
pub async fn first(
    client: &TcpStream,
    egress: &Egress,
    destination: SocketAddr,
) -> io::Result<First> {
    first_within(TIMES, client, egress.connect(destination)).await
}

async fn first_within(
    times: Times,
    client: &TcpStream,
    server: impl Future<Output = io::Result<TcpStream>>,
) -> io::Result<First> {
    let mut says = pin!(peek(client));
    if let Ok(said) = timeout(times.client, says.as_mut()).await {
        return said.map(First::Client);
    }
    let greeting = async {
        match timeout(times.server, greeted(server)).await {
            Ok(Some(server)) => server,
            // The client has to begin.
            Ok(None) | Err(_) => pending().await,
        }
    };
    tokio::select! {
        said = says => said.map(First::Client),
        server = greeting => Ok(First::Server(server)),
        () = sleep(times.all.saturating_sub(times.client)) => Ok(First::Nobody),
    }
}

/// Whether a server says something by itself.
async fn greeted(server: impl Future<Output = io::Result<TcpStream>>) -> Option<TcpStream> {
    let server = server.await.ok()?;
    let said = server.peek(&mut [0]).await.ok()?;
    (said > 0).then_some(server)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

    /// The client's end, ours, and a server.
    async fn three() -> (TcpStream, TcpStream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (ours, _) = listener.accept().await.expect("a connection");
        (client, ours, listener)
    }

    fn dial(server: &TcpListener) -> impl Future<Output = io::Result<TcpStream>> + use<> {
        TcpStream::connect(server.local_addr().expect("an address"))
    }

    fn is_http(first: &First) -> bool {
        matches!(first, First::Client(Protocol::Http1 { host: Some(host) }) if host == "a.test")
    }

    #[tokio::test]
    async fn a_client_that_speaks_is_not_kept_waiting_by_the_server() {
        let (mut client, ours, _server) = three().await;
        client.write_all(HEAD).await.expect("room");
        let times = Times {
            client: LONG,
            server: LONG,
            all: LONG,
        };
        let nobody = async { panic!("the server is not asked") };
        let first = first_within(times, &ours, nobody).await.expect("bytes");
        assert!(is_http(&first), "{first:?}");
    }

    #[tokio::test]
    async fn a_greeting_comes_with_its_connection() {
        let (_client, ours, server) = three().await;
        let times = Times {
            client: SHORT,
            server: LONG,
            all: LONG,
        };
        let greet = async {
            let (mut greeter, _) = server.accept().await.expect("a connection");
            greeter.write_all(b"220 ready\r\n").await.expect("room");
            greeter
        };
        let (first, _greeter) = tokio::join!(first_within(times, &ours, dial(&server)), greet);
        let First::Server(mut greeter) = first.expect("a greeting") else {
            panic!("no greeting");
        };
        let mut greeting = [0; 11];
        greeter.read_exact(&mut greeting).await.expect("all of it");
        assert_eq!(&greeting, b"220 ready\r\n");
    }

    #[tokio::test]
    async fn a_slow_client_is_waited_for_whatever_the_server_does() {
        for answers in ["waits", "ends", "is gone"] {
            let (mut client, ours, server) = three().await;
            let times = Times {
                client: SHORT,
                server: SHORT,
                all: LONG,
            };
            let dialled = dial(&server);
            let mut server = (answers != "is gone").then_some(server);
            let speak = async {
                let kept = match &mut server {
                    Some(server) => Some(server.accept().await.expect("a connection")),
                    None => None,
                };
                let kept = kept.filter(|_| answers == "waits");
                // In pieces, and later than the server is waited for.
                let (begin, end) = HEAD.split_at(10);
                client.write_all(begin).await.expect("room");
                sleep(SHORT * 3).await;
                client.write_all(end).await.expect("room");
                kept
            };
            let (first, _) = tokio::join!(first_within(times, &ours, dialled), speak);
            assert!(is_http(&first.expect("bytes")), "{answers}");
        }
    }

    #[tokio::test]
    async fn silence_comes_to_an_end() {
        let (_client, ours, server) = three().await;
        let times = Times {
            client: SHORT,
            server: LONG,
            all: SHORT * 2,
        };
        let first = first_within(times, &ours, dial(&server)).await;
        assert!(matches!(first, Ok(First::Nobody)), "{first:?}");
    }
}

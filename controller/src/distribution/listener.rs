//! From the listening socket to connections that speak TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::limits;
use super::newest::{Lost, Newest, Place};

/// Accepts connections until nobody takes them any more. Handshakes run side by side, so one
/// that is slow holds up no other.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let slots = Arc::new(Semaphore::new(limits::CONNECTIONS));
    let strangers = Newest::new(limits::STRANGERS);
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        if handshakes.len() >= limits::HANDSHAKES {
            handshakes.join_next().await;
            continue;
        }
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = connections.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("cannot accept a connection of an agent: {error}");
                sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The semaphore is never closed.
        let Ok(slot) = slot else { return };
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        let (place, lost) = strangers.enter(source(address.ip()));
        let stranger = Stranger { place, lost, slot };
        handshakes.spawn(async move {
            if let Some(connection) = handshake(stream, address, &acceptor, stranger).await {
                // Nobody takes it any more: it is closed.
                drop(connections.send(Ok(connection)).await);
            }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
    mut stranger: Stranger,
) -> Option<Connection> {
    // Updates are small and should not wait for more; a socket that refuses works as well.
    drop(stream.set_nodelay(true));
    let accepted = tokio::select! {
        accepted = timeout(limits::HANDSHAKE, acceptor.accept(stream)) => accepted,
        _ = &mut stranger.lost => {
            debug!(peer = %address, "newer connections of the same source took its place");
            return None;
        }
    };
    match accepted {
        Ok(Ok(stream)) => Some(Connection::new(stream, address, stranger)),
        Ok(Err(error)) => {
            debug!(peer = %address, "TLS handshake failed: {error}");
            None
        }
        Err(_) => {
            debug!(peer = %address, "TLS handshake took too long");
            None
        }
    }
}

/// What a connection holds before anybody is authenticated on it.
struct Stranger {
    place: Place<IpAddr>,
    lost: Lost,
    slot: OwnedSemaphorePermit,
}

/// Whoever has an IPv6 address has 2^64 of them.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    authenticated: Arc<AtomicBool>,
    place: Arc<Mutex<Option<Place<IpAddr>>>>,
}

impl Peer {
    /// The connection may stay open.
    pub(super) fn set_authenticated(&self) {
        self.authenticated.store(true, Ordering::Release);
        self.leave();
    }

    /// It counts no more among the strangers of its source.
    fn leave(&self) {
        // Nothing panics while it holds the lock.
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = None;
    }
}

/// A connection. It is cut when nobody was authenticated on it in time, so that strangers
/// cannot hold on to slots.
pub(super) struct Connection<S = TlsStream<TcpStream>> {
    stream: S,
    peer: Peer,
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    _slot: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(stream: S, address: SocketAddr, stranger: Stranger) -> Self {
        let Stranger { place, lost, slot } = stranger;
        Self {
            stream,
            peer: Peer {
                address,
                authenticated: Arc::default(),
                place: Arc::new(Mutex::new(Some(place))),
            },
            deadline: Box::pin(async move {
                // Lost to newer ones, or over.
                drop(timeout(limits::UNAUTHENTICATED, lost).await);
            }),
            _slot: slot,
        }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        // Calls that it leaves behind know the peer for a while.
        self.peer.leave();
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 always reads, so this is woken at the deadline.
        if !self.peer.authenticated.load(Ordering::Acquire)
            && self.deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn connection(slots: &Arc<Semaphore>) -> (Connection<DuplexStream>, DuplexStream) {
        connection_of(slots, &Newest::new(1))
    }

    fn connection_of(
        slots: &Arc<Semaphore>,
        strangers: &Arc<Newest<IpAddr>>,
    ) -> (Connection<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        let slot = Arc::clone(slots).try_acquire_owned().expect("a slot");
        let (place, lost) = strangers.enter(source(address.ip()));
        let stranger = Stranger { place, lost, slot };
        (Connection::new(ours, address, stranger), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_hold_on_to_a_slot() {
        let slots = Arc::new(Semaphore::new(1));
        let (mut connection, _theirs) = connection(&slots);
        let error = connection.read_u8().await.expect_err("time is over");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn strangers_push_out_each_other_and_no_agent() {
        let slots = Arc::new(Semaphore::new(9));
        let strangers = Newest::new(2);
        let (mut agent, mut theirs) = connection_of(&slots, &strangers);
        agent.connect_info().set_authenticated();
        let (mut first, _first) = connection_of(&slots, &strangers);
        let _second = connection_of(&slots, &strangers);
        let _third = connection_of(&slots, &strangers);
        let error = first.read_u8().await.expect_err("it is cut");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        theirs.write_u8(7).await.expect("room");
        assert_eq!(agent.read_u8().await.expect("a byte"), 7);
    }

    #[test]
    fn a_source_is_an_address_or_a_network() {
        let of = |text: &str| source(text.parse().expect("an address")).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_may_be_silent() {
        let slots = Arc::new(Semaphore::new(1));
        let (mut connection, mut theirs) = connection(&slots);
        connection.connect_info().set_authenticated();
        let read = tokio::spawn(async move { connection.read_u8().await });
        sleep(limits::UNAUTHENTICATED * 2).await;
        theirs.write_u8(7).await.expect("room");
        assert_eq!(read.await.expect("no panic").expect("a byte"), 7);
    }
}

//! Requests for another protocol on the same connection, WebSocket above all (RFC 9110,
//! section 7.8).
//!
//! Bytes are copied only once the upstream has answered 101; every other answer is an
//! ordinary one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::sleep,
};

use super::{Caller, Stop};
use crate::{
    admission::Wide,
    gate::{self, Refusal},
    upstream::{self, Body, InUse},
};

/// A client's wish for another protocol.
pub(super) struct Wish {
    protocols: HeaderValue,
    client: OnUpgrade,
    /// From the time that it is passed on.
    places: Option<Wide>,
}

/// A connection that has changed its protocol.
pub struct Tunnel {
    client: OnUpgrade,
    upstream: OnUpgrade,
    /// Its places among the workload's connections.
    _places: Option<Wide>,
    /// Its place among those to the upstream.
    _in_use: Option<InUse>,
}

impl Wish {
    /// Takes the wish from a request's head, if it has one that can be granted.
    pub(super) fn of(head: &mut Parts) -> Option<Self> {
        let client = head.extensions.remove::<OnUpgrade>()?;
        let protocols = gate::wanted_protocols(&head.headers)?;
        Some(Self {
            protocols,
            client,
            places: None,
        })
    }

    /// Passes it on to the upstream. A tunnel has two sockets for itself; without room for them
    /// the upstream is not asked, and need not be told that nothing comes of it.
    pub(super) fn pass_on(&mut self, caller: &Caller, head: &mut Parts) -> Result<(), Stop> {
        let Some(places) = caller.slot.widen() else {
            return Err(Stop::Full);
        };
        self.places = Some(places);
        head.headers.insert(UPGRADE, self.protocols.clone());
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        Ok(())
    }
}

impl Caller {
    /// Takes an upstream's 101 apart, and nothing else. Fails when nobody asked for that
    /// protocol.
    pub(super) fn switch(
        &self,
        wish: Option<Wish>,
        response: Response<Body>,
    ) -> Result<Response<Body>, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let (response, tunnel) = accept(wish, response)?;
        *self.tunnel() = Some(tunnel);
        Ok(response)
    }
}

fn accept(
    wish: Option<Wish>,
    mut response: Response<Body>,
) -> Result<(Response<Body>, Tunnel), Refusal> {
    let upstream = response.extensions_mut().remove::<OnUpgrade>();
    let in_use = response.extensions_mut().remove::<InUse>();
    let chosen = response.headers().get(UPGRADE);
    match (wish, upstream, chosen) {
        (Some(wish), Some(upstream), Some(chosen)) if gate::offers(&wish.protocols, chosen) => {
            let tunnel = Tunnel {
                client: wish.client,
                upstream,
                _places: wish.places,
                _in_use: in_use,
            };
            Ok((response.map(|_| upstream::empty()), tunnel))
        }
        _ => Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "the upstream changed to a protocol that the client did not ask for",
        )),
    }
}

impl Tunnel {
    /// Copies in both directions until both sides are done, or nothing has moved for `idle`,
    /// which is noticed after at most twice that time.
    pub async fn run(self, idle: Duration) -> io::Result<()> {
        let Self {
            client,
            upstream,
            _places,
            _in_use,
        } = self;
        let (client, upstream) = tokio::try_join!(client, upstream).map_err(io::Error::other)?;
        copy(client, upstream, idle).await
    }
}

async fn copy(client: Upgraded, upstream: Upgraded, idle: Duration) -> io::Result<()> {
    let moved = Arc::new(AtomicBool::new(true));
    let mut client = Noticed::new(TokioIo::new(client), &moved);
    let mut upstream = Noticed::new(TokioIo::new(upstream), &moved);
    let stillness = async {
        while moved.swap(false, Ordering::Relaxed) {
            sleep(idle).await;
        }
    };
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut upstream) => copied.map(drop),
        () = stillness => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved on it")),
    }
}

/// Notices that something was read.
struct Noticed<IO> {
    io: IO,
    moved: Arc<AtomicBool>,
}

impl<IO> Noticed<IO> {
    fn new(io: IO, moved: &Arc<AtomicBool>) -> Self {
        Self {
            io,
            moved: Arc::clone(moved),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Noticed<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.io).poll_read(context, buffer));
        this.moved.store(true, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Noticed<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(context, bytes));
        this.moved.store(true, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

//! A connection over HTTP/2, and how many streams its upstream allows on it.

use std::{
    error::Error as _,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

use super::{body::RequestBody, lane::lock};
use crate::limits;

/// What h2 takes for the limit until it has the upstream's SETTINGS. None of those says it: they
/// have 32 bits, and without any limit h2 takes the largest number.
const UNKNOWN: usize = usize::MAX - 1;

pub(super) type Sender = http2::SendRequest<RequestBody>;

/// An HTTP/2 connection, which ends when it is dropped and no stream is on it.
#[derive(Debug)]
pub(super) struct Http2 {
    pub(super) sender: Sender,
    /// When it was made.
    since: Instant,
    /// What the upstream allows.
    allowed: Arc<AtomicUsize>,
    /// Dropped when nobody is to use it any more.
    _end: oneshot::Sender<()>,
}

impl Http2 {
    /// Speaks HTTP/2 from now on. `news` is told when the limit changes, and of the end.
    pub(super) async fn handshake<IO>(io: IO, news: &Arc<Notify>) -> hyper::Result<Self>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (end, ended) = oneshot::channel();
        let tasks = Tasks::new(ended);
        let turns = Arc::clone(&tasks.turns);
        let (sender, connection) = http2::Builder::new(tasks)
            .timer(TokioTimer::new())
            .initial_max_send_streams(UNKNOWN)
            .initial_stream_window_size(limits::H2_STREAM_WINDOW)
            .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
            .max_header_list_size(limits::H2_HEADER_LIST)
            .keep_alive_interval(limits::H2_PING)
            .keep_alive_timeout(limits::H2_PONG)
            .handshake(TokioIo::new(io))
            .await?;
        let allowed = Arc::new(AtomicUsize::new(UNKNOWN));
        let (noted, news) = (Arc::clone(&allowed), Arc::clone(news));
        tokio::spawn(async move {
            if let Err(error) = drive(connection, &turns, &noted, &news).await {
                tracing::debug!("an upstream connection ended: {error}");
            }
            news.notify_one();
        });
        Ok(Self {
            sender,
            since: Instant::now(),
            allowed,
            _end: end,
        })
    }

    /// Streams that the upstream allows at a time; `None` before it has sent its SETTINGS.
    pub(super) fn allowed(&self) -> Option<usize> {
        let allowed = self.allowed.load(Ordering::Relaxed);
        (allowed != UNKNOWN).then_some(allowed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Whether the upstream has ended the connection before it looked at this request (GOAWAY; RFC
/// 9113, section 6.8).
pub(super) fn is_unseen(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|it| it.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_go_away() && cause.is_remote())
}

/// Serves a connection, and notes what its upstream allows.
async fn drive<IO>(
    connection: http2::Connection<TokioIo<IO>, RequestBody, Tasks>,
    turns: &Notify,
    allowed: &AtomicUsize,
    news: &Notify,
) -> hyper::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            // Finds out about a GOAWAY, which nothing else wakes it up for.
            biased;
            ended = connection.as_mut() => return ended,
            () = turns.notified() => {}
        }
        let now = connection.current_max_send_streams();
        if allowed.swap(now, Ordering::Relaxed) != now {
            news.notify_one();
        }
    }
}

/// Runs the tasks that hyper makes for one connection.
///
/// The first one reads frames. Nobody but it knows when the upstream has sent SETTINGS, so each
/// of its turns is told.
#[derive(Clone, Debug)]
struct Tasks {
    turns: Arc<Notify>,
    /// Given to the first task: nobody uses the connection any more.
    ended: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

impl Tasks {
    fn new(ended: oneshot::Receiver<()>) -> Self {
        Self {
            turns: Arc::default(),
            ended: Arc::new(Mutex::new(Some(ended))),
        }
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let Some(ended) = lock(&self.ended).take() else {
            tokio::spawn(task);
            return;
        };
        let turns = Arc::clone(&self.turns);
        tokio::spawn(async move {
            let mut task = pin!(task);
            let reads = poll_fn(|context| {
                let turn = task.as_mut().poll(context);
                turns.notify_one();
                turn
            });
            // An upstream that reads nothing would keep the farewell waiting for ever.
            let given_up = async {
                let _ = ended.await;
                sleep(limits::H2_FAREWELL).await;
            };
            tokio::select! {
                () = reads => {}
                () = given_up => {}
            }
        });
    }
}

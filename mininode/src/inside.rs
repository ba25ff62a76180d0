//! A thread in the node's network, for what the test's own process serves or asks there.

use std::future::Future;
use std::panic;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, Result};
use testkit::Sandbox;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// A tokio runtime whose only thread is in a sandbox's network. Sockets belong to the network
/// of the thread that makes them, so whatever runs here listens and connects inside.
#[derive(Debug)]
pub(crate) struct Inside {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Inside {
    pub(crate) fn start(sandbox: Arc<Sandbox>) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, outcome) = mpsc::channel();
        let thread = thread::spawn(move || match enter(&sandbox) {
            Ok(runtime) => {
                drop(sandbox);
                drop(ready.send(Ok(runtime.handle().clone())));
                // Whether told or dropped: it is time to go.
                drop(runtime.block_on(stopped));
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        let handle = outcome
            .recv()
            .context("the thread in the network ended")??;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a future inside. It goes on even if nobody waits for it any longer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.handle.spawn(future).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(reason) => panic::resume_unwind(reason),
                Err(error) => Err(error).context("the node has ended"),
            },
        }
    }
}

/// Moves this thread inside; threads that the runtime starts follow it.
fn enter(sandbox: &Sandbox) -> Result<Runtime> {
    sandbox.enter_network()?;
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a tokio runtime")
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been reported where it happened.
            drop(thread.join());
        }
    }
}

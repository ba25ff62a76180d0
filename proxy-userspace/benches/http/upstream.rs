//! The server behind all proxies: as little as can be asked of one, so that it is not what is
//! measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use testkit::{Certificate, Sandbox};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::processor;

/// What has to be in each request, or it is answered 401.
pub(crate) const TOKEN: &str = "t0ken-of-the-benchmark";
/// Path of a large answer, and its size in bytes.
pub(crate) const BLOB: (&str, u64) = ("/blob", 1 << 30);

const END: &[u8] = b"\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
const CHUNK: usize = 64 * 1024;

/// What it has answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served(Arc<AtomicU64>);

impl Served {
    pub(crate) fn requests(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves in the sandbox, on a thread of its own, for as long as the process lives.
pub(crate) fn start(
    sandbox: &Sandbox,
    plain: SocketAddr,
    tls: SocketAddr,
    certificate: &Certificate,
) -> Result<Served> {
    let chain = CertificateDer::pem_file_iter(&certificate.cert)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&certificate.key)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let served = Served::default();
    let counter = served.clone();
    // Sockets belong to the network in which they were made.
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        scope
            .spawn(|| {
                sandbox.enter_network()?;
                let listen = |address| {
                    let listener = std::net::TcpListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    Ok::<_, anyhow::Error>(listener)
                };
                ready.send((listen(plain)?, listen(tls)?))?;
                Ok(())
            })
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the thread in the sandbox panicked"))
    })?;
    let (plain, tls) = is_ready.recv().context("no listeners")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::spawn(move || {
        if let Err(error) = processor::pin_this_thread(processor::OTHERS) {
            eprintln!("the upstream: {error:#}");
        }
        runtime.block_on(async {
            let result = tokio::try_join!(
                accept(plain, None, counter.clone()),
                accept(tls, Some(acceptor), counter)
            );
            if let Err(error) = result {
                eprintln!("the upstream: {error:#}");
            }
        });
    });
    Ok(served)
}

async fn accept(
    listener: std::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
    served: Served,
) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, served) = (acceptor.clone(), served.clone());
        tokio::spawn(async move {
            // Who goes away is nobody's fault: the load is stopped in the middle of requests.
            let _ = match acceptor {
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => serve(stream, &served).await,
                    Err(error) => Err(error.into()),
                },
                None => serve(stream, &served).await,
            };
        });
    }
}

/// Answers requests, none of which has a body.
async fn serve<IO>(mut io: IO, served: &Served) -> Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n{}",
        "x".repeat(100)
    );
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let n = io.read(&mut buffer[filled..]).await?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
        if !buffer[..filled].ends_with(END) {
            anyhow::ensure!(filled < buffer.len(), "a head that is too large");
            continue;
        }
        let head = &buffer[..filled];
        filled = 0;
        served.0.fetch_add(1, Ordering::Relaxed);
        if !has_token(head) {
            io.write_all(REFUSED).await?;
        } else if head.starts_with(format!("GET {} ", BLOB.0).as_bytes()) {
            blob(&mut io).await?;
        } else {
            io.write_all(answer.as_bytes()).await?;
        }
        io.flush().await?;
    }
}

fn has_token(head: &[u8]) -> bool {
    let token = TOKEN.as_bytes();
    head.windows(token.len()).any(|window| window == token)
}

async fn blob<IO: AsyncWrite + Unpin>(io: &mut IO) -> Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BLOB.1);
    io.write_all(head.as_bytes()).await?;
    let chunk = vec![b'x'; CHUNK];
    for _ in 0..BLOB.1 / CHUNK as u64 {
        io.write_all(&chunk).await?;
    }
    Ok(())
}

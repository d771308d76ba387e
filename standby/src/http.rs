//! What a node says of itself over HTTP, for probes, load balancers and Prometheus. It answers
//! questions and changes nothing, and runs on a thread of its own: it answers while a disk hangs.

mod answer;
mod lookout;
mod metrics;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use self::answer::answer;
use self::lookout::Lookout;
pub(crate) use self::lookout::{Look, Source};
use crate::error::{Error, Result};

/// Connections at a time; more wait until one ends.
const CONNECTIONS_MAX: usize = 32;
/// How long one may take to say what it asks for.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one may take for everything. It carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Pause after a connection that could not be taken in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address and its thread. Dropping it ends both.
pub(crate) struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Binds the address and answers there from what `source` says.
    pub(crate) fn start(address: SocketAddr, source: Source) -> Result<Self> {
        let making = |error| {
            let what = format!("listen for HTTP on {address}");
            Error::from(outlast_engine::Error::io(what, error))
        };
        let listener = TcpListener::bind(address).map_err(making)?;
        listener.set_nonblocking(true).map_err(making)?;
        let address = listener.local_addr().map_err(making)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "HTTP is answered beyond this host, to whoever asks");
        }
        // One thread that may block: it asks the node, which may not answer.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .map_err(making)?;
        let (stop, stopped) = oneshot::channel();
        let serving = move || {
            runtime.block_on(async {
                let lookout = Arc::new(Lookout::new(source));
                tokio::select! {
                    () = serve(listener, lookout) => {}
                    _ = stopped => {}
                }
            });
            // Nobody waits for a look that hangs.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new()
            .name("outlast-http".to_owned())
            .spawn(serving)
            .map_err(making)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the HTTP server panicked");
        }
    }
}

async fn serve(listener: TcpListener, lookout: Arc<Lookout>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "HTTP is not answered"),
    };
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(turn) = connections.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let lookout = lookout.clone();
                tokio::spawn(async move {
                    let _turn = turn;
                    let served = tokio::time::timeout(CONNECTION_TIMEOUT, take(stream, lookout));
                    if served.await.is_err() {
                        tracing::debug!("a connection took too long and was cut off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn take(stream: TcpStream, lookout: Arc<Lookout>) {
    let answering = service_fn(move |request: Request<hyper::body::Incoming>| {
        let lookout = lookout.clone();
        async move {
            let answer = answer(request.method(), request.uri(), &lookout).await;
            Ok::<Response<Full<Bytes>>, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answering);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;

//! The socket under lapin: tokio's, with three things added. It can be cut from outside, so that no
//! connection attempt that hangs keeps its thread. It notes the server's version, which lapin keeps
//! to itself. And it makes harmless what would kill the client library: see [`Filter`].

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncRead as TokioRead, AsyncWrite as TokioWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::filter::Filter;

/// A TCP stream, with TLS over it or not.
pub(super) enum Socket {
    /// `amqp://`
    Plain(TcpStream),
    /// `amqps://`
    Tls(Box<TlsStream<TcpStream>>),
}

/// Runs something on either kind.
macro_rules! either {
    ($socket:expr, $inner:ident => $run:expr) => {
        match $socket {
            Socket::Plain($inner) => {
                let $inner = Pin::new($inner);
                $run
            }
            Socket::Tls($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $run
            }
        }
    };
}

/// Bytes taken from the socket at once.
const CHUNK: usize = 64 * 1024;

/// The outside's hold on a connection.
#[derive(Default)]
pub(super) struct Cord {
    cut: AtomicBool,
    wakers: Mutex<[Option<Waker>; 2]>,
    version: OnceLock<String>,
}

impl Cord {
    /// Ends the connection: every read and write fails from now on.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// The server's version, once its greeting has come.
    pub fn version(&self) -> Option<&str> {
        self.version.get().map(String::as_str)
    }

    /// Fails when cut, and else sees to it that cutting wakes the reader (0) or writer (1).
    fn check(&self, which: usize, cx: &Context<'_>) -> io::Result<()> {
        {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut wakers[which] {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
        }
        if self.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up by this host"));
        }
        Ok(())
    }
}

/// The socket that lapin reads and writes.
pub(super) struct Guarded {
    inner: Socket,
    cord: Arc<Cord>,
    filter: Filter,
    chunk: Box<[u8]>,
}

impl Guarded {
    pub fn new(inner: Socket, cord: Arc<Cord>) -> Self {
        Self { inner, cord, filter: Filter::default(), chunk: vec![0; CHUNK].into_boxed_slice() }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.cord.check(0, cx)?;
        loop {
            let taken = this.filter.take(out);
            if taken > 0 || out.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            let mut chunk = ReadBuf::new(&mut this.chunk);
            match either!(&mut this.inner, socket => socket.poll_read(cx, &mut chunk)) {
                Poll::Ready(Ok(())) if chunk.filled().is_empty() => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(())) => {
                    if let Some(version) = this.filter.push(chunk.filled()) {
                        // A second greeting on one connection would be the server's fault.
                        let _ = this.cord.version.set(version);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.cord.check(1, cx)?;
        either!(&mut self.inner, socket => socket.poll_write(cx, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.inner, socket => socket.poll_flush(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cord.cut.load(Ordering::Acquire) {
            // A polite end would wait for a peer that may be gone.
            return Poll::Ready(Ok(()));
        }
        either!(&mut self.inner, socket => socket.poll_shutdown(cx))
    }
}

/// Tokio's executor and timers for lapin, with [`Guarded`] sockets.
#[derive(Clone, Debug)]
pub(super) struct Kit(pub async_rs::Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <async_rs::Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Guarded;
    type Sleep = <async_rs::Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Guarded, _>(io::Error::new(io::ErrorKind::Unsupported, "lapin connects by address"))
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    // Not an `async fn`: its future would borrow the kit.
    #[allow(clippy::manual_async_fn)]
    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        async move { Ok(Guarded::new(Socket::Plain(TcpStream::connect(address).await?), Arc::default())) }
    }
}

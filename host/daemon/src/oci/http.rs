//! HTTP to hosts that nobody trusts: one request a connection, every wait and every size bounded,
//! redirects followed by whoever asks. Plain HTTP only where the config or the machine itself says so.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Channel, Either, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::OciError;
use crate::config::Registry as Settings;
use crate::plugin::manifest::shown;

/// What the head of an answer may take, in bytes.
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// Pieces in which files are sent, in bytes.
const PIECE: usize = 256 << 10;

/// What is sent.
#[derive(Clone)]
pub(super) enum Upload {
    Nothing,
    Bytes(Bytes),
    /// A file of this many bytes.
    File(PathBuf, u64),
}

/// A request to one address.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub accept: &'static str,
    /// Secret.
    pub authorization: Option<&'a str>,
    pub content_type: &'a str,
    pub upload: Upload,
}

/// An answer; its body is still on the way. Dropping it ends the connection.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Who answered, for errors.
    pub host: String,
    body: Incoming,
    silence: Duration,
    _connection: Connection,
}

struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What all requests share.
pub(super) struct Http {
    tls: Arc<ClientConfig>,
    insecure: Vec<String>,
    silence: Duration,
}

fn network(host: &str, problem: impl Into<String>) -> OciError {
    OciError::Network { host: host.to_owned(), problem: problem.into() }
}

/// Host and port as they are written.
pub(super) fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("", |a| a.as_str())
}

/// Whether it is this machine.
fn is_local(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Http {
    pub fn new(settings: &Settings) -> Result<Self, OciError> {
        let bad = |problem: String| OciError::Settings { key: "registry.ca", problem };
        let mut roots = RootCertStore::empty();
        // A system without any is no error: `ca` may be all that is needed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &settings.ca {
            let pem = std::fs::read(path).map_err(|e| bad(format!("{}: {e}", path.display())))?;
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| bad(e.to_string()))?;
                roots.add(certificate).map_err(|e| bad(e.to_string()))?;
            }
            if roots.len() == before {
                return Err(bad(format!("{}: there is no certificate in it", path.display())));
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            insecure: settings.insecure.clone(),
            silence: Duration::from_millis(settings.silence_ms),
        })
    }

    /// The address of a registry: by TLS, unless it is this machine or the config lists it.
    pub fn base(&self, host: &str) -> Result<Uri, OciError> {
        let uri = |scheme: &str| {
            format!("{scheme}://{host}/").parse::<Uri>().map_err(|e| network(host, e.to_string()))
        };
        let plain = uri("http")?;
        if is_local(&plain) || self.insecure.iter().any(|listed| listed == host) {
            return Ok(plain);
        }
        uri("https")
    }

    /// An address that `from` has named. It is on the network's word only as safe as it says.
    pub fn follow(&self, from: &Uri, to: &str) -> Result<Uri, OciError> {
        let host = authority(from);
        let bad = |why: &str| network(host, format!("it sends us to {}: {why}", shown(&format!("{to:?}"))));
        let absolute = if to.starts_with('/') && !to.starts_with("//") {
            format!("{}://{host}{to}", from.scheme_str().unwrap_or("https"))
        } else {
            to.to_owned()
        };
        // A fragment is for readers.
        let absolute = absolute.split('#').next().unwrap_or_default();
        let uri: Uri = absolute.parse().map_err(|_| bad("that is no address"))?;
        if authority(&uri).is_empty() || authority(&uri).contains('@') {
            return Err(bad("that is no address of a host"));
        }
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") => {
                let listed = self.insecure.iter().any(|listed| listed == authority(&uri));
                if listed || is_local(&uri) && is_local(from) {
                    return Ok(uri);
                }
                Err(bad("plain HTTP only goes to hosts that `registry.insecure` lists"))
            }
            _ => Err(bad("that is neither https nor http")),
        }
    }

    async fn in_time<T>(&self, host: &str, what: impl Future<Output = T>) -> Result<T, OciError> {
        tokio::time::timeout(self.silence, what).await.map_err(|_| silent(host, self.silence))
    }

    /// Sends one request; answers once the head of the answer is there.
    pub async fn ask(&self, uri: &Uri, ask: Ask<'_>) -> Result<Answer, OciError> {
        let host = authority(uri).to_owned();
        let fail = |e: String| network(&host, e);
        let name = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let socket = self.in_time(&host, TcpStream::connect((name.as_str(), port))).await?;
        let socket = socket.map_err(|e| fail(format!("cannot connect: {e}")))?;
        // Fails only for a socket that is broken, which is told below.
        let _ = socket.set_nodelay(true);
        if !tls {
            return self.exchange(uri, ask, host, socket).await;
        }
        let server = ServerName::try_from(name).map_err(|e| fail(e.to_string()))?;
        let secured = TlsConnector::from(Arc::clone(&self.tls)).connect(server, socket);
        let socket = self.in_time(&host, secured).await?.map_err(|e| fail(format!("TLS: {e}")))?;
        self.exchange(uri, ask, host, socket).await
    }

    async fn exchange<S>(&self, uri: &Uri, ask: Ask<'_>, host: String, socket: S) -> Result<Answer, OciError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let fail = |e: hyper::Error| network(&host, explain(&e));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake::<_, Body>(TokioIo::new(socket))
            .await
            .map_err(fail)?;
        // What goes wrong on it is told to whoever asks or reads.
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::builder()
            .method(ask.method)
            .uri(path)
            .header(header::HOST, &host)
            .header(header::USER_AGENT, concat!("warren/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        if !ask.accept.is_empty() {
            request = request.header(header::ACCEPT, ask.accept);
        }
        if !ask.content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.content_type);
        }
        if let Some(value) = ask.authorization {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                network(&host, "the login for it holds characters that cannot be sent".to_owned())
            })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        // A file takes as long as it takes, for as long as pieces of it go.
        let (body, length, sent) = body(ask.upload);
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let request = request.body(body).map_err(|e| network(&host, e.to_string()))?;
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        let answer = loop {
            let before = sent.load(std::sync::atomic::Ordering::Relaxed);
            match tokio::time::timeout(self.silence, &mut answer).await {
                Ok(answer) => break answer.map_err(fail)?,
                Err(_) if sent.load(std::sync::atomic::Ordering::Relaxed) > before => {}
                Err(_) => return Err(silent(&host, self.silence)),
            }
        };
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            host,
            body,
            silence: self.silence,
            _connection: connection,
        })
    }
}

fn silent(host: &str, silence: Duration) -> OciError {
    network(host, format!("nothing came from it for {silence:?}"))
}

/// With what lies below, where hyper hides it.
fn explain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => shown(&format!("{error}: {source}")),
        None => error.to_string(),
    }
}

type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// A body, its length if it is one, and how many bytes of a file have been handed over.
fn body(upload: Upload) -> (Body, Option<u64>, Arc<std::sync::atomic::AtomicU64>) {
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (path, size) = match upload {
        Upload::Nothing => return (Either::Left(Full::default()), None, sent),
        Upload::Bytes(bytes) => {
            let length = bytes.len() as u64;
            return (Either::Left(Full::new(bytes)), Some(length), sent);
        }
        Upload::File(path, size) => (path, size),
    };
    let (mut sender, channel) = Channel::new(2);
    let handed = Arc::clone(&sent);
    tokio::spawn(async move {
        let pieces = async {
            let mut file = tokio::fs::File::open(&path).await?.take(size);
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                if (&mut file).take(PIECE as u64).read_to_end(&mut piece).await? == 0 {
                    return Ok::<_, io::Error>(());
                }
                let length = piece.len() as u64;
                if sender.send(Frame::data(piece.into())).await.is_err() {
                    // The connection is gone; whoever asked knows.
                    return Ok(());
                }
                handed.fetch_add(length, std::sync::atomic::Ordering::Relaxed);
            }
        };
        if let Err(error) = pieces.await {
            sender.abort(error);
        }
    });
    (Either::Right(channel), Some(size), sent)
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, OciError> {
        loop {
            let frame = tokio::time::timeout(self.silence, self.body.frame()).await;
            match frame.map_err(|_| silent(&self.host, self.silence))? {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(network(&self.host, format!("the answer broke off: {}", explain(&error))));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, which must not have more than `most` bytes.
    pub async fn whole(&mut self, most: u64) -> Result<Vec<u8>, OciError> {
        let too_large =
            |host: &str| network(host, format!("its answer has more than {most} bytes: not taken"));
        if self.length().is_some_and(|length| length > most) {
            return Err(too_large(&self.host));
        }
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            if whole.len() as u64 + piece.len() as u64 > most {
                return Err(too_large(&self.host));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// What it says of the body's length.
    pub fn length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// A header's text.
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_http_goes_only_where_it_was_allowed() {
        let settings = Settings { insecure: vec!["plain.example:5000".into()], ..Settings::default() };
        let http = Http::new(&settings).unwrap();
        for (host, scheme) in [
            ("localhost:5000", "http"),
            ("127.0.0.1:5000", "http"),
            ("[::1]:5000", "http"),
            ("plain.example:5000", "http"),
            ("plain.example", "https"),
            ("localhost.example", "https"),
            ("registry.example", "https"),
        ] {
            assert_eq!(http.base(host).unwrap().scheme_str(), Some(scheme), "{host}");
        }
        let (far, near) = (http.base("registry.example").unwrap(), http.base("localhost:5000").unwrap());
        for (from, to, end) in [
            (&far, "/v2/x?y#z", Some("https://registry.example/v2/x?y")),
            (&far, "https://cdn.example/x", Some("https://cdn.example/x")),
            (&far, "http://plain.example:5000/x", Some("http://plain.example:5000/x")),
            (&near, "http://127.0.0.1:1/x", Some("http://127.0.0.1:1/x")),
            (&far, "http://127.0.0.1:1/x", None),
            (&far, "http://cdn.example/x", None),
            (&far, "//cdn.example/x", None),
            (&far, "https://user:pw@cdn.example/", None),
            (&far, "file:///etc/passwd", None),
            (&far, "", None),
        ] {
            let got = http.follow(from, to).ok().map(|uri| uri.to_string());
            assert_eq!(got.as_deref(), end, "{to}");
        }
    }
}

//! A registry that says whatever a test wants, byte by byte: HTTP by hand, for no library lets one lie.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    pub fn authorization(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// What goes back; then the connection ends.
pub enum Act {
    /// As a registry would: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// These bytes and no more.
    Raw(Vec<u8>),
    /// These, then letters for as long as somebody reads, this many at most.
    Endless(Vec<u8>, u64),
    /// These at once, then one byte again and again.
    Drip(Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// What is in the layout.
    Honest,
}

/// 200 and these bytes.
pub fn ok(body: impl Into<Vec<u8>>) -> Act {
    Act::Answer(200, Vec::new(), body.into())
}

/// A redirect.
pub fn to(address: impl Into<String>) -> Act {
    Act::Answer(307, vec![("location", address.into())], Vec::new())
}

type Mind = Arc<dyn Fn(&Asked) -> Act + Send + Sync>;

/// A registry with a mind that can be changed.
#[derive(Clone)]
pub struct Liar {
    pub host: String,
    layout: PathBuf,
    mind: Arc<Mutex<Mind>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Bytes of bodies without an end that somebody took.
    pub sent: Arc<AtomicU64>,
}

impl Liar {
    /// Listens; what it does not lie about comes from an OCI image layout.
    pub async fn new(layout: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = format!("127.0.0.1:{}", listener.local_addr().expect("bound").port());
        let mind: Mind = Arc::new(|_| Act::Honest);
        let liar = Self {
            host,
            layout,
            mind: Arc::new(Mutex::new(mind)),
            asked: Arc::default(),
            sent: Arc::default(),
        };
        let listening = liar.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let liar = listening.clone();
                // Whoever is lied to goes away in the middle.
                tokio::spawn(async move { drop(liar.serve(stream).await) });
            }
        });
        liar
    }

    /// Changes what it says, and forgets what it was asked.
    pub fn says(&self, mind: impl Fn(&Asked) -> Act + Send + Sync + 'static) {
        *self.mind.lock().expect("whole") = Arc::new(mind);
        self.asked.lock().expect("whole").clear();
        self.sent.store(0, Ordering::Relaxed);
    }

    /// What it was asked since.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("whole").clone()
    }

    fn honest(&self, asked: &Asked) -> Act {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        match std::fs::read(self.layout.join("blobs/sha256").join(name.trim_start_matches("sha256:"))) {
            Ok(bytes) => ok(bytes),
            Err(_) => Act::Answer(404, Vec::new(), b"{\"errors\":[{\"code\":\"NOT_HERE\"}]}".to_vec()),
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let asked = Asked { method, path, headers };
        self.asked.lock().expect("whole").push(asked.clone());
        let mind = Arc::clone(&self.mind.lock().expect("whole"));
        let act = match mind(&asked) {
            Act::Honest => self.honest(&asked),
            act => act,
        };
        match act {
            Act::Answer(status, headers, body) => {
                let mut text = format!("HTTP/1.1 {status} So\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                stream.write_all(&body).await?;
            }
            Act::Raw(bytes) => stream.write_all(&bytes).await?,
            Act::Endless(bytes, most) => {
                stream.write_all(&bytes).await?;
                let piece = vec![b'a'; 64 << 10];
                while self.sent.load(Ordering::Relaxed) < most {
                    stream.write_all(&piece).await?;
                    self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
            }
            Act::Drip(bytes) => {
                stream.write_all(&bytes).await?;
                loop {
                    stream.write_all(b"a").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Act::Silence => std::future::pending().await,
            Act::Honest => {}
        }
        stream.shutdown().await
    }
}

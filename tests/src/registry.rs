//! A container registry of one's own, started from Debian's `docker-registry` package: a private port
//! and folder, ended with whoever started it, however that ends.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::rabbitmq::free_port;
use crate::{GLANCE, PATIENCE};

/// The package's program.
const PROGRAM: &str = "/usr/bin/docker-registry";
/// Who may use a registry that asks for a login, and the password's bcrypt hash.
pub const LOGIN: (&str, &str) = ("keeper", "open sesame");
const HASH: &str = "$2b$04$ezYp4G3FqTZhF1MjjOI5vOtz.sB9xQddN7VKs1loptkrzv0cV.R9K";

/// Certificates that are good for `0.0.0.0`, for a hundred years.
fn tls_data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tls")
}

/// The file with the authority of the certificates of [`Registry::start_tls`].
pub fn authority() -> PathBuf {
    tls_data().join("ca.pem")
}

/// A registry, running or stopped.
pub struct Registry {
    home: tempfile::TempDir,
    port: u16,
    tls: bool,
    running: Option<(Child, Child)>,
}

impl Registry {
    /// Starts one, and waits until it takes connections; with `login` it asks for [`LOGIN`].
    pub fn start(login: bool) -> Self {
        Self::with(login, false)
    }

    /// Starts one that speaks TLS only, with a certificate by the authority in [`authority`].
    pub fn start_tls() -> Self {
        Self::with(false, true)
    }

    fn with(login: bool, tls: bool) -> Self {
        let program = Path::new(PROGRAM);
        assert!(program.exists(), "{PROGRAM} is missing: apt-get install docker-registry");
        let home = tempfile::tempdir().expect("directory");
        let port = free_port();
        let (folder, data) = (home.path().display(), tls_data());
        let auth = if login {
            std::fs::write(home.path().join("htpasswd"), format!("{}:{HASH}\n", LOGIN.0)).expect("write");
            format!("auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n")
        } else {
            String::new()
        };
        let data = data.display();
        let tls_config = match tls {
            true => format!(", tls: {{certificate: {data}/certificate.pem, key: {data}/key.pem}}"),
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'{tls_config}}}\n{auth}"
        );
        std::fs::write(home.path().join("config.yml"), config).expect("write");
        let mut registry = Self { home, port, tls, running: None };
        registry.restart();
        registry
    }

    /// Starts it again, with what it had.
    pub fn restart(&mut self) {
        self.stop();
        let log = std::fs::File::create(self.home.path().join("log")).expect("log");
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(self.home.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let watcher = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 $0", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        self.running = Some((child, watcher));
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "docker-registry does not start:\n{log}");
            std::thread::sleep(GLANCE);
        }
    }

    /// Ends it; what it has stays.
    pub fn stop(&mut self) {
        let Some((mut child, mut watcher)) = self.running.take() else { return };
        // The watcher first: after the wait the id may be another process's.
        for child in [&mut watcher, &mut child] {
            let _ = child.kill();
            child.wait().expect("a child of ours");
        }
    }

    /// Host and port. With TLS a name of this machine that does not look like one.
    pub fn host(&self) -> String {
        let name = if self.tls { "0.0.0.0" } else { "localhost" };
        format!("{name}:{}", self.port)
    }

    /// A docker `config.json` with the login for it and this password.
    pub fn auth_file(&self, password: &str) -> PathBuf {
        let path = self.home.path().join("docker.json");
        let entry = serde_json::json!({ "username": LOGIN.0, "password": password });
        let text = serde_json::json!({ "auths": { self.host(): entry } });
        std::fs::write(&path, text.to_string()).expect("write");
        path
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

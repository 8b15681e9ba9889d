//! The example clients as programs: started, read line by line, and seen to their end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use warren_tests::logs;

/// For one line of a client: it starts, and its job goes the whole way.
pub const PATIENCE_WITH_CLIENTS: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Language {
    Python,
    Java,
    Node,
}

pub const LANGUAGES: [Language; 3] = [Language::Python, Language::Java, Language::Node];

impl Language {
    /// The client as its own page starts it, with the libraries that `prepare.sh` fetched.
    fn command(self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (clients, libraries) = (root.join("examples/clients"), root.join("target/clients"));
        let fetched = |what: &str| {
            let pins = libraries.join(what).join("pins");
            assert!(pins.is_file(), "{} is missing: run `make prerequisites`", pins.display());
        };
        match self {
            Self::Python => {
                fetched("python");
                let own = libraries.join("python/bin/python");
                let mut command = Command::new(if own.exists() { own } else { PathBuf::from("python3") });
                command.env("PYTHONUTF8", "1").env("PYTHONPATH", libraries.join("python"));
                // Nothing is written next to the sources.
                command.env("PYTHONDONTWRITEBYTECODE", "1").arg(clients.join("python/submit.py"));
                command
            }
            Self::Java => {
                let jar = Path::new("/usr/share/java/amqp-client.jar");
                assert!(jar.exists(), "{} is missing: run `make prerequisites`", jar.display());
                let mut command = Command::new("sh");
                command.arg(clients.join("java/run.sh"));
                command
            }
            Self::Node => {
                fetched("node");
                let mut command = Command::new("node");
                command.env("NODE_PATH", libraries.join("node/node_modules"));
                command.arg(clients.join("node/submit.js"));
                command
            }
        }
    }
}

/// A client at work.
pub struct Running {
    pub language: Language,
    arguments: String,
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    errors: Option<JoinHandle<String>>,
}

/// A client that has ended.
pub struct Ended {
    pub language: Language,
    pub job: Option<String>,
    /// What it printed, its job's id as `ID`.
    pub said: Vec<String>,
    pub errors: String,
    pub status: Option<i32>,
}

impl Running {
    pub fn start(language: Language, arguments: &[&str]) -> Self {
        let mut child = language
            .command()
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{language:?} does not start: {error}"));
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut errors = child.stderr.take().expect("piped");
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).expect("a pipe");
            String::from_utf8_lossy(&text).into_owned()
        });
        // The address is another one at every run.
        let shown: Vec<&str> = arguments.iter().filter(|a| !a.starts_with("amqp://")).copied().collect();
        Self { language, arguments: shown.join(" "), child, lines, said: Vec::new(), errors: Some(errors) }
    }

    /// Its next line; none at its end.
    fn line(&mut self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.lines.recv_timeout(PATIENCE_WITH_CLIENTS) {
            Ok(line) => {
                self.said.push(line.clone());
                Some(line)
            }
            Err(Disconnected) => None,
            Err(Timeout) => panic!(
                "{:?} {} said nothing for {PATIENCE_WITH_CLIENTS:?}; before: {:#?}; the host's log ends with:\n{}",
                self.language,
                self.arguments,
                self.said,
                logs::tail(30)
            ),
        }
    }

    /// Its job's id, which is its first line.
    pub fn job(&mut self) -> String {
        let line = self.line().unwrap_or_default();
        match line.strip_prefix("job ") {
            Some(id) => id.to_owned(),
            None => panic!("{:?} began with {line:?}, not with its job", self.language),
        }
    }

    pub fn end(mut self) -> Ended {
        while self.line().is_some() {}
        let status = self.child.wait().expect("waits").code();
        let errors = self.errors.take().and_then(|e| e.join().ok()).unwrap_or_default();
        let job = self.said.first().and_then(|l| l.strip_prefix("job ")).map(str::to_owned);
        let (language, arguments) = (self.language, &self.arguments);
        println!("$ {language:?} {arguments}\n{}\n{errors}exit {status:?}", self.said.join("\n"));
        let mut said = std::mem::take(&mut self.said);
        if let Some(id) = &job {
            assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id:?} is no UUID");
            said[0] = "job ID".to_owned();
        }
        Ended { language, job, said, errors, status }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a panic: none is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All three at once.
pub fn start(arguments: &[&str]) -> Vec<Running> {
    LANGUAGES.map(|language| Running::start(language, arguments)).into_iter().collect()
}

/// Runs all three with these arguments; each must print these lines after its job's and end so.
pub fn all_print(arguments: &[&str], status: i32, lines: &[&str]) {
    for client in start(arguments) {
        printed(client.end(), status, lines);
    }
}

pub fn printed(ended: Ended, status: i32, lines: &[&str]) {
    let Ended { language, said, errors, .. } = &ended;
    let expected: Vec<&str> = std::iter::once("job ID").chain(lines.iter().copied()).collect();
    assert_eq!(
        (said.iter().map(String::as_str).collect(), ended.status),
        (expected, Some(status)),
        "{language:?}: {errors}"
    );
    assert_eq!(errors, "", "{language:?}");
}

//! The admin socket: what `warren plugin list`, `load`, `unload`, `pin` and `rollback` say to a running
//! host. One JSON object a line each way, over a Unix socket that only the host's own user, and root,
//! may use.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use warren::host::Deployer;
use warren::plugin::{Listed, Plugin, Refused, Share};

/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;
/// How long a change may take: compiling and `prepare` are in it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Every version, and every folder that is refused.
    List,
    /// Load a folder, by its path on the host's machine.
    Load { folder: PathBuf },
    /// Pull a plugin by its reference, with its digest.
    LoadFrom { reference: String },
    /// Take out `name@version`, or every version of `name`.
    Unload { name: String },
    /// One version takes all jobs; without one the newest does.
    Pin { name: String, version: Option<String> },
    /// Each version takes its part.
    Weigh { name: String, weights: BTreeMap<String, u32> },
    /// The newest version gives way to the one before it.
    Rollback { name: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// Where the socket is if nobody says: in the service's runtime directory, else in the user's.
pub fn default_path() -> Option<PathBuf> {
    let directory = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let service = directory("RUNTIME_DIRECTORY").map(|dir| dir.join("admin.sock"));
    service.or_else(|| directory("XDG_RUNTIME_DIR").map(|dir| dir.join("warren/admin.sock")))
}

/// Opens the socket. One that a host left behind is replaced; one that a host listens on is not.
pub async fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {} for the admin socket", directory.display()))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another host listens on {}: give this one another `admin`", path.display());
    }
    match std::fs::symlink_metadata(path) {
        Ok(old) => {
            use std::os::unix::fs::FileTypeExt;
            ensure!(old.file_type().is_socket(), "{} is no socket: give another `admin`", path.display());
            std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("{}: {error}", path.display()),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers for as long as it is polled.
pub async fn serve(listener: UnixListener, deployer: Deployer) {
    // The socket's own user: this process's.
    let own = std::fs::metadata("/proc/self").map(|m| m.uid()).ok();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let peer = stream.peer_cred().map(|c| c.uid()).ok();
        if peer.is_none() || peer != own && peer != Some(0) {
            tracing::warn!(?peer, "refused on the admin socket: another user");
            continue;
        }
        let deployer = deployer.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &deployer).await {
                tracing::debug!(%error, "admin socket");
            }
        });
    }
}

async fn converse(stream: UnixStream, deployer: &Deployer) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read.take(MAX_LINE));
    let mut line = String::new();
    while read.read_line(&mut line).await? > 0 {
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => match answer(request, deployer).await {
                Ok(value) => Answer::Ok(value),
                Err(error) => Answer::Error(error.to_string()),
            },
            Err(error) => Answer::Error(format!("not a request: {error}")),
        };
        // Strings and numbers have a JSON form always.
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        write.write_all(&text).await?;
        line.clear();
        read.get_mut().set_limit(MAX_LINE);
    }
    Ok(())
}

async fn answer(request: Request, deployer: &Deployer) -> Result<Value, warren::host::DeployError> {
    Ok(match request {
        Request::List => {
            let (listed, refused) = deployer.list()?;
            json!({
                "versions": listed.iter().map(|l| version(l, deployer)).collect::<Vec<_>>(),
                "refused": refused.iter().map(|r| refusal(r, deployer)).collect::<Vec<_>>(),
            })
        }
        Request::Load { folder } => loaded(&*deployer.load(&folder).await?),
        Request::LoadFrom { reference } => loaded(&*deployer.load_from(&reference).await?),
        Request::Unload { name } => json!({ "unloaded": deployer.unload(&name).await? }),
        Request::Pin { name, version } => {
            let share = version.clone().map_or(Share::Newest, Share::Pinned);
            deployer.share(&name, share)?;
            json!({ "plugin": name, "pinned": version })
        }
        Request::Weigh { name, weights } => {
            deployer.share(&name, Share::Weighted(weights.clone()))?;
            json!({ "plugin": name, "weights": weights })
        }
        Request::Rollback { name } => {
            let (out, back) = deployer.roll_back(&name).await?;
            json!({ "out": out, "serving": back })
        }
    })
}

fn loaded(plugin: &Plugin) -> Value {
    json!({ "loaded": plugin.identity.plugin, "digest": plugin.identity.digest, "models": plugin.manifest.models })
}

fn version(listed: &Listed, deployer: &Deployer) -> Value {
    let plugin = &listed.plugin;
    let (jobs, broken) = plugin.tally.counts();
    let (resident, evicted) = plugin.guest.assets().resident();
    json!({
        "plugin": plugin.identity.plugin,
        "digest": plugin.identity.digest,
        "models": plugin.manifest.models,
        "state": listed.standing.name(),
        "share": listed.share,
        "assets_bytes": plugin.guest.assets().size(),
        "resident_bytes": resident,
        "evicted_bytes": evicted,
        "first_jobs": jobs,
        "of_them_failed": broken,
        "folder": plugin.guest.folder(),
        "from": deployer.origin(plugin.guest.folder()),
    })
}

fn refusal(refused: &Refused, deployer: &Deployer) -> Value {
    json!({
        "folder": refused.folder,
        "from": deployer.origin(&refused.folder),
        "reason": refused.reason,
        "since": humantime::format_rfc3339_seconds(refused.since).to_string(),
    })
}

/// Asks the host at `path`.
pub async fn ask(path: &Path, request: &Request) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(path).await.with_context(|| {
        format!(
            "no host answers at {}: is `warren serve` running as this user, and is `admin` the same?",
            path.display()
        )
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut reader = BufReader::new(stream.take(MAX_LINE << 4));
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut answer)).await;
    read.context("the host does not answer")??;
    match serde_json::from_str(&answer).context("the host ended before it answered")? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => bail!(text),
    }
}

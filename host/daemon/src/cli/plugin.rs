//! `warren plugin`: what a plugin is (`inspect`), whether it would be served (`validate`), and what a
//! running host serves (`list`, `load`, `unload`, `pin`, `rollback`); and plugins from and to registries
//! (`pull`, `push`, `pack`).

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren::oci::Reference;
use warren::plugin::{Package, signature};

use super::Settings;
use super::admin::{self, Request};
use super::sources;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Show a plugin's manifest, digest, imports and exports. Nothing of it is run.
    Inspect {
        /// The plugin's folder.
        folder: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Every version that a running host has, and every folder that it refuses, with the reason.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        running: Running,
    },
    /// Load a folder into a running host, wherever it is; or pull a plugin by its digest.
    Load {
        /// The plugin's folder, or oci://registry/repository@sha256:…, or oci-layout:/folder@sha256:…
        plugin: String,
        #[command(flatten)]
        running: Running,
    },
    /// Take a version, or a whole plugin, out of service; what runs on it finishes.
    Unload {
        /// name@version, or the name for all of its versions.
        name: String,
        #[command(flatten)]
        running: Running,
    },
    /// Let one version take all jobs of its plugin, or several a part each.
    Pin {
        /// The plugin's name.
        name: String,
        /// The version; or several with their weights: 1.2.0=90 1.3.0=10; none: the newest again.
        versions: Vec<String>,
        #[command(flatten)]
        running: Running,
    },
    /// Let the newest version of a plugin give way to the one before it.
    Rollback {
        /// The plugin's name.
        name: String,
        #[command(flatten)]
        running: Running,
    },
    /// Pull a plugin without a host; prints its name by digest.
    Pull {
        /// oci://registry/repository:tag or @sha256:…, or oci-layout:/folder:tag or @sha256:…
        reference: String,
        /// A folder to make of it; without one it goes where hosts keep what they pull.
        #[arg(long)]
        to: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Publish a plugin's folder in a registry; prints its name by digest.
    Push {
        /// The plugin's folder.
        folder: PathBuf,
        /// oci://registry/repository, with a :tag if it is to have one.
        reference: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Write a plugin's folder into an OCI image layout; prints its name by digest.
    Pack {
        /// The plugin's folder.
        folder: PathBuf,
        /// The layout's folder; made if there is none.
        layout: PathBuf,
        /// What it is called in there.
        #[arg(long)]
        tag: Option<String>,
    },
    /// Make a key to sign plugins with; prints its public half, for `signers` in the hosts' config.
    Keygen {
        /// Where the key is written; it must not exist.
        file: PathBuf,
    },
    /// Sign a plugin's folder as it is now: writes `plugin.sig` into it.
    Sign {
        /// The plugin's folder.
        folder: PathBuf,
        /// The key's file.
        #[arg(long)]
        key: PathBuf,
    },
    /// Load a plugin as a host would, `prepare` included, and say whether it would be served.
    Validate {
        /// The plugin's folder.
        folder: PathBuf,
        #[command(flatten)]
        settings: Settings,
    },
}

/// Which running host.
#[derive(clap::Args)]
pub struct Running {
    /// Its admin socket.
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Running {
    async fn ask(self, request: Request) -> anyhow::Result<Value> {
        let configured = self.settings.load()?.admin;
        let path = self.admin.or(configured).or_else(admin::default_path);
        let path = path.context("no admin socket: give --admin, or set `admin`, as for the host")?;
        admin::ask(&path, &request).await
    }
}

/// `1.2.0=90` and the like; a version alone is none of them.
fn weights(versions: &[String]) -> anyhow::Result<BTreeMap<String, u32>> {
    let part = |text: &String| {
        let (version, weight) =
            text.split_once('=').context("several versions need weights: 1.2.0=90 1.3.0=10")?;
        let weight = weight.parse().with_context(|| format!("{text}: the weight is a whole number"))?;
        Ok((version.to_owned(), weight))
    };
    versions.iter().map(part).collect()
}

/// The texts of a list, one after the other.
fn words(list: &Value) -> String {
    let all: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    all.join(", ")
}

fn show(list: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = |name: &str| list[name].as_array().cloned().unwrap_or_default();
    // Assets that were given up for want of device memory come back with the next job.
    let mib =
        |value: &Value| format!("{:.1}", value.as_u64().unwrap_or_default() as f64 / f64::from(1 << 20));
    println!(
        "{:<28} {:<9} {:>6} {:>12} {:>13} {:>13}  models",
        "plugin", "state", "share", "failed", "resident MiB", "given up MiB"
    );
    for row in rows("versions") {
        let share = format!("{:.0} %", row["share"].as_f64().unwrap_or_default() * 100.0);
        let failed = format!("{} of {}", row["of_them_failed"], row["first_jobs"]);
        let models: Vec<String> = row["models"].as_array().into_iter().flatten().map(text).collect();
        let (plugin, state) = (text(&row["plugin"]), text(&row["state"]));
        let (here, gone) = (mib(&row["resident_bytes"]), mib(&row["evicted_bytes"]));
        let models = models.join(", ");
        println!("{plugin:<28} {state:<9} {share:>6} {failed:>12} {here:>13} {gone:>13}  {models}");
        if let Some(from) = row["from"].as_str() {
            println!("    from {from}");
        }
    }
    for row in rows("refused") {
        println!(
            "refused: {} since {}\n    {}",
            row["from"].as_str().map_or_else(|| text(&row["folder"]), str::to_owned),
            text(&row["since"]),
            text(&row["reason"])
        );
    }
}

/// Runs the command.
pub async fn plugin(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::List { json, running } => {
            let list = running.ask(Request::List).await?;
            if json { println!("{list:#}") } else { show(&list) }
        }
        Command::Load { plugin, running } => {
            let request = if Reference::looks_like(&plugin) {
                Request::LoadFrom { reference: sources::reference(&plugin)?.to_string() }
            } else {
                Request::Load { folder: PathBuf::from(&plugin).canonicalize().context(plugin)? }
            };
            let done = running.ask(request).await?;
            println!(
                "serving {} for {}",
                done["loaded"].as_str().unwrap_or_default(),
                words(&done["models"])
            );
        }
        Command::Unload { name, running } => {
            let done = running.ask(Request::Unload { name }).await?;
            println!("out of service: {}", words(&done["unloaded"]));
        }
        Command::Pin { name, versions, running } => {
            let (request, said) = match versions.as_slice() {
                [] => (Request::Pin { name, version: None }, "the newest version takes all jobs".to_owned()),
                [version] if !version.contains('=') => {
                    let said = format!("{name}@{version} takes all jobs");
                    (Request::Pin { name, version: Some(version.clone()) }, said)
                }
                several => {
                    let weights = weights(several)?;
                    (Request::Weigh { name, weights }, format!("jobs are shared out: {}", several.join(" ")))
                }
            };
            running.ask(request).await?;
            println!("{said}");
        }
        Command::Rollback { name, running } => {
            let done = running.ask(Request::Rollback { name }).await?;
            let name = |key: &str| done[key].as_str().unwrap_or_default().to_owned();
            println!("{} is out of service, {} serves", name("out"), name("serving"));
        }
        Command::Pull { reference, to, settings } => {
            sources::pull(&settings.load()?, &reference, to.as_deref()).await?;
        }
        Command::Push { folder, reference, settings } => {
            sources::push(&settings.load()?, &folder, &reference).await?;
        }
        Command::Pack { folder, layout, tag } => sources::pack(&folder, &layout, tag.as_deref())?,
        Command::Keygen { file } => {
            let (key, public) = signature::new_key()?;
            let mut options = std::fs::OpenOptions::new();
            // Whoever has it signs for its owner.
            options.write(true).create_new(true).mode(0o600);
            let written = options.open(&file).and_then(|mut f| f.write_all(&key));
            written.with_context(|| format!("cannot write {}", file.display()))?;
            println!("{public}");
        }
        Command::Sign { folder, key } => {
            let package = Package::read(&folder)?;
            let path = package.folder.join(signature::FILE_NAME);
            let text = signature::sign(&package, &key)?;
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            println!("signed {} in {}", package.name(), path.display());
        }
        Command::Inspect { folder, json, settings } => {
            let host = Host::new(settings.load()?, Arc::new(Embedded::new()))?;
            let package = Package::read(&folder)?;
            let (imports, exports) = host.sandbox().interfaces(&package.name(), &package.component)?;
            if json {
                let shown = json!({
                    "manifest": package.manifest, "sha256": package.sha256, "size": package.component.len(),
                    "folder": package.folder.path(), "imports": imports, "exports": exports,
                });
                println!("{shown:#}");
            } else {
                let manifest = &package.manifest;
                println!("{}  {}", package.name(), manifest.description);
                println!("  models     {}", manifest.models.join(", "));
                println!("  component  {} ({} bytes)", manifest.component, package.component.len());
                println!("  digest     sha256:{}", package.sha256);
                for (kind, list) in [("input", &manifest.inputs), ("output", &manifest.outputs)] {
                    for tensor in list {
                        println!("  {kind:<9}  {} {} {:?}", tensor.name, tensor.datatype, tensor.shape);
                    }
                }
                println!("  limits     {}", serde_json::to_string(&manifest.limits)?);
                for import in imports {
                    println!("  import     {import}");
                }
                for export in exports {
                    println!("  export     {export}");
                }
            }
        }
        Command::Validate { folder, settings } => {
            let host = Host::new(settings.load()?, Arc::new(Embedded::new()))?;
            let started = std::time::Instant::now();
            let plugin = host.load(&folder).await?;
            println!(
                "{} would be served for {:?}: loaded in {} ms, {} assets of {} bytes",
                plugin.identity.plugin,
                plugin.manifest.models,
                started.elapsed().as_millis(),
                plugin.guest.assets().len(),
                plugin.guest.assets().size()
            );
            host.shutdown().await;
        }
    }
    Ok(true)
}

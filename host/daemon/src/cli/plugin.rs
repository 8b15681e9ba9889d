//! `warren plugin`: what a plugin is (`inspect`) and whether it would be served (`validate`).

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren::plugin::Package;

use super::Settings;

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
    /// Load a plugin as a host would, `prepare` included, and say whether it would be served.
    Validate {
        /// The plugin's folder.
        folder: PathBuf,
        #[command(flatten)]
        settings: Settings,
    },
}

/// Runs the command.
pub async fn plugin(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Inspect { folder, json, settings } => {
            let host = Host::new(settings.load()?, Arc::new(Embedded::new()))?;
            let package = Package::read(&folder)?;
            let (imports, exports) = host.sandbox().interfaces(&package.name(), &package.component)?;
            if json {
                let shown = json!({
                    "manifest": package.manifest, "sha256": package.sha256, "size": package.component.len(),
                    "folder": package.folder, "imports": imports, "exports": exports,
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

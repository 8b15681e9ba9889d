//! `warren plugin pull`, `push` and `pack`: plugins from and to registries and image layouts, without a
//! host; and where hosts keep what they pull.

use std::path::{Path, PathBuf};

use anyhow::Context;
use warren::config::Config;
use warren::oci::{self, Reference, Sources};

/// Has pulled plugins kept where the system keeps such things.
pub fn configure(config: &mut Config) {
    if config.registry.store.is_none() {
        config.registry.store = default_store();
    }
}

fn default_store() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // Of several the first. For a dynamic user it is a link, so a folder in it.
    let systemd = set("STATE_DIRECTORY").and_then(|paths| std::env::split_paths(&paths).next());
    systemd
        .map(|path| path.join("store"))
        // Relative ones are void, says the XDG specification.
        .or_else(|| {
            set("XDG_DATA_HOME").filter(|path| path.is_absolute()).map(|path| path.join("warren/store"))
        })
        .or_else(|| {
            let home = std::env::home_dir().filter(|path| path.is_absolute())?;
            Some(home.join(".local/share/warren/store"))
        })
}

/// What a person wrote: a layout's path may be relative.
pub fn reference(text: &str) -> anyhow::Result<Reference> {
    if let Some(path) = text.strip_prefix("oci-layout:").filter(|path| !path.starts_with('/')) {
        let here = std::env::current_dir().context("where are we?")?;
        return Ok(Reference::parse(&format!("oci-layout:{}/{path}", here.display()))?);
    }
    Ok(Reference::parse(text)?)
}

/// Pulls a plugin, into the store or to a folder, and prints its name by digest.
pub async fn pull(config: &Config, text: &str, to: Option<&Path>) -> anyhow::Result<()> {
    let sources = Sources::new(&config.registry)?;
    let pinned = sources.resolve(&reference(text)?).await?;
    let folder = match to {
        Some(to) => {
            sources.fetch_to(&pinned, to).await?;
            to.to_owned()
        }
        None => sources.fetch(&pinned).await?,
    };
    println!("{pinned}");
    eprintln!("in {}", folder.display());
    Ok(())
}

/// Publishes a plugin's folder and prints its name by digest.
pub async fn push(config: &Config, folder: &Path, to: &str) -> anyhow::Result<()> {
    let pushed = Sources::new(&config.registry)?.push(folder, &reference(to)?).await?;
    println!("{pushed}");
    Ok(())
}

/// Writes a plugin's folder into a layout and prints its name by digest.
pub fn pack(folder: &Path, layout: &Path, tag: Option<&str>) -> anyhow::Result<()> {
    println!("{}", oci::pack(folder, layout, tag)?);
    Ok(())
}

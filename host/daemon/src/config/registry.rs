//! How plugins are pulled that the config or an operator names by digest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Registries and image layouts, and where what comes from them is kept.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// Where pulled plugins are kept, in a directory of this user's own; none: the commands use
    /// `store` in `$STATE_DIRECTORY`, `$XDG_DATA_HOME/warren` or `~/.local/share/warren`.
    pub store: Option<PathBuf>,
    /// A docker `config.json` with names and passwords for registries.
    pub auth_file: Option<PathBuf>,
    /// Registries (host, or host:port) that are spoken to without TLS; those on this machine always are.
    pub insecure: Vec<String>,
    /// A PEM file with certificate authorities of registries, beside the system's.
    pub ca: Option<PathBuf>,
    /// The most that one plugin may have, MiB.
    pub max_mib: u64,
    /// How long pulling one plugin may take, s.
    pub seconds: u64,
    /// How long a registry may be silent, ms.
    pub silence_ms: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            store: None,
            auth_file: None,
            insecure: Vec::new(),
            ca: None,
            max_mib: 8192,
            seconds: 1800,
            silence_ms: 30_000,
        }
    }
}

//! `plugin.toml`: what a plugin says about itself. Unknown keys are errors, so that a typing
//! mistake is not a silently ignored limit.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::folder::Folder;

/// The file's name in a plugin's folder.
pub const FILE_NAME: &str = "plugin.toml";
/// The largest that is read, bytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Lower-case letters, digits and `-`; at most 64.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// A line for people.
    #[serde(default)]
    pub description: String,
    /// The models it serves: routing keys.
    pub models: Vec<String>,
    /// The component's file, relative to the folder.
    pub component: String,
    /// What the component must hash to (lower-case hex).
    #[serde(default)]
    pub sha256: Option<String>,
    /// Inputs in Open Inference Protocol terms. None listed: anything goes.
    #[serde(default)]
    pub inputs: Vec<TensorMetadata>,
    /// Outputs in Open Inference Protocol terms.
    #[serde(default)]
    pub outputs: Vec<TensorMetadata>,
    /// Further files that the plugin needs beside it, with their digests.
    #[serde(default)]
    pub files: Vec<FileDigest>,
    /// Jobs that a version must do before it serves.
    #[serde(default)]
    pub selftest: Vec<SelfTest>,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// How many jobs one call may get.
    #[serde(default)]
    pub batch: Batch,
    /// What happens to failed attempts.
    #[serde(default)]
    pub retry: Retry,
    /// What it asks for beyond the default sandbox. Granted only if the operator's config does too.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Open Inference Protocol data type, e.g. `FP32` or `BYTES`.
    pub datatype: String,
    /// Dimensions; -1 is any size.
    pub shape: Vec<i64>,
    /// The request need not have it.
    #[serde(default)]
    pub optional: bool,
    /// An output that always leaves by reference, whatever its size.
    #[serde(default)]
    pub artifact: bool,
}

/// A file beside the component.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Path relative to the folder.
    pub name: String,
    /// Lower-case hex.
    pub sha256: String,
}

/// A job that a version must do before it serves.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// A file of the folder: an Open Inference Protocol request in JSON, its inputs in it.
    pub request: String,
}

/// How many jobs one call may get.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Most jobs in a call.
    pub max_size: u32,
    /// How long the first job waits for company, ms.
    pub max_delay_ms: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_size: 1, max_delay_ms: 0 }
    }
}

/// What happens to failed attempts.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all.
    pub attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3 }
    }
}

/// Something beyond the default sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Environment variables that the operator lists for the plugin.
    Environment,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, a missing or unknown key, or a value of the wrong type.
    #[error("{path}: {problem}")]
    Parse {
        /// Where.
        path: String,
        /// Line and column, and what the parser says.
        problem: String,
    },
    /// A value that makes no sense.
    #[error("{path}: {key}: {problem}")]
    Invalid {
        /// Where.
        path: String,
        /// Which key.
        key: String,
        /// What is wrong and what is wanted.
        problem: String,
    },
}

const DATATYPES: [&str; 10] =
    ["BOOL", "UINT8", "UINT32", "UINT64", "INT8", "INT32", "INT64", "FP16", "FP32", "BYTES"];

impl Manifest {
    /// Reads and checks `folder/plugin.toml`; answers its text, too. Blocks.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn read(folder: &Path) -> Result<(Self, String), ManifestError> {
        let path = folder.join(FILE_NAME).display().to_string();
        Self::of(&Folder::open(folder).map_err(|source| ManifestError::Read { path, source })?)
    }

    /// The same of a folder that is open.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn of(folder: &Folder) -> Result<(Self, String), ManifestError> {
        let path = folder.join(FILE_NAME).display().to_string();
        let text = folder.read(FILE_NAME, MAX_MANIFEST).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
        });
        let text = text.map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        Ok((Self::parse(&text, &path)?, text))
    }

    /// Parses and checks the text of a manifest; `path` is for errors.
    pub fn parse(text: &str, path: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError::Parse {
            path: path.to_owned(),
            problem: explain(text, &error),
        })?;
        manifest.check().map_err(|(key, problem)| ManifestError::Invalid {
            path: path.to_owned(),
            key,
            problem: shown(&problem),
        })?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let bad = |key: &str, problem: String| Err((key.to_owned(), problem));
        let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if self.name.is_empty() || self.name.len() > 64 || !plain(&self.name) {
            return bad("name", format!("{:?}: use 1 to 64 lower-case letters, digits and '-'", self.name));
        }
        if self.version.len() > 64 || semver::Version::parse(&self.version).is_err() {
            return bad("version", format!("{:?}: use a semantic version such as 1.2.3", self.version));
        }
        if self.models.is_empty() {
            return bad("models", "list at least one model".into());
        }
        for model in &self.models {
            check_model(model).or_else(|problem| bad("models", problem))?;
        }
        for (key, path) in std::iter::once(("component", &self.component))
            .chain(self.files.iter().map(|f| ("files.name", &f.name)))
            .chain(self.selftest.iter().map(|t| ("selftest.request", &t.request)))
        {
            let inside = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if path.is_empty() || !inside {
                return bad(key, format!("{path:?}: use a path inside the plugin's folder"));
            }
        }
        for (key, digest) in self
            .sha256
            .iter()
            .map(|d| ("sha256", d))
            .chain(self.files.iter().map(|f| ("files.sha256", &f.sha256)))
        {
            if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            {
                return bad(key, format!("{digest:?}: use 64 lower-case hexadecimal digits"));
            }
        }
        for (key, list) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            let mut names = BTreeSet::new();
            for tensor in list {
                if tensor.name.is_empty() || !names.insert(&tensor.name) {
                    return bad(key, format!("{:?}: names must be unique and not empty", tensor.name));
                }
                if !DATATYPES.contains(&tensor.datatype.as_str()) {
                    return bad(
                        key,
                        format!(
                            "{:?}: data type {:?} is none of {DATATYPES:?}",
                            tensor.name, tensor.datatype
                        ),
                    );
                }
                if tensor.shape.len() > 8 || tensor.shape.iter().any(|d| *d < -1 || *d > i64::from(u32::MAX))
                {
                    return bad(
                        key,
                        format!(
                            "{:?}: shape {:?}: use at most 8 dimensions, -1 for any size",
                            tensor.name, tensor.shape
                        ),
                    );
                }
            }
        }
        let limits = &self.limits;
        for (key, value) in [
            ("limits.memory_mib", limits.memory_mib),
            ("limits.wall_ms", limits.wall_ms),
            ("limits.stall_ms", limits.stall_ms),
            ("limits.cpu_ms", limits.cpu_ms),
            ("limits.events_per_second", limits.events_per_second),
            ("batch.max_size", u64::from(self.batch.max_size)),
            ("retry.attempts", u64::from(self.retry.attempts)),
        ] {
            if value == 0 {
                return bad(key, "must be at least 1".into());
            }
        }
        Ok(())
    }
}

/// The most that is said of a manifest, in bytes.
const LONGEST: usize = 500;

/// `text` no longer than [`LONGEST`] and without control characters: it quotes a file that nobody
/// vouches for, and operators read it in terminals.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() > LONGEST {
            out.push_str("...");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Where the parser stumbled, and over what.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let place = error.span().and_then(|span| text.get(..span.start)).map(|before| {
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {line}, column {column}: ")
    });
    shown(&format!("{}{}", place.unwrap_or_default(), error.message()))
}

/// A model's name becomes part of queue names and routing keys.
pub fn check_model(model: &str) -> Result<(), String> {
    let fits = !model.is_empty()
        && model.len() <= 128
        && model.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'@'))
        && !model.starts_with('.')
        && !model.ends_with('.')
        && !model.contains("..");
    if !fits {
        return Err(format!(
            "{model:?}: use 1 to 128 letters, digits and '-_.:@', no dot at the ends or twice"
        ));
    }
    if [".urgent", ".bulk"].iter().any(|c| model.ends_with(c)) {
        return Err(format!("{model:?}: must not end in a priority class (.urgent, .bulk)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"a\"\nversion = \"1.2.3\"\nmodels = [\"m\"]\ncomponent = \"a.wasm\"\n";

    #[test]
    fn a_small_manifest_gets_the_defaults() {
        let manifest = Manifest::parse(GOOD, "plugin.toml").expect("parses");
        assert_eq!(manifest.limits, Limits::default());
        assert_eq!(manifest.batch.max_size, 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (extra, expect) in [
            ("colour = 1\n", "unknown field `colour`"),
            ("[limits]\nmemory = 3\n", "unknown field `memory`"),
            ("[limits]\nwall_ms = 0\n", "limits.wall_ms"),
            ("sha256 = \"xyz\"\n", "sha256"),
            ("[[inputs]]\nname = \"x\"\ndatatype = \"F32\"\nshape = [1]\n", "F32"),
            ("capabilities = [\"root\"]\n", "root"),
        ] {
            let error =
                Manifest::parse(&format!("{GOOD}{extra}"), "p/plugin.toml").expect_err(extra).to_string();
            assert!(error.contains(expect) && error.contains("p/plugin.toml"), "{extra}: {error}");
        }
        for (from, to, expect) in [
            ("\"a.wasm\"", "\"../a.wasm\"", "component"),
            ("\"a.wasm\"", "\"/a.wasm\"", "component"),
            ("1.2.3", "1.2", "version"),
            ("[\"m\"]", "[]", "models"),
            ("[\"m\"]", "[\"m.bulk\"]", "priority class"),
            ("[\"m\"]", "[\"a b\"]", "models"),
            ("name = \"a\"", "name = \"A\"", "name"),
        ] {
            let error = Manifest::parse(&GOOD.replace(from, to), "plugin.toml").expect_err(to).to_string();
            assert!(error.contains(expect), "{to}: {error}");
        }
    }
}

//! What an artifact is made of: the OCI image manifest in the CNCF's Wasm layout, read from bytes that
//! nobody vouches for. One layer is the component; a plugin's other files are layers of their own, each
//! with its name in `org.opencontainers.image.title`, as ORAS writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::reference::Digest;
use crate::plugin::manifest;

/// The largest manifest, index or config that is read: what registries must take.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// The most layers.
pub(super) const MAX_LAYERS: usize = 1000;
/// The longest name of a file, in bytes, and how deep it may lie.
const MAX_NAME: usize = 255;
const MAX_DEPTH: usize = 8;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// What a client says that it takes. The others are asked for so that their error names them.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
pub(super) const WASM_TYPE: &str = "application/wasm";
/// Files beside the component.
pub(super) const FILE_TYPE: &str = "application/octet-stream";
pub(super) const TITLE: &str = "org.opencontainers.image.title";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A blob by what it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub media_type: String,
    pub digest: String,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest as it is written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub schema_version: u32,
    pub media_type: &'static str,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    pub annotations: BTreeMap<String, String>,
}

/// The config of a component, as the layout has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WasmConfig {
    pub created: String,
    pub architecture: String,
    pub os: String,
    #[serde(default)]
    pub layer_digests: Vec<String>,
}

/// Whatever may come instead of a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// A blob that is to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// A file of a plugin's folder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct File {
    /// Its path in the folder, checked.
    pub name: String,
    pub blob: Blob,
    /// Its media type says that it is a component.
    pub wasm: bool,
}

/// A plugin as its artifact describes it. Nothing of it was fetched.
#[derive(Debug, PartialEq)]
pub(super) struct Artifact {
    pub config: Blob,
    pub files: Vec<File>,
}

fn blob(descriptor: &Descriptor) -> Result<Blob, String> {
    let digest = Digest::parse(&descriptor.digest).ok_or_else(|| {
        format!("digest {}: only sha256 in lower-case digits is taken", manifest::shown(&descriptor.digest))
    })?;
    Ok(Blob { digest, size: descriptor.size })
}

/// A name is a path within the folder in the one way in which it can be written.
fn check_name(name: &str) -> Result<(), String> {
    let shown = || manifest::shown(&format!("{name:?}"));
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("{}: a name has at most {MAX_NAME} bytes and no control characters", shown()));
    }
    let mut parts = Vec::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().unwrap_or_default()),
            _ => return Err(format!("{}: use a path inside the plugin's folder", shown())),
        }
    }
    if parts.is_empty() || parts.len() > MAX_DEPTH || parts.join("/") != name {
        return Err(format!("{}: use a plain path of at most {MAX_DEPTH} parts", shown()));
    }
    Ok(())
}

impl Artifact {
    /// Reads a manifest and checks all that can be known from it. `most` is for the bytes of all blobs.
    /// The error says what is wrong.
    pub fn parse(bytes: &[u8], most: u64) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|e| format!("its manifest is none: {}", manifest::shown(&e.to_string())))?;
        let media_type = document.media_type.as_deref().unwrap_or(MANIFEST_TYPE);
        if document.manifests.is_some() {
            return Err("it is an index of several manifests: name one of them by its digest".to_owned());
        }
        if document.fs_layers.is_some() || document.schema_version == Some(1) {
            return Err(
                "its manifest is of schema 1, which is unsafe and out of use: push it anew".to_owned()
            );
        }
        if document.schema_version != Some(2) || media_type != MANIFEST_TYPE {
            return Err(format!(
                "its manifest is of type {}, not {MANIFEST_TYPE}",
                manifest::shown(media_type)
            ));
        }
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err("its manifest has no `config` or no `layers`".to_owned());
        };
        if config.media_type != CONFIG_TYPE {
            return Err(format!(
                "its config is of type {}, not {CONFIG_TYPE}: it holds no WebAssembly component",
                manifest::shown(&config.media_type)
            ));
        }
        if layers.len() > MAX_LAYERS {
            return Err(format!("it has {} layers: at most {MAX_LAYERS} are taken", layers.len()));
        }
        let config = blob(&config)?;
        if config.size > MAX_DOCUMENT {
            return Err(format!("its config has {} bytes: at most {MAX_DOCUMENT} are taken", config.size));
        }
        let mut names = BTreeSet::new();
        let mut total = config.size;
        let mut files = Vec::with_capacity(layers.len());
        for layer in &layers {
            let name = layer.annotations.get(TITLE).ok_or_else(|| {
                format!(
                    "layer {} has no name ({TITLE}): push the plugin's folder with `warren plugin push`",
                    manifest::shown(&layer.digest)
                )
            })?;
            check_name(name)?;
            if !names.insert(name.as_str()) {
                return Err(format!("{}: two layers have this name", manifest::shown(name)));
            }
            total = total.saturating_add(layer.size);
            if total > most {
                return Err(format!(
                    "its layers have more than {most} bytes: at most so many are taken (`registry.max_mib`)"
                ));
            }
            files.push(File { name: name.clone(), blob: blob(layer)?, wasm: layer.media_type == WASM_TYPE });
        }
        let above = |name: &str| {
            let mut ancestors = Path::new(name).ancestors().skip(1);
            ancestors.any(|a| a.to_str().is_some_and(|a| names.contains(a)))
        };
        if let Some(name) = names.iter().find(|name| above(name)) {
            return Err(format!("{}: it lies in what another layer says is a file", manifest::shown(name)));
        }
        if !names.contains(manifest::FILE_NAME) {
            return Err(format!("no layer is called {}: it is no plugin of this host", manifest::FILE_NAME));
        }
        if !files.iter().any(|file| file.wasm) {
            return Err(format!("no layer is of type {WASM_TYPE}: it holds no component"));
        }
        Ok(Self { config, files })
    }
}

/// Checks that a config is one of a component. The error says what is wrong.
pub(super) fn check_config(bytes: &[u8]) -> Result<(), String> {
    let config: WasmConfig = serde_json::from_slice(bytes)
        .map_err(|e| format!("its config is none: {}", manifest::shown(&e.to_string())))?;
    if config.architecture != "wasm" || config.os != "wasip2" {
        return Err(format!(
            "its config says {} and {}: only components for wasm and wasip2 run here",
            manifest::shown(&config.architecture),
            manifest::shown(&config.os)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layer(name: &str) -> String {
        let digest = Digest::of(name.as_bytes());
        let kind = if name.ends_with(".wasm") { WASM_TYPE } else { FILE_TYPE };
        let name = serde_json::to_string(name).unwrap();
        format!(
            "{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":1,\"annotations\":{{\"{TITLE}\":{name}}}}}"
        )
    }

    fn with(names: &[&str]) -> String {
        let layers: Vec<String> = names.iter().map(|name| layer(name)).collect();
        format!(
            "{{\"schemaVersion\":2,\"config\":{{\"mediaType\":\"{CONFIG_TYPE}\",\"digest\":\"{}\",\"size\":2}},\"layers\":[{}]}}",
            Digest::of(b"{}"),
            layers.join(",")
        )
    }

    #[test]
    fn files_have_plain_names_within_the_folder() {
        let good = with(&["plugin.toml", "a.wasm", "model/weights..bin"]);
        let artifact = Artifact::parse(good.as_bytes(), 100).unwrap();
        let names: Vec<&str> = artifact.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["plugin.toml", "a.wasm", "model/weights..bin"]);
        let long = "a".repeat(256);
        let deep = "a/".repeat(8) + "a";
        for name in [
            "",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "/a",
            "//a",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\0b",
            "a\nb",
            "\u{1b}[2J",
            &long,
            &deep,
        ] {
            let refused = Artifact::parse(with(&["plugin.toml", "a.wasm", name]).as_bytes(), 100);
            let problem = refused.expect_err(name);
            assert!(!problem.chars().any(char::is_control), "{problem:?}");
        }
        for (names, word) in [
            (&["plugin.toml", "a.wasm", "b", "b"][..], "two layers"),
            (&["plugin.toml", "a.wasm", "b/c", "b"], "another layer"),
            (&["plugin.toml", "a.wasm", "a.wasm/c"], "another layer"),
            (&["a.wasm"], "plugin.toml"),
            (&["plugin.toml"], "no component"),
            (&[], "plugin.toml"),
        ] {
            let problem = Artifact::parse(with(names).as_bytes(), 100).expect_err(word);
            assert!(problem.contains(word), "{names:?}: {problem}");
        }
        let problem = Artifact::parse(good.as_bytes(), 4).expect_err("too large");
        assert!(problem.contains("more than 4 bytes"), "{problem}");
    }

    #[test]
    fn what_is_no_manifest_of_a_component_is_named() {
        let good = with(&["plugin.toml", "a.wasm"]);
        let huge = good.replace("\"size\":1", "\"size\":18446744073709551615");
        for (text, word) in [
            ("", "manifest is none"),
            ("[]", "manifest is none"),
            ("{}", "not application/vnd.oci"),
            ("{\"schemaVersion\":2}", "no `config`"),
            ("{\"schemaVersion\":2,\"manifests\":[]}", "index"),
            ("{\"schemaVersion\":1,\"fsLayers\":[]}", "schema 1"),
            (&good.replace(CONFIG_TYPE, "application/vnd.oci.image.config.v1+json"), "no WebAssembly"),
            (&good.replace("sha256:", "sha512:"), "only sha256"),
            (&good.replace("\"size\":1", "\"size\":-1"), "manifest is none"),
            (&huge, "more than"),
            (&good.replace(TITLE, "title"), "no name"),
            (&"[".repeat(100_000), "manifest is none"),
        ] {
            let problem = Artifact::parse(text.as_bytes(), 1000).expect_err(word);
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn configs_are_of_components() {
        let config = |architecture: &str, os: &str| {
            format!("{{\"created\":\"\",\"architecture\":\"{architecture}\",\"os\":\"{os}\"}}")
        };
        check_config(config("wasm", "wasip2").as_bytes()).unwrap();
        for text in [config("amd64", "linux"), config("wasm", "wasip1"), "{}".to_owned()] {
            check_config(text.as_bytes()).unwrap_err();
        }
    }
}

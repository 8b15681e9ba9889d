//! A plugin's folder made an artifact: the component first, then all that a host would read of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::artifact::{
    CONFIG_TYPE, Descriptor, FILE_TYPE, MANIFEST_TYPE, Manifest, TITLE, WASM_TYPE, WasmConfig,
};
use super::reference::{Digest, Place, Reference};
use super::{OciError, file, layout};
use crate::plugin::{Package, manifest, signature};

/// A plugin ready to be published. The same folder always makes the same bytes.
pub(super) struct Packed {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// Digest, place and size of each file.
    pub files: Vec<(Digest, PathBuf, u64)>,
}

impl Packed {
    /// Checks a plugin's folder and reads what its artifact says. Blocks.
    pub fn of(folder: &Path) -> Result<Self, OciError> {
        let package = Package::read(folder)?;
        let plugin = &package.manifest;
        let mut names = vec![plugin.component.as_str(), manifest::FILE_NAME];
        if package.folder.size(signature::FILE_NAME).is_ok() {
            names.push(signature::FILE_NAME);
        }
        let further = plugin.files.iter().map(|f| f.name.as_str());
        for name in further.chain(plugin.selftest.iter().map(|t| t.request.as_str())) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let (mut layers, mut files) = (Vec::new(), Vec::new());
        for name in names {
            let path = package.folder.join(name);
            let size = package.folder.size(name).map_err(file(&path))?;
            let digest = package.folder.sha256(name).map_err(file(&path))?;
            let digest = Digest::of_hex(digest);
            let component = name == plugin.component;
            layers.push(Descriptor {
                media_type: if component { WASM_TYPE } else { FILE_TYPE }.to_owned(),
                digest: digest.to_string(),
                size,
                annotations: BTreeMap::from([(TITLE.to_owned(), name.to_owned())]),
            });
            files.push((digest, path, size));
        }
        let fail = |e: serde_json::Error| file(package.folder.path())(e.into());
        let config = serde_json::to_vec(&WasmConfig {
            // No time of day: the same plugin has the same digest wherever it is made.
            created: "1970-01-01T00:00:00Z".to_owned(),
            architecture: "wasm".to_owned(),
            os: "wasip2".to_owned(),
            layer_digests: layers.first().map(|layer| layer.digest.clone()).into_iter().collect(),
        })
        .map_err(fail)?;
        let annotation = |key: &str, value: &str| {
            (!value.is_empty()).then(|| (format!("org.opencontainers.image.{key}"), value.to_owned()))
        };
        let manifest = serde_json::to_vec(&Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            config: Descriptor {
                media_type: CONFIG_TYPE.to_owned(),
                digest: Digest::of(&config).to_string(),
                size: config.len() as u64,
                annotations: BTreeMap::new(),
            },
            layers,
            annotations: [
                annotation("title", &plugin.name),
                annotation("version", &plugin.version),
                annotation("description", &plugin.description),
            ]
            .into_iter()
            .flatten()
            .collect(),
        })
        .map_err(fail)?;
        Ok(Self { manifest, config, files })
    }
}

/// Writes a plugin's folder into an OCI image layout, made where there is none; answers its name by
/// digest. Blocks.
///
/// # Errors
/// [`OciError`].
pub fn pack(folder: &Path, to: &Path, tag: Option<&str>) -> Result<Reference, OciError> {
    let packed = Packed::of(folder)?;
    let files: Vec<(Digest, PathBuf)> =
        packed.files.into_iter().map(|(digest, path, _)| (digest, path)).collect();
    layout::write(to, &packed.manifest, &packed.config, &files, tag)?;
    let place = Place::Layout(to.canonicalize().map_err(file(to))?);
    Ok(Reference { place, tag: None, digest: Some(Digest::of(&packed.manifest)) })
}

//! `plugin.toml`.

use warren::plugin::manifest::{Manifest, check_model};

use crate::{check_text, memory};

/// The text of a manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let limit = (1 << 20) + 512 * text.len();
    match memory::within(limit, || Manifest::parse(text, "p/plugin.toml")) {
        Ok(manifest) => good(&manifest),
        Err(error) => {
            let text = error.to_string();
            check_text(&text);
            assert!(text.contains("p/plugin.toml"), "{text} does not say where");
        }
    }
}

fn good(manifest: &Manifest) {
    assert!((1..=64).contains(&manifest.name.len()));
    assert!(manifest.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    assert!(semver::Version::parse(&manifest.version).is_ok(), "{:?} is no version", manifest.version);
    assert!(!manifest.models.is_empty());
    manifest.models.iter().for_each(|m| assert_eq!(check_model(m), Ok(())));
    for path in manifest.files.iter().map(|f| &f.name).chain([&manifest.component]) {
        let path = std::path::Path::new(path);
        assert!(path.is_relative() && path.components().count() > 0);
        assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))), "{path:?}");
    }
    for digest in manifest.files.iter().map(|f| &f.sha256).chain(&manifest.sha256) {
        assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    for tensor in manifest.inputs.iter().chain(&manifest.outputs) {
        assert!(!tensor.name.is_empty() && tensor.shape.len() <= 8);
        assert!(tensor.shape.iter().all(|d| (-1..=i64::from(u32::MAX)).contains(d)));
    }
    assert!(manifest.limits.memory_mib > 0 && manifest.limits.wall_ms > 0 && manifest.limits.stall_ms > 0);
    assert!(manifest.batch.max_size > 0 && manifest.retry.attempts > 0);
    let text = toml::to_string(manifest).expect("a manifest can be written");
    let back = Manifest::parse(&text, "again").expect("what was written can be read");
    assert_eq!(&back, manifest);
}

//! Who vouches for a plugin: an ed25519 signature (RFC 8032) over the digests of all that it is made of,
//! in the file `plugin.sig` beside its manifest. Asked for only where the operator's config names keys.

use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::Package;

/// The signature's file in a plugin's folder: 128 hexadecimal digits.
pub const FILE_NAME: &str = "plugin.sig";
/// The largest such file that is read, bytes.
const MAX_SIGNATURE: u64 = 4096;
/// First line of what is signed: a signature for something else is none for a plugin.
const DOMAIN: &str = "warren plugin 1\n";

/// Why a plugin is not vouched for, or cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// None is there, and one is asked for.
    #[error(
        "{path}: {source}: this host serves signed plugins only (`signers`): sign the folder with `warren plugin sign`"
    )]
    Missing {
        /// Where it should be.
        path: String,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// It is no signature, or none by a key that the config names, or for other bytes.
    #[error(
        "{path}: not a signature of this folder's content by any of the {keys} keys of `signers`: it was changed after it was signed, or somebody else signed it"
    )]
    Wrong {
        /// The signature's file.
        path: String,
        /// How many keys there are.
        keys: usize,
    },
    /// A key of the config.
    #[error(
        "`signers`: {0:?} is no ed25519 public key: 64 hexadecimal digits, as `warren plugin keygen` prints them"
    )]
    BadKey(String),
    /// A key's file.
    #[error("{path}: {reason}")]
    Key {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is signed: a line of digest and name for the manifest, the component and each further file, in
/// this order.
fn message(package: &Package) -> Vec<u8> {
    let mut text = format!("{DOMAIN}{} {}\n", package.manifest_sha256, super::manifest::FILE_NAME);
    text.push_str(&format!("{} {}\n", package.sha256, package.manifest.component));
    for file in &package.manifest.files {
        text.push_str(&format!("{} {}\n", file.sha256, file.name));
    }
    text.into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.trim();
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Checks that one of the keys, in hexadecimal digits, has signed the package. Without keys everything
/// passes. Blocks.
///
/// # Errors
/// [`SignatureError`].
pub fn check(package: &Package, signers: &[String]) -> Result<(), SignatureError> {
    if signers.is_empty() {
        return Ok(());
    }
    let path = package.folder.join(FILE_NAME);
    let shown = path.display().to_string();
    let text = package
        .folder
        .read(FILE_NAME, MAX_SIGNATURE)
        .map_err(|source| SignatureError::Missing { path: shown.clone(), source })?;
    let text = String::from_utf8_lossy(&text);
    let message = message(package);
    let signature = unhex::<64>(&text);
    for signer in signers {
        let key = unhex::<32>(signer).ok_or_else(|| SignatureError::BadKey(signer.clone()))?;
        let key = UnparsedPublicKey::new(&ED25519, key);
        if signature.is_some_and(|signature| key.verify(&message, &signature).is_ok()) {
            return Ok(());
        }
    }
    Err(SignatureError::Wrong { path: shown, keys: signers.len() })
}

/// Makes a key: the bytes of its file (PKCS#8), and the public half for `signers`.
///
/// # Errors
/// The system has no random numbers.
pub fn new_key() -> Result<(Vec<u8>, String), SignatureError> {
    let fail = |reason: &str| SignatureError::Key { path: "a new key".into(), reason: reason.into() };
    let file = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| fail("no random numbers"))?;
    let pair = Ed25519KeyPair::from_pkcs8(file.as_ref()).map_err(|_| fail("it cannot be read back"))?;
    Ok((file.as_ref().to_vec(), hex(pair.public_key().as_ref())))
}

/// Signs a package with the key in a file: the text for [`FILE_NAME`]. Blocks.
///
/// # Errors
/// The key cannot be read.
pub fn sign(package: &Package, key: &Path) -> Result<String, SignatureError> {
    let fail = |reason: String| SignatureError::Key { path: key.display().to_string(), reason };
    let file = std::fs::read(key).map_err(|e| fail(e.to_string()))?;
    let pair = Ed25519KeyPair::from_pkcs8(&file)
        .map_err(|_| fail("not an ed25519 key in PKCS#8: make one with `warren plugin keygen`".into()))?;
    Ok(hex(pair.sign(&message(package)).as_ref()) + "\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn package(folder: &Path) -> Package {
        Package::read(folder).unwrap()
    }

    #[test]
    fn only_what_was_signed_by_a_key_of_the_config_passes() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let digest = crate::digest::sha256_hex(b"weights");
        let manifest = format!(
            "name = \"a\"\nversion = \"1.0.0\"\nmodels = [\"a\"]\ncomponent = \"a.wasm\"\n[[files]]\nname = \"model\"\nsha256 = \"{digest}\"\n"
        );
        put("plugin.toml", &manifest);
        put("a.wasm", "component");
        put("model", "weights");
        let (file, public) = new_key().unwrap();
        let (_, other) = new_key().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, file).unwrap();
        check(&package(dir.path()), &[]).unwrap();
        let unsigned = check(&package(dir.path()), std::slice::from_ref(&public)).unwrap_err();
        assert!(unsigned.to_string().contains("warren plugin sign"), "{unsigned}");
        put(FILE_NAME, &sign(&package(dir.path()), &key).unwrap());
        check(&package(dir.path()), &[other.clone(), public.clone()]).unwrap();
        let by_nobody = check(&package(dir.path()), &[other]).unwrap_err();
        assert!(matches!(by_nobody, SignatureError::Wrong { keys: 1, .. }), "{by_nobody}");
        let bad = check(&package(dir.path()), &["abc".to_owned()]).unwrap_err();
        assert!(matches!(bad, SignatureError::BadKey(_)), "{bad}");
        // Whatever is changed afterwards, the limits in the manifest too.
        for (name, text) in
            [("plugin.toml", format!("{manifest}[limits]\nwall_ms = 1\n")), ("a.wasm", "x".into())]
        {
            let before = std::fs::read_to_string(dir.path().join(name)).unwrap();
            put(name, &text);
            let changed = check(&package(dir.path()), std::slice::from_ref(&public)).unwrap_err();
            assert!(matches!(changed, SignatureError::Wrong { .. }), "{name}: {changed}");
            put(name, &before);
        }
        for text in ["", "zz", &"0".repeat(128), &"é".repeat(64)] {
            put(FILE_NAME, text);
            let forged = check(&package(dir.path()), std::slice::from_ref(&public)).unwrap_err();
            assert!(matches!(forged, SignatureError::Wrong { .. }), "{text:?}: {forged}");
        }
    }
}

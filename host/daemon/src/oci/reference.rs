//! What an artifact is called: `oci://registry/repository@sha256:…` or `oci-layout:/folder@sha256:…`.

use std::fmt;
use std::path::PathBuf;

use super::OciError;

/// Where an artifact lies, and which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where.
    pub place: Place,
    /// A name that may point to something else tomorrow.
    pub tag: Option<String>,
    /// What it is: the digest of its manifest.
    pub digest: Option<Digest>,
}

/// Where an artifact lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a registry.
    Registry {
        /// Host, and port if it is not the usual one.
        host: String,
        /// Which of its repositories.
        repository: String,
    },
    /// In an OCI image layout on disk.
    Layout(PathBuf),
}

/// A SHA-256 digest: no other kind is taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Of `sha256:` and 64 lower-case hexadecimal digits; nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let fits = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        fits.then(|| Self(hex.to_owned()))
    }

    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crate::digest::sha256_hex(bytes))
    }

    /// Of 64 lower-case hexadecimal digits, as we write them.
    pub(super) fn of_hex(hex: String) -> Self {
        Self(hex)
    }

    /// Its digits, without `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

const FORM: &str = "write oci://REGISTRY/REPOSITORY@sha256:… or oci-layout:/FOLDER@sha256:…";

impl Reference {
    /// Whether a text means to be one: what else is a folder.
    pub fn looks_like(text: &str) -> bool {
        text.starts_with("oci://") || text.starts_with("oci-layout:")
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`OciError::Reference`].
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let bad = |problem: String| OciError::Reference { reference: text.to_owned(), problem };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).ok_or_else(|| {
                    bad("the digest is not `sha256:` and 64 lower-case hexadecimal digits".to_owned())
                })?;
                (rest, Some(digest))
            }
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if let Some(tag) = &tag {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
            if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(plain) || tag.starts_with(['.', '-']) {
                return Err(bad(format!("{tag:?} is no tag: use letters, digits, '_', '.' and '-'")));
            }
        }
        if let Some(path) = rest.strip_prefix("oci-layout:") {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err(bad("the folder's path must be absolute".to_owned()));
            }
            return Ok(Self { place: Place::Layout(path), tag, digest });
        }
        let rest = rest.strip_prefix("oci://").ok_or_else(|| bad(FORM.to_owned()))?;
        let (host, repository) = rest.split_once('/').ok_or_else(|| bad(FORM.to_owned()))?;
        check_host(host).map_err(bad)?;
        let part = |part: &str| {
            let plain =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
            !part.is_empty() && part.bytes().all(plain) && !part.starts_with(['.', '_', '-'])
        };
        if repository.len() > 255 || !repository.split('/').all(part) {
            return Err(bad(format!(
                "{repository:?} is no repository: use lower-case letters, digits, '.', '_', '-' and '/'"
            )));
        }
        let place = Place::Registry { host: host.to_owned(), repository: repository.to_owned() };
        Ok(Self { place, tag, digest })
    }

    /// The same artifact by its digest alone.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { place: self.place.clone(), tag: None, digest: Some(digest) }
    }

    /// Its digest.
    ///
    /// # Errors
    /// It has none: a tag may point to something else tomorrow, so nothing is served by one.
    pub fn digest(&self) -> Result<&Digest, OciError> {
        self.digest.as_ref().ok_or_else(|| OciError::Reference {
            reference: self.to_string(),
            problem: "what is served is named by digest: `warren plugin pull` says which one a tag has"
                .to_owned(),
        })
    }
}

/// Letters, digits, '.', '-', a port, or an IPv6 address in brackets: nothing that a URL would read
/// otherwise than we do.
fn check_host(host: &str) -> Result<(), String> {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let (address, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port.strip_prefix(':')),
        None => match host.split_once(':') {
            Some((address, port)) => (!address.is_empty() && address.bytes().all(name), Some(port)),
            None => (!host.is_empty() && host.bytes().all(name), None),
        },
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let whole = !host.starts_with('[') || port.is_some() || host.ends_with(']');
    if address && port_fits && whole {
        return Ok(());
    }
    Err(format!("{host:?} is no registry: use a host's name or address, and a port if it is not 443"))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Registry { host, repository } => write!(f, "oci://{host}/{repository}")?,
            Place::Layout(path) => write!(f, "oci-layout:{}", path.display())?,
        }
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_read_and_written_the_same() {
        for text in [
            format!("oci://registry.example/team/echo@sha256:{HEX}"),
            format!("oci://localhost:5000/echo:1.2@sha256:{HEX}"),
            "oci://[::1]:5000/echo:latest".to_owned(),
            format!("oci-layout:/srv/lay.out/x@sha256:{HEX}"),
            "oci-layout:/srv/layout:v1".to_owned(),
        ] {
            assert_eq!(Reference::parse(&text).unwrap().to_string(), text);
        }
        let layout = Reference::parse(&format!("oci-layout:/a:b/c@sha256:{HEX}")).unwrap();
        assert_eq!((layout.place, layout.tag), (Place::Layout("/a:b/c".into()), None));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "oci://registry.example",
            "oci:///echo",
            "oci://host/",
            "oci://host//echo",
            "oci://host/../echo",
            "oci://host/Echo",
            "oci://user:secret@host/echo",
            "oci://host:port/echo",
            "oci://host:99999/echo",
            "oci://ho st/echo",
            "oci://host?x/echo",
            "oci://host#x/echo",
            "oci://[::1/echo",
            "oci://host/echo@sha256:abc",
            "oci://host/echo@sha512:0",
            "oci://host/echo:a b",
            "oci-layout:relative",
            "https://host/echo",
            &format!("oci://host/echo@sha256:{}", HEX.to_uppercase()),
        ] {
            let refused = Reference::parse(text).expect_err(text).to_string();
            assert!(refused.contains(text), "{text}: {refused}");
        }
        let tag = Reference::parse("oci://host/echo:1").unwrap();
        assert!(tag.digest().unwrap_err().to_string().contains("by digest"));
    }
}

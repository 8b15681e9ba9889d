//! Who we are to a registry: logins from a docker `config.json`, and what a registry asks for with
//! `WWW-Authenticate`. Nothing here is ever logged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::OciError;
use crate::plugin::manifest::shown;

/// A login for one registry. Shows nothing of itself.
pub(super) enum Login {
    /// Name and password.
    Basic { name: String, password: String },
    /// A token that the registry takes as it is.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// The value of an `Authorization` header.
    pub fn header(&self) -> String {
        match self {
            Self::Basic { name, password } => {
                format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
            }
            Self::Token(token) => format!("Bearer {token}"),
        }
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    registrytoken: Option<String>,
    identitytoken: Option<String>,
}

/// The login for a registry from a docker `config.json`; none where the file has none for it. Programs
/// that the file names (`credHelpers`) are not run. Blocks.
///
/// # Errors
/// [`OciError::Login`].
pub(super) fn login(file: &Path, host: &str) -> Result<Option<Login>, OciError> {
    let bad =
        |problem: &str| OciError::Login { path: file.display().to_string(), problem: problem.to_owned() };
    let bytes = std::fs::read(file).map_err(|e| bad(&format!("it cannot be read: {e}")))?;
    // What the parser says might quote a password: only the place is told.
    let config: DockerConfig = serde_json::from_slice(&bytes)
        .map_err(|e| bad(&format!("line {}: it is no docker config.json", e.line())))?;
    let same = |key: &str| {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next() == Some(host)
    };
    let Some((_, entry)) = config.auths.into_iter().find(|(key, _)| same(key)) else { return Ok(None) };
    if let Some(token) = entry.registrytoken.filter(|t| !t.is_empty()) {
        return Ok(Some(Login::Token(token)));
    }
    if entry.identitytoken.is_some_and(|t| !t.is_empty()) {
        return Err(bad(&format!("{host}: identity tokens are not taken: use a name and a password")));
    }
    if let (Some(name), Some(password)) = (entry.username, entry.password) {
        return Ok(Some(Login::Basic { name, password }));
    }
    let Some(auth) = entry.auth.filter(|a| !a.is_empty()) else { return Ok(None) };
    let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match text.as_deref().and_then(|text| text.split_once(':')) {
        Some((name, password)) => {
            Ok(Some(Login::Basic { name: name.to_owned(), password: password.to_owned() }))
        }
        None => Err(bad(&format!("{host}: `auth` is not name:password in base64"))),
    }
}

/// What a registry asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Of the values of `WWW-Authenticate`; the strongest that is known.
    pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for value in values {
            let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let mut parameters = parameters(rest);
                if let Some(realm) = parameters.remove("realm") {
                    return Some(Self::Bearer { realm, service: parameters.remove("service") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
        }
        basic
    }
}

/// `a="b",c=d`.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.insert(name, value.to_owned());
        text = rest;
    }
    found
}

/// A token from a token server's answer. The error says what is wrong.
pub(super) fn token(answer: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|e| format!("its answer is no token: line {}, column {}", e.line(), e.column()))?;
    let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
    let token = token.ok_or_else(|| "its answer holds no token".to_owned())?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its token holds characters that no token may".to_owned());
    }
    Ok(token)
}

/// What a registry says of an error, for people: no longer than a line, without control characters.
pub(super) fn complaint(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Problem>,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: Option<String>,
        message: Option<String>,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else { return String::new() };
    let Some(first) = errors.errors.into_iter().next() else { return String::new() };
    let text = [first.code, first.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
    if text.is_empty() { text } else { format!(" ({})", shown(&text)) }
}

/// For the query of a URL.
pub(super) fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = |values: &[&'static str]| Challenge::parse(values.iter().copied());
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
        };
        let text = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"repository:a:pull,push\"";
        assert_eq!(read(&["Basic realm=\"x\"", text]), Some(bearer));
        assert_eq!(read(&["basic"]), Some(Challenge::Basic));
        assert_eq!(
            read(&["bearer realm=https://a"]),
            Some(Challenge::Bearer { realm: "https://a".to_owned(), service: None })
        );
        for none in
            ["", "Bearer", "Bearer realm", "Bearer service=\"x\"", "Digest realm=\"x\"", "Bearer =\"\"", "\""]
        {
            assert_eq!(read(&[none]), None, "{none:?}");
        }
    }

    #[test]
    fn logins_are_found_by_host_and_shown_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let text = "{\"auths\":{\"https://a.example/v1/\":{\"auth\":\"bmFtZTpwOnc=\"},\"b:5000\":{\"username\":\"u\",\"password\":\"p\"},\"c\":{\"registrytoken\":\"t\"},\"d\":{\"auth\":\"!\"},\"e\":{\"identitytoken\":\"x\"},\"f\":{}},\"credsStore\":\"x\"}";
        std::fs::write(&file, text).unwrap();
        let header = |host: &str| login(&file, host).unwrap().map(|l| l.header());
        assert_eq!(header("a.example").as_deref(), Some("Basic bmFtZTpwOnc="));
        assert_eq!(header("b:5000").as_deref(), Some("Basic dTpw"));
        assert_eq!(header("c").as_deref(), Some("Bearer t"));
        for none in ["f", "b", "example", "a.example.evil"] {
            assert_eq!(header(none), None, "{none}");
        }
        assert!(login(&file, "d").unwrap_err().to_string().contains("base64"));
        assert!(login(&file, "e").unwrap_err().to_string().contains("identity tokens"));
        assert_eq!(format!("{:?}", login(&file, "b:5000").unwrap()), "Some(Login)");
        std::fs::write(&file, "{\"auths\":{\"a\":{\"auth\":\"c2VjcmV0\"},\"password\"").unwrap();
        let bad = login(&file, "a").unwrap_err().to_string();
        assert!(bad.contains("line 1") && !bad.contains("c2VjcmV0"), "{bad}");
        assert!(login(&dir.path().join("none"), "a").unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn tokens_and_complaints_are_harmless() {
        assert_eq!(token(b"{\"access_token\":\"abc\"}").unwrap(), "abc");
        for bad in ["", "{}", "{\"token\":\"\"}", "{\"token\":\"a\\r\\nb\"}", "{\"token\":3}"] {
            token(bad.as_bytes()).unwrap_err();
        }
        let said = complaint(b"{\"errors\":[{\"code\":\"X\",\"message\":\"\\u001b[2J\"}]}");
        assert!(said.contains('X') && !said.chars().any(char::is_control), "{said:?}");
        assert_eq!(complaint(b"<html>"), "");
        assert_eq!(escaped("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}

//! A registry is not trusted: whatever it does ends in an error within its limit that says what was
//! wrong, leaves nothing on disk, and what serves goes on serving.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warren::config::Registry as Settings;
use warren::oci::{Digest, Place, Reference, Sources, pack};
use warren_client::JobRequest;
use warren_tests::{House, guest};

use super::wire::{Act, Asked, Liar, ok, to};

/// Of a whole pull.
const SECONDS: u64 = 3;
/// What is written into a pipe that nobody reads from: buffers of both sides, generously.
const BUFFERS: u64 = 24 << 20;

/// One way to lie.
struct Case {
    name: &'static str,
    /// Instead of the honest manifest.
    manifest: Option<Vec<u8>>,
    act: Box<dyn Fn(&Asked) -> Act + Send + Sync>,
    /// What the error says.
    word: &'static str,
}

fn case(name: &'static str, word: &'static str, act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Case {
    Case { name, manifest: None, act: Box::new(act), word }
}

/// A manifest of its own, everything else as it is.
fn document(name: &'static str, word: &'static str, manifest: impl Into<Vec<u8>>) -> Case {
    let manifest = manifest.into();
    let sent = manifest.clone();
    let act = move |asked: &Asked| if asked.is_manifest() { ok(sent.clone()) } else { Act::Honest };
    Case { name, manifest: Some(manifest), act: Box::new(act), word }
}

fn head(text: &str) -> Vec<u8> {
    format!("HTTP/1.1 {text}\r\n\r\n").into_bytes()
}

/// The honest manifest with one thing changed.
fn changed(manifest: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(manifest).expect("a manifest");
    change(&mut value);
    serde_json::to_vec(&value).expect("a manifest")
}

fn titled(manifest: &[u8], layer: usize, name: &str) -> Vec<u8> {
    changed(manifest, |m| {
        m["layers"][layer]["annotations"]["org.opencontainers.image.title"] = json!(name);
    })
}

/// Lies about one blob, of which some may be on disk by then.
fn of(
    blob: &Digest,
    act: impl Fn() -> Act + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Act + Send + Sync + 'static {
    let hex = blob.hex().to_owned();
    move |asked| if asked.path.contains(&hex) { act() } else { Act::Honest }
}

/// Lies about manifests.
fn of_manifests(act: impl Fn() -> Act + Send + Sync + 'static) -> impl Fn(&Asked) -> Act + Send + Sync {
    move |asked| if asked.is_manifest() { act() } else { Act::Honest }
}

fn cases(manifest: &[u8], host: &str) -> Vec<Case> {
    let component = serde_json::from_slice::<Value>(manifest).expect("JSON")["layers"][0].clone();
    let length = component["size"].as_u64().expect("a size");
    let component = Digest::parse(component["digest"].as_str().expect("a digest")).expect("a digest");
    let again = format!("/v2/x/blobs/{component}");
    let own = host.to_owned();
    let bearer = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
    let token_server = {
        let bearer = bearer.clone();
        move |token: fn() -> Act| {
            let bearer = bearer.clone();
            move |asked: &Asked| match asked.path.starts_with("/token") {
                true => token(),
                false => Act::Answer(401, vec![("www-authenticate", bearer.clone())], Vec::new()),
            }
        }
    };
    let realm = |text: &str| {
        let text = text.to_owned();
        move |_: &Asked| Act::Answer(401, vec![("www-authenticate", text.clone())], Vec::new())
    };
    let many = |count: usize| {
        let layer = json!({ "mediaType": "a", "digest": "b", "size": 1 }).to_string();
        let layers = vec![layer; count].join(",");
        let config = json!({ "mediaType": "application/vnd.wasm.config.v0+json", "digest": Digest::of(b"").to_string(), "size": 0 });
        format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layers}]}}")
    };
    let size = |size: u64| changed(manifest, |m| m["layers"][0]["size"] = json!(size));
    vec![
        // Bytes that are not what their digest says.
        case("another manifest", "its manifest is another", of_manifests(|| ok("{}"))),
        case("another blob", "is another", of(&component, move || ok(vec![7; length as usize]))),
        case(
            "truncated",
            "broke off",
            of(&component, move || {
                Act::Raw([head(&format!("200 OK\r\ncontent-length: {length}")), vec![7; 10_000]].concat())
            }),
        ),
        case("truncated, unsaid", "ends after 0 of", of(&component, || Act::Raw(head("200 OK")))),
        case(
            "truncated in a chunk",
            "broke off",
            of(&component, || {
                Act::Raw([head("200 OK\r\ntransfer-encoding: chunked"), b"ff\r\nabc".to_vec()].concat())
            }),
        ),
        case("endless", "is longer than", of(&component, || Act::Endless(head("200 OK"), 1 << 40))),
        case(
            "said to be longer",
            "says the registry",
            of(&component, || Act::Endless(head("200 OK\r\ncontent-length: 1099511627776"), 1 << 40)),
        ),
        case("said to be shorter", "says the registry", of(&component, || ok("{"))),
        case("half of it", "206", of(&component, || Act::Answer(206, Vec::new(), b"{".to_vec()))),
        // Where it sends us.
        case("to itself for ever", "redirects", of(&component, move || to(again.clone()))),
        case("in a circle", "redirects", move |asked| match asked.path.starts_with("/a") {
            true => to(format!("http://{own}/b")),
            false => to(format!("http://{own}/a")),
        }),
        case("to a file", "no address", of(&component, || to("file:///etc/passwd"))),
        case("to plain HTTP elsewhere", "plain HTTP", of(&component, || to("http://10.0.0.1/x"))),
        case("to another protocol", "neither https nor http", of(&component, || to("ftp://10.0.0.1/x"))),
        case("to nowhere", "no address", of(&component, || to(""))),
        // Logins.
        case("401 for ever", "401", token_server(|| ok("{\"token\":\"abc\"}"))),
        case("no token", "holds no token", token_server(|| ok("{}"))),
        case("a token of two lines", "characters", token_server(|| ok("{\"token\":\"a\\r\\nx: y\"}"))),
        case(
            "an endless token",
            "more than 65536 bytes",
            token_server(|| Act::Endless(head("200 OK"), 1 << 40)),
        ),
        case(
            "a token server that moves on",
            "302",
            token_server(|| {
                Act::Answer(302, vec![("location", "https://example.com/".to_owned())], Vec::new())
            }),
        ),
        case("a token server without TLS", "plain HTTP", realm("Bearer realm=\"http://10.0.0.1/token\"")),
        case("a token server in a file", "no address", realm("Bearer realm=\"file:///etc/passwd\"")),
        case("an unknown login", "no way that is known", realm("Negotiate")),
        case("a login that we have not", "registry.auth_file", realm("Basic realm=\"x\"")),
        // What is too large.
        case(
            "a manifest of 100 MB",
            "more than 4194304 bytes",
            of_manifests(|| Act::Endless(head("200 OK\r\ncontent-length: 100000000"), 100_000_000)),
        ),
        case(
            "an endless manifest",
            "more than 4194304 bytes",
            of_manifests(|| Act::Endless(head("200 OK"), 1 << 40)),
        ),
        case(
            "endless headers",
            "too large",
            of_manifests(|| Act::Endless(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), 1 << 40)),
        ),
        case("an endless error", "500", of_manifests(|| Act::Endless(head("500 No"), 1 << 40))),
        document("a million layers", "more than 4194304 bytes", many(1_000_000)),
        document("thousands of layers", "layers: at most 1000", many(50_000)),
        document("a layer of 16 EiB", "registry.max_mib", size(u64::MAX)),
        document("a layer too large", "registry.max_mib", size(65 << 20)),
        // What is no plugin.
        document("an index", "an index", "{\"schemaVersion\":2,\"manifests\":[]}"),
        document("schema 1", "schema 1", "{\"schemaVersion\":1,\"name\":\"x\",\"fsLayers\":[]}"),
        document("no JSON", "manifest is none", "<html>"),
        document(
            "a container",
            "no WebAssembly",
            changed(manifest, |m| {
                m["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
            }),
        ),
        document("a name above", "inside the plugin's folder", titled(manifest, 1, "../plugin.toml")),
        document("a name far away", "inside the plugin's folder", titled(manifest, 1, "/etc/cron.d/x")),
        document("a name twice", "two layers", titled(manifest, 1, "echo.wasm")),
        document("a name below a file", "another layer", titled(manifest, 1, "echo.wasm/plugin.toml")),
        document("no manifest of a plugin", "plugin.toml", titled(manifest, 1, "readme")),
        document("a component of another name", "called \"echo.wasm\"", titled(manifest, 0, "other.wasm")),
        // What never comes.
        case("silent", "nothing came", |_| Act::Silence),
        case("a head by the byte", "nothing came", |_| Act::Drip(b"HTTP/1.1 200 OK\r\nx: ".to_vec())),
        case("a body by the byte", "not here after 3 s", of_manifests(|| Act::Drip(head("200 OK")))),
        case("gone", "connection closed", |_| Act::Raw(Vec::new())),
        case("not HTTP", "invalid HTTP", |_| Act::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec())),
        case("not there", "NOT_HERE", |_| {
            Act::Answer(
                404,
                Vec::new(),
                b"{\"errors\":[{\"code\":\"NOT_HERE\",\"message\":\"\\u001b[2J\"}]}".to_vec(),
            )
        }),
    ]
}

fn is_empty(folder: &std::path::Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_registry_does_ends_in_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let layout = dir.path().join("layout");
    let store = dir.path().join("store");
    let packed = pack(&guest("echo"), &layout, None).expect("packed");
    let honest = packed.digest.expect("by digest");
    let blobs = layout.join("blobs/sha256");
    let manifest = std::fs::read(blobs.join(honest.hex())).expect("manifest");
    let liar = Liar::new(layout).await;
    let house = House::with(&[guest("echo")], |settings| {
        settings.registry = Settings {
            store: Some(store.clone()),
            max_mib: 64,
            seconds: SECONDS,
            silence_ms: 500,
            ..Settings::default()
        };
    })
    .await;
    let deployer = house.host().deployer();
    let at = |digest: Digest| {
        let place = Place::Registry { host: liar.host.clone(), repository: "team/echo".to_owned() };
        Reference { place, tag: None, digest: Some(digest) }.to_string()
    };
    let mut wrong = Vec::new();
    for case in cases(&manifest, &liar.host) {
        let Case { name, manifest, act, word } = case;
        liar.says(act);
        let reference = at(manifest.map_or_else(|| honest.clone(), |bytes| Digest::of(&bytes)));
        let start = Instant::now();
        let error = deployer.load_from(&reference).await.err();
        let (took, error) =
            (start.elapsed(), error.unwrap_or_else(|| panic!("{name}: it was loaded")).to_string());
        println!("{name:<28} {:>5} ms  {error}", took.as_millis());
        let sent = liar.sent.load(Ordering::Relaxed);
        for (good, what) in [
            (error.contains(word), word),
            (!error.chars().any(char::is_control), "control characters"),
            (took < Duration::from_secs(SECONDS + 10), "time"),
            (liar.asked().len() < 20, "requests"),
            (sent < BUFFERS, "bytes taken"),
            (is_empty(&store), "something is left"),
        ] {
            if !good {
                wrong.push(format!("{name}: {what}: {error} after {took:?}, {sent} bytes"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What served serves, and the same registry is believed what is true.
    let seen = house.run(JobRequest::new("echo").bytes("text", "still".to_owned())).await;
    assert_eq!(seen.text("text"), "still");
    liar.says(|_| Act::Honest);
    deployer.load_from(&at(honest)).await.expect("it is honest now");
    assert!(!is_empty(&store));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_goes_to_nobody_else() {
    let dir = tempfile::tempdir().expect("directory");
    let layout = dir.path().join("layout");
    let digest = pack(&guest("echo"), &layout, None).expect("packed").digest.expect("by digest");
    let (registry, elsewhere) = (Liar::new(layout.clone()).await, Liar::new(layout).await);
    let auth = dir.path().join("docker.json");
    let entry = json!({ "username": "keeper", "password": "secret" });
    let text = json!({ "auths": { registry.host.clone(): entry.clone() } }).to_string();
    std::fs::write(&auth, text).expect("write");
    let sources = |number: usize| {
        let store = Some(dir.path().join(format!("store{number}")));
        let settings = Settings { store, auth_file: Some(auth.clone()), seconds: 30, ..Settings::default() };
        Sources::new(&settings).expect("settings")
    };
    let place = Place::Registry { host: registry.host.clone(), repository: "echo".to_owned() };
    let reference = Reference { place, tag: None, digest: Some(digest) };
    // Name and password, asked for by the registry, which keeps its blobs elsewhere.
    let other = elsewhere.host.clone();
    registry.says(move |asked| match asked.authorization() {
        Some("Basic a2VlcGVyOnNlY3JldA==") if asked.is_blob() => to(format!("http://{other}{}", asked.path)),
        Some("Basic a2VlcGVyOnNlY3JldA==") => Act::Honest,
        _ => Act::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())], Vec::new()),
    });
    sources(1).fetch(&reference).await.expect("the blobs are elsewhere");
    let asked = elsewhere.asked();
    assert!(asked.len() >= 3 && asked.iter().all(|a| a.method == "GET"), "{asked:?}");
    assert!(asked.iter().all(|a| a.authorization().is_none()), "{asked:?}");
    // A token, for which name and password go to the token server alone.
    let own = registry.host.clone();
    registry.says(move |asked| match asked.authorization() {
        Some(_) if asked.path.starts_with("/token?scope=repository%3Aecho%3Apull&service=here") => {
            ok("{\"token\":\"t0ken\"}")
        }
        Some("Bearer t0ken") => Act::Honest,
        _ => {
            let realm = format!("Bearer realm=\"http://{own}/token\",service=\"here\",scope=\"everything\"");
            Act::Answer(401, vec![("www-authenticate", realm)], Vec::new())
        }
    });
    sources(2).fetch(&reference).await.expect("with a token");
    for asked in registry.asked() {
        let basic = asked.authorization().is_some_and(|a| a.starts_with("Basic"));
        assert_eq!(basic, asked.path.starts_with("/token"), "{asked:?}");
    }
    // Another host that asks gets nothing: the login is the registry's.
    elsewhere
        .says(|_| Act::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())], Vec::new()));
    let other = elsewhere.host.clone();
    registry.says(move |asked| match asked.is_blob() {
        true => to(format!("http://{other}{}", asked.path)),
        false => Act::Honest,
    });
    let error = sources(3).fetch(&reference).await.expect_err("refused").to_string();
    assert!(error.contains("401") && !error.contains("secret"), "{error}");
    assert!(elsewhere.asked().iter().all(|a| a.authorization().is_none()), "{:?}", elsewhere.asked());
}

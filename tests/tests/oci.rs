//! Plugins from registries and image layouts: pushed, pulled by digest, upgraded, kept, and served
//! without the registry. The registry is a real one, of the package `docker-registry`.

#[path = "oci/hostile.rs"]
mod hostile;
#[path = "oci/operator.rs"]
mod operator;
#[path = "oci/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::time::Instant;

use warren::config::{Config, Registry as Settings};
use warren::oci::{Digest, OciError, Place, Reference, Sources, pack};
use warren::plugin::Standing;
use warren_client::JobRequest;
use warren_tests::registry::{LOGIN, Registry, authority};
use warren_tests::{GLANCE, House, PATIENCE, guest, logs, variant};

/// A version of `echo`, complete, in a folder of its own.
fn version(dir: &Path, number: &str) -> PathBuf {
    let edit = format!("version = \"{number}\"");
    let dir = dir.join(number);
    std::fs::create_dir_all(&dir).expect("folder");
    variant(&dir, "echo", "echo", &[("version = \"0.1.0\"", &edit)])
}

fn settings(dir: &Path) -> Settings {
    Settings { store: Some(dir.join("store")), seconds: 30, silence_ms: 5_000, ..Settings::default() }
}

/// A house that serves nothing yet.
async fn empty(registry: Settings) -> House {
    House::with(&[], |config| {
        config.registry = registry;
        config.rollback.jobs = 3;
    })
    .await
}

async fn serve(house: &House, from: &[&Reference]) {
    let plugins_from = from.iter().map(ToString::to_string).collect();
    let config = Config { plugins_from, ..house.config.clone() };
    house.host().deployer().reload(&config).await.expect("it runs");
}

/// Waits until the list of versions is this: name and standing.
async fn until(house: &House, wanted: &[(&str, Standing)]) {
    let start = Instant::now();
    loop {
        let list = house.host().plugins().list();
        let seen: Vec<(&str, Standing)> =
            list.iter().map(|l| (&*l.plugin.identity.plugin, l.standing)).collect();
        if seen == wanted {
            return;
        }
        let refused = house.host().plugins().refused();
        assert!(start.elapsed() < PATIENCE, "{seen:?}, not {wanted:?}; {refused:?}\n{}", logs::tail(20));
        drop(list);
        tokio::time::sleep(GLANCE).await;
    }
}

/// Waits until something is refused with these words.
async fn refused(house: &House, words: &[&str]) {
    let start = Instant::now();
    loop {
        let seen = house.host().plugins().refused();
        if seen
            .iter()
            .any(|r| words.iter().all(|w| format!("{} {}", r.folder.display(), r.reason).contains(w)))
        {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "not refused for {words:?}: {seen:?}\n{}", logs::tail(20));
        tokio::time::sleep(GLANCE).await;
    }
}

/// Which version answered.
async fn served_by(house: &House) -> String {
    let seen = house.run(JobRequest::new("echo").bytes("text", "a".to_owned())).await;
    assert!(seen.end().is_ok(), "{:?}", seen.end());
    seen.events.last().map(|e| e.plugin.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_pulled_upgraded_and_served_without_the_registry() {
    let dir = tempfile::tempdir().expect("directory");
    let mut registry = Registry::start(true);
    let to =
        |tag: &str| Reference::parse(&format!("oci://{}/team/echo:{tag}", registry.host())).expect("good");
    let with =
        |password: &str| Settings { auth_file: Some(registry.auth_file(password)), ..settings(dir.path()) };
    // Whoever may not, does not.
    let first = version(dir.path(), "1.0.0");
    let nobody = Sources::new(&settings(dir.path())).expect("settings");
    let denied = nobody.push(&first, &to("1")).await.expect_err("no login");
    assert!(matches!(denied, OciError::Denied { .. }), "{denied}");
    let wrong = Sources::new(&with("open barley")).expect("settings").push(&first, &to("1")).await;
    let wrong = wrong.expect_err("a wrong password");
    assert!(
        matches!(wrong, OciError::Denied { .. }) && !format!("{wrong} {wrong:?}").contains("barley"),
        "{wrong}"
    );
    // The same folder makes the same artifact, wherever it goes; pushed again it is there already.
    let keeper = with(LOGIN.1);
    let sources = Sources::new(&keeper).expect("settings");
    let one = sources.push(&first, &to("1")).await.expect("pushed");
    assert_eq!(sources.push(&first, &to("1")).await.expect("again"), one);
    let packed = pack(&first, &dir.path().join("layout"), None).expect("packed");
    assert_eq!(packed.digest, one.digest);
    let two = sources.push(&version(dir.path(), "1.1.0"), &to("2")).await.expect("pushed");
    assert_eq!(sources.resolve(&to("1")).await.expect("a tag"), one);
    assert_eq!(sources.resolve(&to("2")).await.expect("a tag"), two);
    // Served by digest, never by tag.
    let house = empty(keeper.clone()).await;
    let by_tag =
        house.host().deployer().load_from(&to("1").to_string()).await.err().expect("refused").to_string();
    assert!(by_tag.contains("by digest"), "{by_tag}");
    serve(&house, &[&one]).await;
    until(&house, &[("echo@1.0.0", Standing::Serving)]).await;
    assert_eq!(served_by(&house).await, "echo@1.0.0");
    let list = house.host().plugins().list();
    let from = house.host().deployer().origin(list[0].plugin.guest.folder());
    assert_eq!(from, Some(one.to_string()));
    drop(list);
    // Another digest of the same repository is a new version: on trial first.
    serve(&house, &[&two]).await;
    until(&house, &[("echo@1.0.0", Standing::Standby), ("echo@1.1.0", Standing::Serving)]).await;
    for _ in 0..3 {
        assert_eq!(served_by(&house).await, "echo@1.1.0");
    }
    until(&house, &[("echo@1.1.0", Standing::Serving)]).await;
    // Without its registry a host serves what its store has, in a house that is new as well.
    let three = sources.push(&version(dir.path(), "1.2.0"), &to("3")).await.expect("pushed");
    registry.stop();
    let later = empty(keeper).await;
    serve(&later, &[&two, &three]).await;
    until(&later, &[("echo@1.1.0", Standing::Serving)]).await;
    refused(&later, &[&three.to_string(), "cannot connect"]).await;
    assert_eq!(served_by(&later).await, "echo@1.1.0");
    // The one that serves stays while the one that is to follow it cannot be had.
    serve(&house, &[&three]).await;
    refused(&house, &[&three.to_string(), "cannot connect"]).await;
    assert_eq!(served_by(&house).await, "echo@1.1.0");
    // Once the registry is back, so are they, by themselves.
    registry.restart();
    until(&later, &[("echo@1.1.0", Standing::Standby), ("echo@1.2.0", Standing::Serving)]).await;
    until(&house, &[("echo@1.1.0", Standing::Standby), ("echo@1.2.0", Standing::Serving)]).await;
    assert_eq!(house.host().plugins().refused().len(), 0);
    assert_eq!(served_by(&house).await, "echo@1.2.0");
    // What is not named any more is taken out.
    serve(&later, &[&two]).await;
    until(&later, &[("echo@1.1.0", Standing::Serving)]).await;
    serve(&later, &[]).await;
    until(&later, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layout_is_a_source_and_is_believed_no_more_than_a_registry() {
    let dir = tempfile::tempdir().expect("directory");
    let layout = dir.path().join("layout");
    let one = pack(&version(dir.path(), "1.0.0"), &layout, Some("one")).expect("packed");
    let two = pack(&version(dir.path(), "2.0.0"), &layout, Some("two")).expect("packed");
    let sources = Sources::new(&settings(dir.path())).expect("settings");
    let tagged = |tag: &str| Reference { tag: Some(tag.to_owned()), digest: None, ..one.clone() };
    assert_eq!(sources.resolve(&tagged("one")).await.expect("a tag"), one);
    assert_eq!(sources.resolve(&tagged("two")).await.expect("a tag"), two);
    assert!(sources.resolve(&tagged("three")).await.expect_err("none").to_string().contains("three"));
    // A tag moves; what it pointed to stays.
    pack(&version(dir.path(), "2.0.0"), &layout, Some("one")).expect("packed");
    assert_eq!(sources.resolve(&tagged("one")).await.expect("a tag"), two);
    let house = empty(settings(dir.path())).await;
    let deployer = house.host().deployer();
    deployer.load_from(&one.to_string()).await.expect("loaded");
    assert_eq!(served_by(&house).await, "echo@1.0.0");
    // A blob that was changed, is a link, or is gone: said, and nothing kept of it.
    let blobs = layout.join("blobs/sha256");
    let digest = two.digest.clone().expect("by digest");
    let manifest = std::fs::read_to_string(blobs.join(digest.hex())).expect("manifest");
    let component = Digest::of(&std::fs::read(guest("echo").join("echo.wasm")).expect("guest"));
    assert!(manifest.contains(component.hex()));
    let blob = blobs.join(component.hex());
    let whole = std::fs::read(&blob).expect("blob");
    let mut other = whole.clone();
    other[100] ^= 1;
    let kept = || std::fs::read_dir(dir.path().join("store")).expect("store").count();
    for (change, word) in [
        (Box::new(|| std::fs::write(&blob, &other)) as Box<dyn Fn() -> std::io::Result<()>>, "is another"),
        (Box::new(|| std::fs::write(&blob, &whole[1..])), "ends after"),
        (Box::new(|| std::fs::write(&blob, [&whole[..], b"x"].concat())), "is longer"),
        (
            Box::new(|| {
                std::fs::remove_file(&blob)?;
                std::os::unix::fs::symlink("/dev/zero", &blob)
            }),
            "symbolic link",
        ),
        (Box::new(|| std::fs::remove_file(&blob)), "No such file"),
    ] {
        change().expect("changed");
        let error = deployer.load_from(&two.to_string()).await.err().expect(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
        assert_eq!(kept(), 1, "{word}: only the first is whole");
    }
    assert_eq!(served_by(&house).await, "echo@1.0.0");
    std::fs::write(&blob, &whole).expect("mended");
    deployer.load_from(&two.to_string()).await.expect("loaded");
    assert_eq!(served_by(&house).await, "echo@2.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_elsewhere_are_spoken_to_by_tls() {
    let dir = tempfile::tempdir().expect("directory");
    let registry = Registry::start_tls();
    let to = Reference::parse(&format!("oci://{}/echo:1", registry.host())).expect("good");
    let push =
        async |settings: Settings| Sources::new(&settings).expect("settings").push(&guest("echo"), &to).await;
    let trusting = Settings { ca: Some(authority()), ..settings(dir.path()) };
    let pushed = push(trusting.clone()).await.expect("pushed");
    let house = empty(trusting).await;
    serve(&house, &[&pushed]).await;
    until(&house, &[("echo@0.1.0", Standing::Serving)]).await;
    // An authority that nobody named, and a registry that is said to be without TLS.
    let unknown = push(settings(dir.path())).await.expect_err("not trusted").to_string();
    assert!(unknown.contains("TLS") && unknown.contains("certificate"), "{unknown}");
    let plain = Settings { insecure: vec![registry.host()], ..settings(dir.path()) };
    let plain = push(plain).await.expect_err("it speaks TLS").to_string();
    assert!(plain.contains("400"), "{plain}");
    let none = Settings { ca: Some(guest("echo").join("plugin.toml")), ..settings(dir.path()) };
    let none = Sources::new(&none).err().expect("no certificate").to_string();
    assert!(none.contains("registry.ca"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_in_a_row_and_back_again() {
    use Standing::{Serving, Standby};
    let dir = tempfile::tempdir().expect("directory");
    let pack = |number: &str| {
        let folder = version(dir.path(), number);
        pack(&folder, &dir.path().join("layout"), None).expect("packed")
    };
    let [one, two, three] = ["1.0.0", "2.0.0", "3.0.0"].map(pack);
    let house = empty(settings(dir.path())).await;
    // Nobody asks for anything: each is still on trial when the next comes.
    for (from, wanted) in [
        (&one, &[("echo@1.0.0", Serving)][..]),
        (&two, &[("echo@1.0.0", Standby), ("echo@2.0.0", Serving)]),
        (&three, &[("echo@2.0.0", Standby), ("echo@3.0.0", Serving)]),
        // An older one again: it serves, or the config would say nothing.
        (&two, &[("echo@2.0.0", Serving)]),
        (&one, &[("echo@1.0.0", Serving)]),
        (&three, &[("echo@1.0.0", Standby), ("echo@3.0.0", Serving)]),
        (&one, &[("echo@1.0.0", Serving)]),
    ] {
        serve(&house, &[from]).await;
        until(&house, wanted).await;
    }
    assert_eq!(served_by(&house).await, "echo@1.0.0");
    serve(&house, &[]).await;
    until(&house, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_private_and_what_was_changed_in_it_is_pulled_anew() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("directory");
    let one = pack(&guest("echo"), &dir.path().join("layout"), None).expect("packed");
    let sources = Sources::new(&settings(dir.path())).expect("settings");
    assert_eq!(sources.stored(&one).await.expect("a store"), None);
    let folder = sources.fetch(&one).await.expect("pulled");
    assert_eq!(sources.stored(&one).await.expect("a store").as_ref(), Some(&folder));
    let mode = std::fs::metadata(dir.path().join("store")).expect("store").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Files changed, added and taken away.
    let manifest = std::fs::read(folder.join("plugin.toml")).expect("manifest");
    type Change<'a> = Box<dyn Fn() + 'a>;
    let changes: [Change; 4] = [
        Box::new(|| std::fs::write(folder.join("plugin.toml"), "limits").expect("write")),
        Box::new(|| std::fs::write(folder.join("plugin.sig"), "x").expect("write")),
        Box::new(|| std::fs::remove_file(folder.join("echo.wasm")).expect("remove")),
        Box::new(|| std::fs::write(folder.with_file_name("manifest.json"), "{}").expect("write")),
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        assert_eq!(sources.stored(&one).await.expect("a store"), None, "change {number} was not seen");
        assert_eq!(sources.fetch(&one).await.expect("pulled anew"), folder);
        assert_eq!(std::fs::read(folder.join("plugin.toml")).expect("manifest"), manifest);
    }
    // To a folder of one's own, which must not be there.
    let to = dir.path().join("mine");
    sources.fetch_to(&one, &to).await.expect("pulled");
    assert_eq!(std::fs::read(to.join("plugin.toml")).expect("manifest"), manifest);
    assert!(matches!(sources.fetch_to(&one, &to).await, Err(OciError::File { .. })));
    // A store that others may write to is none.
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.path().join("store"), open).expect("mode");
    let error = sources.fetch(&one).await.expect_err("refused").to_string();
    assert!(error.contains("others may write"), "{error}");
    assert_eq!(one.place, Place::Layout(dir.path().join("layout")));
}

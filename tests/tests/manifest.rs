//! Plugins that cannot be served, and what the operator reads about each: which file, what is wrong
//! with it, and what to do.

use std::path::{Path, PathBuf};

use warren_tests::{House, guest, variant};

/// A folder with this manifest and component.
fn plugin(dir: &Path, name: &str, component: &[u8]) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).expect("folder");
    let manifest = format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\nmodels = [\"{name}\"]\ncomponent = \"{name}.wasm\"\n"
    );
    std::fs::write(folder.join("plugin.toml"), manifest).expect("manifest");
    std::fs::write(folder.join(format!("{name}.wasm")), component).expect("component");
    folder
}

/// Whether the host refuses the folder with an error that holds all of `says`, serves nothing of
/// it, and stays well.
async fn refused(house: &House, folder: &Path, says: &[&str]) {
    let Err(error) = house.host().load(folder).await else {
        panic!("{} was loaded, and should not: {says:?}", folder.display());
    };
    let text = error.to_string();
    println!(
        "{} | {}",
        folder.file_name().expect("named").display(),
        text.lines().next().unwrap_or_default()
    );
    for part in says {
        assert!(text.contains(part), "{} does not say {part:?}: {text}", folder.display());
    }
    let models = house.host().plugins().models();
    assert_eq!(models, ["echo"], "{} is not served", folder.display());
    house.answers(&text).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_wrong_is_refused_with_its_path_and_key() {
    let house = House::open(&[guest("echo")]).await;
    let dir = tempfile::tempdir().expect("directory");
    let edited = |name: &str, from: &str, to: &str| variant(dir.path(), "echo", name, &[(from, to)]);
    let component = "component = \"echo.wasm\"";
    let table = |name: &str, line: &str| edited(name, component, &format!("{component}\n{line}"));
    for (folder, says) in [
        (
            table("unknown-key", "colour = \"red\""),
            &["unknown-key/plugin.toml", "unknown field `colour`"][..],
        ),
        (
            table("unknown-limit", "[limits]\nmemory = 3"),
            &["unknown-limit/plugin.toml", "unknown field `memory`"],
        ),
        (edited("version", "0.1.0", "1.2"), &["version/plugin.toml", "version", "\"1.2\"", "1.2.3"]),
        (edited("leading-zero", "0.1.0", "01.2.3"), &["leading-zero/plugin.toml", "version"]),
        (
            edited("outside", "echo.wasm", "../echo.wasm"),
            &["outside/plugin.toml", "component", "inside the plugin's folder"],
        ),
        (edited("no-component", component, ""), &["no-component/plugin.toml", "missing field `component`"]),
        (edited("missing-file", "echo.wasm", "ohce.wasm"), &["missing-file/ohce.wasm", "No such file"]),
        (table("digest-text", "sha256 = \"abc\""), &["digest-text/plugin.toml", "sha256", "64 lower-case"]),
        (
            table("digest", &format!("sha256 = \"{}\"", "0".repeat(64))),
            &["digest/echo.wasm", "sha256 is", "0000000000", "another version"],
        ),
        (
            table(
                "file-digest",
                &format!("[[files]]\nname = \"plugin.toml\"\nsha256 = \"{}\"", "0".repeat(64)),
            ),
            &["file-digest/plugin.toml", "sha256 is", "0000000000"],
        ),
        (
            table("file-missing", &format!("[[files]]\nname = \"weights\"\nsha256 = \"{}\"", "0".repeat(64))),
            &["file-missing/weights", "No such file"],
        ),
        (dir.path().join("nowhere"), &["nowhere/plugin.toml", "No such file"]),
    ] {
        refused(&house, &folder, says).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_another_world_is_refused_by_the_name_of_what_is_missing() {
    let house = House::open(&[guest("echo")]).await;
    let dir = tempfile::tempdir().expect("directory");
    let wat = |text: &str| wat::parse_str(text).expect("valid text");
    // A function of the name, lifted from a core function without parameters and results.
    let export = |name: &str| {
        format!(
            "(core module $m (func (export \"f\")))
             (core instance $i (instantiate $m))
             (func $f (canon lift (core func $i \"f\")))
             (export \"{name}\" (func $f))"
        )
    };
    let echo = std::fs::read(guest("echo").join("echo.wasm")).expect("component");
    for (folder, says) in [
        (
            plugin(
                dir.path(),
                "frob",
                &wat("(component (import \"acme:frob/thing@1.0.0\" (instance (export \"frob\" (func)))))"),
            ),
            &["frob/frob.wasm", "warren:plugin/plugin@0.1.0", "acme:frob/thing@1.0.0"][..],
        ),
        (
            plugin(
                dir.path(),
                "newer",
                &wat("(component (import \"warren:plugin/log@0.1.0\" (instance (export \"sing\" (func)))))"),
            ),
            &["newer/newer.wasm", "warren:plugin/log@0.1.0", "sing"],
        ),
        (
            plugin(dir.path(), "no-infer", &wat(&format!("(component {})", export("prepare")))),
            &["no-infer/no-infer.wasm", "warren:plugin/plugin@0.1.0", "infer"],
        ),
        (
            plugin(dir.path(), "empty", &wat("(component)")),
            &["empty/empty.wasm", "warren:plugin/plugin@0.1.0"],
        ),
        (
            plugin(
                dir.path(),
                "other-types",
                &wat(&format!(
                    "(component
                       (component $a {}) (component $b {})
                       (instance $x (instantiate $a)) (instance $y (instantiate $b))
                       (export \"prepare\" (func $x \"prepare\")) (export \"infer\" (func $y \"infer\")))",
                    export("prepare"),
                    export("infer")
                )),
            ),
            &["other-types/other-types.wasm", "warren:plugin/plugin@0.1.0", "func `infer`"],
        ),
        (
            plugin(
                dir.path(),
                "greedy",
                &wat(&format!(
                    "(component {} (core module $t (table 1 funcref)) {})",
                    export("prepare"),
                    "(core instance (instantiate $t))".repeat(17)
                )),
            ),
            &["greedy/greedy.wasm", "17", "16", "tables"],
        ),
        (
            plugin(dir.path(), "module", &wat("(module (func (export \"infer\")))")),
            &["module/module.wasm", "not a WebAssembly component"],
        ),
        (
            plugin(dir.path(), "garbage", b"#!/bin/sh\necho hello\n"),
            &["garbage/garbage.wasm", "not a WebAssembly component"],
        ),
        (plugin(dir.path(), "nothing", b""), &["nothing/nothing.wasm", "not a WebAssembly component"]),
        (
            plugin(dir.path(), "cut", &echo[..echo.len() / 2]),
            &["cut/cut.wasm", "not a WebAssembly component"],
        ),
    ] {
        refused(&house, &folder, says).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_whose_prepare_fails_is_refused_with_its_reason() {
    let house = House::open(&[guest("echo")]).await;
    let dir = tempfile::tempdir().expect("directory");
    for (mode, says) in [
        ("trap", &["trap@0.1.0", "prepare", "PLUGIN_TRAPPED", "unreachable"][..]),
        ("loop", &["loop@0.1.0", "prepare", "STALLED", "limits.stall_ms is 700"]),
        ("allocate", &["allocate@0.1.0", "prepare", "MEMORY_LIMIT", "limits.memory_mib is 64"]),
        ("failed", &["failed@0.1.0", "prepare", "PLUGIN_FAILED", "the weights are missing"]),
        ("invalid", &["invalid@0.1.0", "prepare", "prepare says invalid"]),
        ("retry", &["retry@0.1.0", "prepare", "prepare says retry"]),
        ("assets", &["assets@0.1.0", "prepare", "limits.assets_mib is 5"]),
    ] {
        let folder =
            variant(dir.path(), "hostile", mode, &[("device_mib = 64", "device_mib = 64\nassets_mib = 5")]);
        std::fs::write(folder.join("prepare"), mode).expect("mode");
        refused(&house, &folder, says).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_plugin_of_one_name_and_version_is_refused_and_the_same_one_is_not() {
    let house = House::open(&[guest("echo")]).await;
    let dir = tempfile::tempdir().expect("directory");
    let same = variant(dir.path(), "echo", "echo", &[]);
    house.host().load(&same).await.unwrap_or_else(|e| panic!("the same bytes load again: {e}"));
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("folder");
    std::fs::copy(same.join("plugin.toml"), other.join("plugin.toml")).expect("copy");
    std::fs::copy(guest("noop").join("noop.wasm"), other.join("echo.wasm")).expect("copy");
    refused(&house, &other, &["/other", "echo@0.1.0", "another version"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_folder_does_not_keep_the_others_from_being_served() {
    let dir = tempfile::tempdir().expect("directory");
    variant(dir.path(), "echo", "echo", &[]);
    variant(dir.path(), "noop", "noop", &[("models", "mdoels")]);
    std::fs::create_dir(dir.path().join("notes")).expect("a folder that is no plugin");
    let house = House::with(&[], |config| config.plugins = dir.path().to_owned()).await;
    let loaded = house.host().load_all().await.expect("the directory is there");
    let seen: Vec<_> = loaded
        .iter()
        .map(|(folder, result)| {
            (folder.file_name().expect("named").to_string_lossy().into_owned(), result.is_ok())
        })
        .collect();
    assert_eq!(seen, [("echo".to_owned(), true), ("noop".to_owned(), false)]);
    assert_eq!(house.host().plugins().models(), ["echo"]);
}

//! The plugin folders that the tests serve.

use std::fs;
use std::path::{Path, PathBuf};

use warren_client::JobRequest;

/// The folder of a plugin or guest as the build script laid it out.
pub fn guest(name: &str) -> PathBuf {
    let folder = Path::new(env!("WARREN_GUESTS")).join(name);
    assert!(folder.join("plugin.toml").is_file(), "no guest in {}", folder.display());
    folder
}

/// A copy of guest `original` in a folder of `dir` with plugin and model called `name`, and texts
/// of its manifest replaced; each must be there.
pub fn variant(dir: &Path, original: &str, name: &str, edits: &[(&str, &str)]) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("folder");
    for entry in fs::read_dir(guest(original)).expect("guest").flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("copy");
    }
    let path = folder.join("plugin.toml");
    let mut text = fs::read_to_string(&path).expect("manifest");
    let names = [
        (format!("name = \"{original}\""), format!("name = \"{name}\"")),
        (format!("models = [\"{original}\"]"), format!("models = [\"{name}\"]")),
    ];
    let names = names.iter().map(|(from, to)| (from.as_str(), to.as_str()));
    for (from, to) in names.chain(edits.iter().copied()) {
        assert!(text.contains(from), "{from:?} is not in the manifest of {original}:\n{text}");
        text = text.replacen(from, to, 1);
    }
    fs::write(&path, text).expect("manifest");
    folder
}

/// A job that makes the guest `hostile` misbehave as `mode` says.
pub fn hostile(mode: &str, number: i64) -> JobRequest {
    JobRequest::new("hostile").parameter("mode", mode).parameter("number", number)
}

/// The guest `hostile` as model `patient`, with clocks that no case reaches.
pub fn patient(dir: &Path) -> PathBuf {
    let clocks = [("wall_ms = 1500", "wall_ms = 60000"), ("stall_ms = 700", "stall_ms = 60000")];
    variant(dir, "hostile", "patient", &clocks)
}

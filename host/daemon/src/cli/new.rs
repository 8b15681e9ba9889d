//! `warren new`: the folder of a plugin that builds.

use std::path::PathBuf;

use anyhow::{Context, ensure};

#[derive(clap::Args)]
pub struct Args {
    /// The plugin's name: lower-case letters, digits and '-'.
    name: String,
    /// Where the folder is made.
    #[arg(long, default_value = ".")]
    into: PathBuf,
    /// Path of the crate `warren-sdk`, if it is not to come from the registry.
    #[arg(long)]
    sdk: Option<PathBuf>,
}

const LIB: &str = r#"//! Adds one to every element of the input `x`.

use warren_sdk::prelude::*;

struct Plugin1;

impl Plugin for Plugin1 {
    fn infer(job: &Job) -> Result<Outputs, Failure> {
        let x = job.tensor("x")?;
        job.report("guessing", 0.5, "adding one");
        let one = Tensor::fill(x.data_type(), &[], 1.0)?;
        Ok(Outputs::new().tensor("y", (&x + &one)?))
    }
}

warren_sdk::plugin!(Plugin1);
"#;

/// Writes the folder.
pub fn new(args: &Args) -> anyhow::Result<()> {
    let name = &args.name;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ensure!(
        name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-'),
        "{name:?}: use lower-case letters, digits and '-', a letter first"
    );
    let folder = args.into.join(name);
    ensure!(!folder.exists(), "{} exists already", folder.display());
    let sdk = match &args.sdk {
        Some(path) => {
            let path =
                path.canonicalize().with_context(|| format!("no crate at --sdk {}", path.display()))?;
            format!("{{ path = {path:?} }}")
        }
        None => format!("{:?}", env!("CARGO_PKG_VERSION")),
    };
    let library = name.replace('-', "_");
    let write = |file: &str, text: String| {
        let path = folder.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(folder.join("src"))
        .with_context(|| format!("cannot create {}", folder.display()))?;
    write(
        "Cargo.toml",
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n\
             [dependencies]\nwarren-sdk = {sdk}\n\n[profile.release]\npanic = \"abort\"\nlto = true\n\n[workspace]\n"
        ),
    )?;
    write("src/lib.rs", LIB.to_owned())?;
    write(
        "plugin.toml",
        format!(
            "name = \"{name}\"\nversion = \"0.1.0\"\nmodels = [\"{name}\"]\n\
             component = \"target/wasm32-wasip2/release/{library}.wasm\"\n\n\
             [[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [-1]\n\n[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [-1]\n"
        ),
    )?;
    write(
        "request.json",
        "{\"inputs\": [{\"name\": \"x\", \"datatype\": \"FP32\", \"shape\": [3], \"data\": [1, 2, 3]}]}\n"
            .to_owned(),
    )?;
    println!(
        "{}\n  cd {} && cargo build --release --target wasm32-wasip2\n  warren run {} --request {}",
        folder.display(),
        folder.display(),
        folder.display(),
        folder.join("request.json").display()
    );
    Ok(())
}

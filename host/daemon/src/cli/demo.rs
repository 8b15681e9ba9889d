//! `warren demo`: synthesises a melody, or takes a WAV file, and has it transcribed on the embedded
//! broker. What it shows is what a client sees.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use warren::artifacts::file_url;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::host::Host;
use warren_client::oip::{Data, InferResponse, Tensor};
use warren_client::{Client, EventBody, JobRequest};

use super::Settings;
use super::melody::{self, Note};
use super::render::Render;

#[derive(clap::Args)]
pub struct Args {
    /// A WAV file of your own instead of the melody.
    audio: Option<PathBuf>,
    /// The folder of the plugin `transcribe`.
    #[arg(long, default_value = "target/plugins/transcribe")]
    plugin: PathBuf,
    /// Where the WAV and the MIDI file go.
    #[arg(long, default_value = "demo-out")]
    output_dir: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Deserialize)]
struct Found {
    start: f64,
    end: f64,
    pitch: u8,
    name: String,
}

/// Runs the demo; true when there is a result.
pub async fn demo(args: Args) -> anyhow::Result<bool> {
    ensure!(
        args.plugin.join("plugin.toml").is_file(),
        "no plugin in {}: `make plugins` builds it",
        args.plugin.display()
    );
    let out = &args.output_dir;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let out = out.canonicalize()?;
    let (audio, played) = match args.audio {
        Some(path) => {
            (path.canonicalize().with_context(|| format!("no audio file {}", path.display()))?, None)
        }
        None => {
            let (wav, notes) = melody::synthesize();
            let path = out.join("melody.wav");
            std::fs::write(&path, wav).with_context(|| format!("cannot write {}", path.display()))?;
            println!("synthesised {} notes into {}", notes.len(), path.display());
            (path, Some(notes))
        }
    };
    let mut config = args.settings.load()?;
    config.artifacts.read = audio.parent().map(PathBuf::from).into_iter().collect();
    config.artifacts.write = Some(out);

    let started = Instant::now();
    let broker = Embedded::new();
    let host = Host::new(config, Arc::new(broker.connect()))?;
    let plugin = host.load(&args.plugin).await?;
    host.serve().await?;
    println!(
        "serving {} ({}) after {} ms",
        plugin.identity.plugin,
        plugin.identity.digest,
        started.elapsed().as_millis()
    );

    let client = Client::connect(Arc::new(BrokerTransport::new(Arc::new(broker.connect())))).await?;
    let submitted = Instant::now();
    let job = JobRequest::new("transcribe").input(Tensor::reference("audio", file_url(&audio), None));
    let mut handle = client.submit(job).await?;
    println!("job {}", handle.id());
    let mut render = Render::new(false);
    let mut result = None;
    while let Some(event) = handle.next().await {
        let event = event?;
        match event.body {
            EventBody::Result(response) => result = Some(response),
            _ => render.show(handle.id(), &event)?,
        }
    }
    render.finish();
    host.shutdown().await;
    let Some(response) = result else { return Ok(false) };
    let took = submitted.elapsed();
    report(&response, played.as_deref())?;
    let seconds = response.parameters.get("seconds").map(|p| match p {
        warren_client::oip::Parameter::Int(n) => *n as f64,
        warren_client::oip::Parameter::Float(n) => *n,
        _ => 0.0,
    });
    println!("{:.1} s of audio in {:.2} s", seconds.unwrap_or_default(), took.as_secs_f64());
    Ok(true)
}

/// The notes found, beside the notes played where they are known, and where the MIDI file is.
fn report(response: &InferResponse, played: Option<&[Note]>) -> anyhow::Result<()> {
    let Some(Tensor { data: Data::Strings(notes), .. }) = response.output("notes") else {
        bail!("the result has no notes");
    };
    let notes = notes.first().context("the result's notes are empty")?;
    let found: Vec<Found> =
        serde_json::from_slice(notes).context("the result's notes are not as expected")?;
    match played {
        Some(played) => {
            let found: Vec<Note> =
                found.iter().map(|n| Note { start: n.start, end: n.end, pitch: n.pitch }).collect();
            println!("{}", melody::compare(&found, played));
        }
        None => {
            for note in &found {
                println!("{:8.2} s  {:6.2} s  {}", note.start, note.end - note.start, note.name);
            }
            println!("{} notes", found.len());
        }
    }
    if let Some(url) = response.output("midi").and_then(|t| t.parameters.text("dataref")) {
        println!("MIDI file: {}", url.strip_prefix("file://").unwrap_or(url));
    }
    Ok(())
}

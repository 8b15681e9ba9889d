//! Every way to send nonsense, or what cannot be served, and the code that the client sees.
//! `cargo test -p warren-tests --test bad_input --test bad_plugin -- --nocapture` prints the table:
//! case, code, text.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use warren::broker::{Broker, HeaderValue, Message};
use warren::config::Config;
use warren::job::Code;
use warren_client::JobRequest;
use warren_tests::inbox::{body, job, kind};
use warren_tests::table::{case, check_all};
use warren_tests::{House, Inbox, guest, patient, variant};

fn with_header(mut message: Message, name: &str, value: HeaderValue) -> Message {
    message.properties.set(name, value);
    message
}

fn input(entry: serde_json::Value) -> Bytes {
    json!({ "inputs": [entry] }).to_string().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_request_is_a_bad_request() {
    let house = House::open(&[guest("echo")]).await;
    let echo = |body: &str| job("echo", "bad", body.to_owned());
    let good = || job("echo", "bad", body(json!({})));
    let deep = 10_000;
    let (open, close) = ("[".repeat(deep), "]".repeat(deep));
    let text = |value: &str| HeaderValue::Text(value.to_owned());
    let bad = Code::BadRequest;
    check_all(
        &house,
        vec![
            case("body is not JSON", bad, &["not JSON"], echo("hello, I would like some notes")),
            case("body is empty", bad, &["not JSON"], echo("")),
            case("body is cut short", bad, &["not JSON"], echo(r#"{"inputs": [{"name": "x", "#)),
            case("body is not UTF-8", bad, &["not UTF-8"], job("echo", "bad", vec![0xff, 0xfe, 0x7b])),
            case("JSON 10,000 deep", bad, &["expected an object"], echo(&format!("{open}{close}"))),
            case(
                "parameters 10,000 deep",
                bad,
                &["parameters"],
                echo(&format!(r#"{{"parameters": {{"x": {open}{close}}}, "inputs": []}}"#)),
            ),
            case(
                "data 10,000 deep",
                bad,
                &["x", "nested"],
                echo(&format!(
                    r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": {open}1{close}}}]}}"#
                )),
            ),
            case("no inputs", bad, &["inputs", "missing"], echo(r#"{"id": "7"}"#)),
            case("inputs is a number", bad, &["inputs"], echo(r#"{"inputs": 3}"#)),
            case("body is an array", bad, &["body"], echo("[]")),
            case(
                "wrong shape",
                bad,
                &["\"x\"", "[2, 3]", "6", "5"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5]}))),
            ),
            case(
                "shape beyond all memory",
                bad,
                &["\"x\""],
                job("echo", "bad", input(json!({"name": "x", "datatype": "FP32", "shape": [u64::MAX, u64::MAX], "data": [1]}))),
            ),
            case(
                "negative shape",
                bad,
                &["inputs[0].shape"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "FP32", "shape": [-1], "data": [1]}))),
            ),
            case(
                "texts where numbers are due",
                bad,
                &["\"x\"", "\"one\" is a string"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "FP32", "shape": [1], "data": ["one"]}))),
            ),
            case(
                "300 in UINT8",
                bad,
                &["\"x\"", "300 is outside UINT8"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "UINT8", "shape": [1], "data": [300]}))),
            ),
            case(
                "a data type that there is not",
                bad,
                &["F32", "FP32"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "F32", "shape": [1], "data": [1]}))),
            ),
            case(
                "a data type that Warren lacks",
                Code::InvalidInput,
                &["\"x\"", "FP64", "use FP32"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}))),
            ),
            case(
                "nine dimensions",
                Code::InvalidInput,
                &["\"x\"", "at most 8"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "UINT8", "shape": [1, 1, 1, 1, 1, 1, 1, 1, 1], "data": [1]}))),
            ),
            case(
                "an input without data",
                bad,
                &["\"x\"", "data"],
                job("echo", "bad", input(json!({"name": "x", "datatype": "FP32", "shape": [1]}))),
            ),
            case(
                "duplicate input",
                bad,
                &["\"x\"", "twice"],
                echo(
                    r#"{"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "data": [1]},
                                   {"name": "x", "datatype": "UINT8", "shape": [1], "data": [2]}]}"#,
                ),
            ),
            case("header events = some", bad, &["events", "some", "final"], with_header(good(), "events", text("some"))),
            case("header events = 1", bad, &["events"], with_header(good(), "events", HeaderValue::Int(1))),
            case("header attempt = -1", bad, &["attempt", "-1"], with_header(good(), "attempt", HeaderValue::Int(-1))),
            case(
                "header attempt = 2^62",
                bad,
                &["attempt", "4611686018427387904"],
                with_header(good(), "attempt", HeaderValue::Int(1 << 62)),
            ),
            case("header attempt = nine", bad, &["attempt", "nine"], with_header(good(), "attempt", text("nine"))),
            case("header deadline = soon", bad, &["deadline", "soon"], with_header(good(), "deadline", text("soon"))),
            case(
                "binary header longer than the body",
                bad,
                &["inference-header-content-length", "1000"],
                with_header(good(), "inference-header-content-length", HeaderValue::Int(1000)),
            ),
            case(
                "binary header = -5",
                bad,
                &["inference-header-content-length", "-5"],
                with_header(good(), "inference-header-content-length", HeaderValue::Int(-5)),
            ),
        ],
    )
    .await;
    // In a key that nobody reads, depth does no harm: it is skipped without recursion.
    let mut inbox = Inbox::open(&house.broker, "more replies").await;
    let mut skipped = echo(&format!(r#"{{"x": {open}{close}, "inputs": []}}"#));
    skipped.properties.reply_to = Some(inbox.queue.clone());
    house.publish(skipped).await;
    let events = inbox.until_final().await;
    assert_eq!(kind(events.last().expect("one")), "result", "{events:?}");
}

/// Manifest entries of an echo that takes `x`, FP32 of shape [any, 2], and returns it.
const STRICT: &str = "component = \"echo.wasm\"

[[inputs]]
name = \"x\"
datatype = \"FP32\"
shape = [-1, 2]

[[inputs]]
name = \"note\"
datatype = \"BYTES\"
shape = [1]
optional = true

[[outputs]]
name = \"x\"
datatype = \"FP32\"
shape = [-1, 2]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_manifest_is_an_invalid_input() {
    let dir = tempfile::tempdir().expect("directory");
    let strict = variant(dir.path(), "echo", "strict", &[("component = \"echo.wasm\"", STRICT)]);
    let house = House::open(&[guest("echo"), strict]).await;
    let fp32 = |name: &str, shape: [u64; 2]| {
        let data = vec![0.5; (shape[0] * shape[1]) as usize];
        json!({"name": name, "datatype": "FP32", "shape": shape, "data": data})
    };
    let strict = |body: serde_json::Value| job("strict", "bad", body.to_string());
    let invalid = Code::InvalidInput;
    let fits = JobRequest::new("strict").fp32("x", &[3, 2], &[0.5; 6]).bytes("note", "n").output("x");
    assert_eq!(house.run(fits).await.code(), "RESULT", "what fits is taken");
    check_all(
        &house,
        vec![
            case(
                "missing input",
                invalid,
                &["\"x\" is missing", "note"],
                strict(json!({
                    "inputs": [{"name": "note", "datatype": "BYTES", "shape": [1], "data": ["n"]}]
                })),
            ),
            case(
                "unknown input",
                invalid,
                &["\"y\"", "strict", "\"x\""],
                strict(json!({
                    "inputs": [fp32("x", [1, 2]), fp32("y", [1, 2])]
                })),
            ),
            case(
                "wrong shape for the model",
                invalid,
                &["\"x\"", "[1, 3]", "[-1, 2]"],
                strict(json!({
                    "inputs": [fp32("x", [1, 3])]
                })),
            ),
            case(
                "wrong rank for the model",
                invalid,
                &["\"x\"", "[2]", "[-1, 2]"],
                strict(json!({
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]
                })),
            ),
            case(
                "wrong data type for the model",
                invalid,
                &["\"x\"", "INT32", "FP32"],
                strict(json!({
                    "inputs": [{"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}]
                })),
            ),
            case(
                "an output that the model lacks",
                invalid,
                &["\"z\"", "\"x\""],
                strict(json!({
                    "inputs": [fp32("x", [1, 2])], "outputs": [{"name": "z"}]
                })),
            ),
            case(
                "an output that nobody returned",
                invalid,
                &["\"z\""],
                job(
                    "echo",
                    "bad",
                    json!({
                        "inputs": [fp32("x", [1, 2])], "outputs": [{"name": "z"}]
                    })
                    .to_string(),
                ),
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_that_is_not_to_be_had_is_input_unavailable() {
    let dir = tempfile::tempdir().expect("directory");
    let root = dir.path().canonicalize().expect("real");
    let store = root.join("store");
    std::fs::create_dir(&store).expect("store");
    std::fs::create_dir(store.join("folder")).expect("folder");
    std::fs::write(root.join("secret"), "secret").expect("write");
    std::fs::write(store.join("good"), "good").expect("write");
    std::fs::write(store.join("large"), vec![0; (1 << 20) + 1]).expect("write");
    std::os::unix::fs::symlink(root.join("secret"), store.join("link")).expect("link");
    let house = House::with(&[guest("echo")], |config| {
        config.artifacts.read = vec![store.clone()];
        config.artifacts.max_input_mib = 1;
    })
    .await;
    let url = |path: &str| format!("file://{}/{path}", store.display());
    let reference = |url: String, sha256: Option<&str>| {
        let mut parameters = json!({"dataref": url});
        if let Some(sha256) = sha256 {
            parameters["sha256"] = json!(sha256);
        }
        job(
            "echo",
            "bad",
            input(json!({"name": "x", "datatype": "BYTES", "shape": [1], "parameters": parameters})),
        )
    };
    let fetched = house.run(JobRequest::new("echo").reference("x", url("good"), None)).await;
    assert_eq!(fetched.text("x"), "good", "what is allowed is fetched");
    assert_eq!(fetched.statuses().first(), Some(&("downloading", Some("x"))), "{fetched:?}");
    let gone = Code::InputUnavailable;
    check_all(
        &house,
        vec![
            case(
                "reference outside the stores",
                gone,
                &["\"x\"", "not in an allowed store"],
                reference(format!("file://{}/secret", root.display()), None),
            ),
            case(
                "reference outside by ..",
                gone,
                &["not in an allowed store"],
                reference(url("../secret"), None),
            ),
            case(
                "reference outside by a link",
                gone,
                &["not in an allowed store"],
                reference(url("link"), None),
            ),
            case("reference to nothing", gone, &["\"x\"", "not there"], reference(url("missing"), None)),
            case("reference to a folder", gone, &["not a file"], reference(url("folder"), None)),
            case(
                "reference with a wrong sha256",
                gone,
                &["sha256", "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"],
                reference(url("good"), Some(&"0".repeat(64))),
            ),
            case(
                "reference that is too large",
                gone,
                &["1048577 bytes", "max_input_mib is 1"],
                reference(url("large"), None),
            ),
            case(
                "reference by http",
                gone,
                &["only file://"],
                reference("http://127.0.0.1:1/x".into(), None),
            ),
            case(
                "reference that does not fill its shape",
                Code::InvalidInput,
                &["\"x\"", "4 bytes", "[3]"],
                job(
                    "echo",
                    "bad",
                    input(json!({
                        "name": "x", "datatype": "FP32", "shape": [3], "parameters": {"dataref": url("good")}
                    })),
                ),
            ),
        ],
    )
    .await;
}

/// The plugin `transcribe` with its model, which is fetched once.
fn transcribe() -> PathBuf {
    let folder = guest("transcribe");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/transcribe/fetch-model.sh");
    let run = Command::new("sh").arg(&script).arg(&folder).output().expect("sh runs");
    assert!(
        run.status.success(),
        "the model of `transcribe` cannot be had: put nmp.onnx into {} by hand. {} said:\n{}",
        folder.display(),
        script.display(),
        String::from_utf8_lossy(&run.stderr)
    );
    folder
}

/// A second of silence: 16-bit mono at 22,050 Hz.
fn wav() -> Vec<u8> {
    let data = 44_100u32;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + data).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    file.extend(1u16.to_le_bytes());
    file.extend(1u16.to_le_bytes());
    file.extend(22_050u32.to_le_bytes());
    file.extend(44_100u32.to_le_bytes());
    file.extend(2u16.to_le_bytes());
    file.extend(16u16.to_le_bytes());
    file.extend(b"data");
    file.extend(data.to_le_bytes());
    file.resize(44 + data as usize, 0);
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_sound_wav_is_an_invalid_input() {
    let dir = tempfile::tempdir().expect("directory");
    let store = dir.path().canonicalize().expect("real");
    let house = House::with(&[guest("echo"), transcribe()], |c| c.artifacts.read = vec![store.clone()]).await;
    let audio = |name: &str, bytes: &[u8]| {
        let path = store.join(name);
        std::fs::write(&path, bytes).expect("write");
        let parameters = json!({"dataref": format!("file://{}", path.display())});
        let entry = json!({"name": "audio", "datatype": "BYTES", "shape": [1], "parameters": parameters});
        job("transcribe", "bad", input(entry))
    };
    std::fs::write(store.join("good.wav"), wav()).expect("write");
    let url = format!("file://{}/good.wav", store.display());
    let good = house.run(JobRequest::new("transcribe").reference("audio", url, None)).await;
    assert_eq!(good.code(), "RESULT", "silence is sound: {good:?}");
    let mut mp3 = vec![0xff, 0xfb, 0x90, 0x64];
    mp3.resize(5000, 0x55);
    let mut tagged = b"ID3\x04\0\0\0\0\0\x0a".to_vec();
    tagged.resize(5000, 0);
    let invalid = Code::InvalidInput;
    check_all(
        &house,
        vec![
            case("WAV truncated in its samples", invalid, &["audio"], audio("cut.wav", &wav()[..20_001])),
            case("WAV truncated in its header", invalid, &["audio"], audio("head.wav", &wav()[..30])),
            case("MP3 renamed", invalid, &["audio", "MP3"], audio("song.wav", &mp3)),
            case("MP3 with tags, renamed", invalid, &["audio", "MP3"], audio("tagged.wav", &tagged)),
            case("WAV of no bytes", invalid, &["audio"], audio("empty.wav", b"")),
            case(
                "a text called .wav",
                invalid,
                &["audio"],
                audio("text.wav", b"la la la, la la la, la la la, la la la"),
            ),
            case(
                "no audio at all",
                invalid,
                &["\"audio\" is missing"],
                job("transcribe", "bad", body(json!({}))),
            ),
            case(
                "audio as numbers",
                invalid,
                &["\"audio\"", "FP32", "BYTES"],
                job(
                    "transcribe",
                    "bad",
                    input(json!({
                        "name": "audio", "datatype": "FP32", "shape": [1], "data": [0.5]
                    })),
                ),
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_nobody_serves_is_no_model() {
    let house = House::open(&[guest("echo")]).await;
    let misspelt = job("ehco", "bad", body(json!({})));
    check_all(&house, vec![case("a model without a queue", Code::NoModel, &["ehco", "echo"], misspelt)])
        .await;
    // A job whose plugin is gone: its queue is still consumed, and nothing serves the key.
    house.broker.bind("warren.jobs.echo", "warren.jobs", "ghost").await.expect("binds");
    let ghost = job("ghost", "bad", body(json!({})));
    check_all(&house, vec![case("a model without a plugin", Code::NoModel, &["ghost", "echo"], ghost)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_time_is_up_expires_wherever_it_is() {
    let dir = tempfile::tempdir().expect("directory");
    let plugins = [guest("echo"), patient(dir.path())];
    let patient =
        |mode: &str, number: i64| job("patient", mode, body(json!({"mode": mode, "number": number})));
    let expiring = |mut message: Message, ms| {
        message.properties.expiration = Some(Duration::from_millis(ms));
        message
    };
    let expired = Code::Expired;

    let house = House::with(&plugins, |config| config.retry_delays_ms = vec![60_000]).await;
    let soon = &["attempt 1", "the moon", "before the next"];
    let cases = vec![
        case("expired while it slept", expired, &["while it ran"], expiring(patient("sleep", 0), 1000)),
        case("expired while it looped", expired, &["while it ran"], expiring(patient("loop", 0), 1000)),
        case("expired while it reported", expired, &["while it ran"], expiring(patient("chatter", 0), 1000)),
        case("expires before its next attempt", expired, soon, expiring(patient("retry", 0), 30_000)),
    ];
    check_all(&house, cases).await;

    for (config, case) in [
        // One delivery at a time: the second job stays in its queue until the first is done.
        (
            (|config| config.prefetch = 1) as fn(&mut Config),
            case("expired in its queue", expired, &["in the queue"], expiring(patient("trap", 0), 50)),
        ),
        // One slot: the second job is taken and waits for it.
        (
            |config| config.slots = 1,
            case(
                "expired before its slot was free",
                expired,
                &["could run"],
                expiring(patient("trap", 0), 50),
            ),
        ),
    ] {
        let house = House::with(&plugins, config).await;
        let mut blocker = Inbox::open(&house.broker, "blocker").await;
        let mut busy = patient("announced-busy", 2000);
        busy.properties.reply_to = Some("blocker".into());
        house.publish(busy).await;
        assert_eq!(kind(&blocker.next().await), "status", "it runs, and is in the way");
        check_all(&house, vec![case]).await;
    }
}

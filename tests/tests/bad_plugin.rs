//! Plugins that misbehave or answer with nonsense, and the code that the client sees. The table that
//! `--nocapture` prints goes on from that of `bad_input`.

use std::time::Instant;

use serde_json::json;
use warren::job::Code;
use warren_tests::inbox::{body, int, job, kind};
use warren_tests::table::{case, check_all};
use warren_tests::{House, Inbox, guest, patient, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_misbehaves_is_stopped_and_named() {
    let dir = tempfile::tempdir().expect("directory");
    let house = House::open(&[guest("echo"), guest("hostile"), patient(dir.path())]).await;
    let hostile =
        |mode: &str, number: i64| job("hostile", mode, body(json!({"mode": mode, "number": number})));
    let patient = |mode: &str| job("patient", mode, body(json!({"mode": mode})));
    let (trapped, bad, output) = (Code::PluginTrapped, Code::BadResult, Code::OutputLimit);
    let stack = Code::StackLimit;
    check_all(
        &house,
        vec![
            case("plugin traps", trapped, &["unreachable", "hostile"], hostile("trap", 0)),
            case("plugin loops", Code::Stalled, &["limits.stall_ms is 700"], hostile("loop", 0)),
            case("plugin recurses", trapped, &["wasm trap", "recurse"], hostile("recurse", 0)),
            case(
                "plugin recurses without data",
                stack,
                &["stack_kib is 1024", "call stack exhausted"],
                hostile("dive", 0),
            ),
            case(
                "plugin allocates without end",
                Code::MemoryLimit,
                &["limits.memory_mib is 64"],
                hostile("allocate", 0),
            ),
            case("plugin sleeps", Code::Stalled, &["limits.stall_ms is 700"], hostile("sleep", 0)),
            case(
                "plugin reports and never ends",
                Code::TimeLimit,
                &["limits.wall_ms is 1500"],
                hostile("chatter", 0),
            ),
            case("plugin exits", trapped, &["exit"], hostile("exit", 0)),
            case("plugin starts a thread", trapped, &["unreachable"], hostile("thread", 0)),
            case(
                "plugin hoards handles",
                Code::HandleLimit,
                &["limits.handles is 100000"],
                hostile("handles", 0),
            ),
            case("plugin returns too few entries", bad, &["0 entries", "batch of 1"], hostile("too-few", 0)),
            case(
                "plugin returns too many entries",
                bad,
                &["3 entries", "batch of 1"],
                hostile("too-many", 0),
            ),
            case(
                "plugin returns a lying shape",
                bad,
                &["\"lie\"", "1 byte strings", "[7]"],
                hostile("lying-shape", 0),
            ),
            case(
                "plugin returns a shape of a million dimensions",
                bad,
                &["\"deep\"", "1000000 dimensions"],
                hostile("deep-shape", 1_000_000),
            ),
            case("plugin returns two outputs of one name", bad, &["\"twice\""], hostile("same-name", 0)),
            case("plugin returns an output without a name", bad, &["name"], hostile("no-name", 0)),
            case("plugin returns a name of 300 bytes", bad, &["300 bytes"], hostile("long-name", 0)),
            case("plugin returns a name that is no text", trapped, &["utf-8"], hostile("bad-text", 0)),
            case("plugin returns a wild pointer", trapped, &["out of bounds"], hostile("wild-pointer", 0)),
            case(
                "plugin returns a media type of 100,000 bytes",
                bad,
                &["media type", "100000 bytes"],
                hostile("long-content-type", 100_000),
            ),
            case(
                "plugin returns two parameters of one name",
                bad,
                &["\"twin\""],
                hostile("twin-parameters", 0),
            ),
            case("plugin returns NaN as a parameter", bad, &["\"nan\"", "NaN"], hostile("nan-parameter", 0)),
            case(
                "plugin returns a parameter's name of 300 bytes",
                bad,
                &["300 bytes"],
                hostile("long-parameter", 0),
            ),
            case(
                "plugin returns a parameter of 5 MB",
                output,
                &["limits.output_mib is 4"],
                hostile("large-parameter", 5_000_000),
            ),
            case(
                "plugin returns 200,000 outputs",
                output,
                &["200000 outputs"],
                hostile("many-outputs", 200_000),
            ),
            case(
                "plugin returns 200,000 parameters",
                output,
                &["200000 parameters"],
                hostile("many-parameters", 200_000),
            ),
            case("output bomb", output, &["limits.output_mib is 4"], hostile("output-bomb", 5 << 20)),
            case(
                "output bomb of one block over and over",
                Code::HostcallLimit,
                &["limits.hostcall_mib is 256", "limits.memory_mib is 64"],
                patient("amplify"),
            ),
            case("partials without end", output, &["limits.output_mib is 4"], hostile("partial-bomb", 5)),
            case(
                "device bomb",
                Code::DeviceMemory,
                &["\"y\"", "device memory limit", "67108864"],
                hostile("device-bomb", 0),
            ),
            case(
                "device bomb with an excuse",
                Code::DeviceMemory,
                &["limits.device_mib is 64", "the plugin says"],
                hostile("device-excuse", 0),
            ),
            case(
                "tensors of shapes that do not fit",
                Code::PluginFailed,
                &["matmul", "[2, 3]", "[4, 5]"],
                hostile("bad-shapes", 0),
            ),
            case(
                "plugin says invalid",
                Code::InvalidInput,
                &["the client sent nonsense"],
                hostile("invalid", 0),
            ),
            case("plugin says failed", Code::PluginFailed, &["nobody can do this"], hostile("failed", 0)),
            case(
                "plugin says failed at length",
                Code::PluginFailed,
                &["\u{fffd}[31mfff"],
                hostile("long-failure", 100_000),
            ),
            case(
                "plugin says retry every time",
                Code::RetriesExhausted,
                &["attempt 3 of 3", "the moon"],
                hostile("retry", 0),
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_statuses_become_a_few_in_order_and_the_last_of_them_arrives() {
    const FLOOD: i64 = 1_000_000;
    let dir = tempfile::tempdir().expect("directory");
    let patient = patient(dir.path());
    let house = House::open(&[guest("echo"), patient]).await;
    let mut inbox = Inbox::open(&house.broker, "replies").await;
    let mut flood = job("patient", "flood", body(json!({"mode": "flood", "number": FLOOD})));
    flood.properties.reply_to = Some("replies".into());
    let start = Instant::now();
    house.publish(flood).await;
    let events = inbox.until_final().await;
    let elapsed = start.elapsed();
    let (last, statuses) = events.split_last().expect("a final event");
    assert_eq!(kind(last), "result", "{last:?}");
    assert!(statuses.iter().all(|m| kind(m) == "status"), "{statuses:?}");
    let sequences: Vec<i64> = events.iter().map(|m| int(m, "sequence")).collect();
    assert_eq!(sequences, (0..events.len() as i64).collect::<Vec<_>>(), "numbered without a gap");
    let numbers: Vec<i64> = statuses
        .iter()
        .map(|m| serde_json::from_slice::<serde_json::Value>(&m.body).expect("JSON"))
        .map(|b| b["message"].as_str().and_then(|t| t.parse().ok()).expect("a number"))
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order: {numbers:?}");
    assert_eq!(
        (numbers[0], numbers[numbers.len() - 1]),
        (0, FLOOD - 1),
        "the first and the last: {numbers:?}"
    );
    // One an interval, and beside them the first, the last, and one at a boundary.
    let interval = house.config.status_interval_ms;
    let most = elapsed.as_millis() as u64 / interval + 3;
    println!(
        "plugin reports a million statuses | RESULT | {} published in {elapsed:?}, one each {interval} ms at most",
        numbers.len()
    );
    assert!(numbers.len() as u64 <= most, "{} statuses in {elapsed:?}", numbers.len());
    house.answers("the flood").await;
    within("quiet", house.quiet()).await;
}

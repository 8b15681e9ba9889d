//! What a guest cannot see, cannot keep, and cannot take.

use std::time::{Duration, Instant};

use serde_json::json;
use warren_client::JobRequest;
use warren_tests::inbox::{body, error, job};
use warren_tests::{GLANCE, House, Inbox, PATIENCE, guest, hostile, logs, patient, variant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_its_folder_and_its_scratch_and_nothing_else() {
    let house = House::open(&[guest("hostile")]).await;
    let seen = house.run(hostile("look", 0)).await;
    // Of all the places that it tried to list or read, none answered.
    assert_eq!(seen.text("seen"), "", "files outside");
    assert_eq!(seen.text("environment"), "", "environment");
    assert_eq!(seen.text("arguments"), "", "arguments");
    let connect = seen.text("connect");
    assert!(connect.starts_with("Err"), "network: {connect}");
    assert_eq!(seen.text("plugin"), "true", "its own folder is there");
    assert_eq!(seen.text("write-plugin"), "false", "and cannot be written");
    assert!(!guest("hostile").join("x").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_scratch_of_one_job_are_not_there_for_the_next() {
    // One slot, so that the jobs share whatever could be shared.
    let house = House::with(&[guest("hostile")], |config| config.slots = 1).await;
    for n in 0..5 {
        let seen = house.run(hostile("mark", 0)).await;
        assert_eq!(seen.text("found"), "memory false scratch false", "job {n}");
    }
    house.quiet().await;
    let start = Instant::now();
    loop {
        let left: Vec<_> = std::fs::read_dir(house.scratch()).expect("scratch").flatten().collect();
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "scratch directories are left: {left:?}");
        tokio::time::sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assets_cannot_be_written_while_jobs_run() {
    let house = House::open(&[guest("hostile")]).await;
    assert_eq!(house.run(hostile("assets", 0)).await.text("refused"), "true");
    let plugin = house.host().plugins().newest("hostile").expect("served");
    assert!(plugin.guest.assets().is_empty(), "nothing was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_limits_cap_those_of_the_manifest() {
    let house = House::with(&[guest("hostile")], |config| {
        config.limits.wall_ms = 400;
        config.limits.memory_mib = 32;
        config.limits.output_mib = 1;
        config.limits.events = 1000;
    })
    .await;
    for (request, code, says) in [
        (hostile("chatter", 0), "TIME_LIMIT", "limits.wall_ms is 400"),
        (hostile("allocate", 0), "MEMORY_LIMIT", "limits.memory_mib is 32"),
        (hostile("output-bomb", 2 << 20), "OUTPUT_LIMIT", "limits.output_mib is 1"),
        (hostile("flood", 1001), "EVENT_LIMIT", "limits.events is 1000"),
    ] {
        let seen = house.run(request).await;
        let failure = seen.end().expect_err("a limit is hit");
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.text.contains(says), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_has_a_code_and_says_its_name_and_value() {
    let house = House::with(&[guest("hostile")], |config| {
        config.stack_kib = 128;
        config.limits.cpu_ms = 300;
        config.limits.handles = 1000;
        config.limits.hostcall_mib = 2;
        config.limits.hostcall_total_mib = 3;
        config.limits.events_per_second = 100;
        config.limits.device_mib = 1;
    })
    .await;
    for (request, code, says) in [
        (hostile("loop", 0), "CPU_LIMIT", "limits.cpu_ms is 300"),
        (hostile("dive", 0), "STACK_LIMIT", "stack_kib is 128"),
        (hostile("handles", 0), "HANDLE_LIMIT", "limits.handles is 1000"),
        (hostile("output-bomb", 3 << 20), "HOSTCALL_LIMIT", "limits.hostcall_mib is 2"),
        (hostile("partial-bomb", 4), "HOSTCALL_LIMIT", "limits.hostcall_total_mib is 3"),
        (hostile("flood", 1001), "EVENT_LIMIT", "limits.events_per_second is 100"),
        (hostile("device-bomb", 0), "DEVICE_MEMORY", "limits.device_mib is 1"),
    ] {
        let seen = house.run(request).await;
        let failure = seen.end().expect_err("a limit is hit");
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.text.contains(says), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instructions_are_counted_where_the_operator_wants_it() {
    let dir = tempfile::tempdir().expect("directory");
    let limit = [("[limits]", "[limits]\nfuel = 50000000")];
    let fuelled = variant(dir.path(), "hostile", "fuelled", &limit);
    let house = House::with(&[guest("hostile"), fuelled.clone()], |config| config.count_fuel = true).await;
    let ask = |model: &str, mode: &str| JobRequest::new(model).parameter("mode", mode).parameter("number", 0);
    let seen = house.run(ask("fuelled", "loop")).await;
    let failure = seen.end().expect_err("a limit is hit");
    assert_eq!(failure.code, "FUEL_LIMIT", "{failure}");
    assert!(failure.text.contains("limits.fuel is 50000000"), "{failure}");
    assert_eq!(house.run(ask("fuelled", "deadline")).await.text("left"), "none", "short jobs have enough");
    assert_eq!(house.run(ask("hostile", "loop")).await.code(), "STALLED", "no limit where none is asked for");

    // Where nothing counts, whoever asks for it is not served.
    let house = House::open(&[guest("hostile")]).await;
    let refused = house.host().deployer().load(&fuelled).await.err().expect("refused").to_string();
    assert!(
        refused.contains("limits.fuel is 50000000") && refused.contains("count_fuel = true"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_told_to_the_guest() {
    let house = House::open(&[guest("hostile")]).await;
    let with = house.run(hostile("deadline", 0).deadline(Duration::from_secs(60))).await;
    let without = house.run(hostile("deadline", 0)).await;
    assert_eq!((with.text("left"), without.text("left")), ("true".into(), "none".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_log_is_bounded_and_cannot_pass_for_anything_else() {
    let house = House::open(&[guest("hostile")]).await;
    house.run(hostile("log", 10_000).id("chatterbox")).await;
    house.quiet().await;
    let marker = "job=chatterbox";
    let start = Instant::now();
    // The last line is written when the store is thrown away.
    while !logs::lines(marker).iter().any(|l| l.contains("log limit reached")) {
        assert!(start.elapsed() < PATIENCE, "no word of the limit:\n{}", logs::tail(20));
        tokio::time::sleep(GLANCE).await;
    }
    let lines = logs::lines(marker);
    let said = |word: &str| lines.iter().filter(|l| l.contains(word)).count();
    assert!(said("[2Jline 0") == 1 && said("stdout 0") == 1, "both ways are open: {:?}", lines.first());
    let bytes: usize = lines.iter().map(|l| l.split(" plugin=").next().unwrap_or_default().len()).sum();
    // Of 16 KiB by the manifest at least this much is text; a line's time and level are the host's.
    assert!(bytes < 16 * 1024 + lines.len() * 64, "{bytes} bytes in {} lines", lines.len());
    assert!(lines.len() < 2000, "{} of 20,000 lines were written", lines.len());
    let escapes: Vec<_> = lines.iter().filter(|l| l.contains('\u{1b}')).collect();
    assert!(escapes.is_empty(), "escapes: {escapes:?}");

    house.run(hostile("log-forge", 0)).await;
    let forged = logs::lines("the house is on fire");
    assert_eq!(forged.len(), 1, "{forged:?}");
    assert!(forged[0].contains(" INFO guest: ") && forged[0].contains("plugin=hostile@0.1.0"), "{forged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_loop_in_every_slot_do_not_hold_up_what_needs_none() {
    let dir = tempfile::tempdir().expect("directory");
    let house = House::open(&[patient(dir.path())]).await;
    let mut loops = Inbox::open(&house.broker, "loops").await;
    let mut others = Inbox::open(&house.broker, "others").await;
    for n in 0..house.config.slots {
        let mut message = job("patient", &format!("loop-{n}"), body(json!({"mode": "loop"})));
        message.properties.reply_to = Some("loops".into());
        message.properties.expiration = Some(Duration::from_secs(4));
        house.publish(message).await;
    }
    let start = Instant::now();
    for n in 0..50 {
        let mut message = job("patient", &format!("bad-{n}"), "no JSON");
        message.properties.reply_to = Some("others".into());
        house.publish(message).await;
        let events = others.until_final().await;
        assert_eq!(error(&events[0]).0, "BAD_REQUEST", "{events:?}");
    }
    let took = start.elapsed();
    let early = loops.arrived();
    assert!(early.is_empty(), "50 answers took {took:?}, longer than the loops: {early:?}");
    for _ in 0..house.config.slots {
        let events = loops.until_final().await;
        assert_eq!(error(events.last().expect("one")).0, "EXPIRED", "{events:?}");
    }
    house.quiet().await;
}

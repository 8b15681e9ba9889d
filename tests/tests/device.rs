//! A device that is lost while a job runs on it: the job begins again, once; jobs after it run on a
//! new device. On a GPU where there is one, else on llvmpipe.

use std::time::Instant;

use serde_json::json;
use warren::config::Config;
use warren::host::tensor_engine;
use warren_client::oip::Data;
use warren_tests::inbox::{body, int, job, kind};
use warren_tests::{GLANCE, House, Inbox, PATIENCE, guest, hostile, logs};

/// Steps of a job: more than are done before a loss is noticed.
const STEPS: u32 = 400;

/// The device to run on, if there is one.
fn device() -> Option<String> {
    ["wgpu", "wgpu:llvmpipe"].into_iter().map(str::to_owned).find(|name| {
        let config = Config { device: name.clone(), tensor_threads: 1, ..Config::default() };
        tensor_engine(&config).map_err(|e| eprintln!("not on {name}: {e}")).is_ok()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_device_is_lost_begins_again_once() {
    let Some(device) = device() else {
        eprintln!("SKIPPED: no device (mesa-vulkan-drivers has llvmpipe)");
        return;
    };
    let house = House::with(&[guest("hostile")], |config| {
        config.device = device;
        config.status_interval_ms = 0;
    })
    .await;
    let mut inbox = Inbox::open(&house.broker, "replies").await;
    // Lost in the first attempt, then in the first two.
    for (id, losses, end, code) in [("once", 1, "result", None), ("twice", 2, "error", Some("DEVICE_LOST"))] {
        let mut message = job("hostile", id, body(json!({"mode": "device-steps", "number": STEPS})));
        message.properties.reply_to = Some("replies".into());
        house.publish(message).await;
        let mut lost = 0;
        let mut attempts = Vec::new();
        let last = loop {
            let event = inbox.next().await;
            let attempt = int(&event, "attempt");
            attempts.push(attempt);
            if kind(&event) != "status" {
                break event;
            }
            if attempt > lost && lost < losses {
                println!(
                    "{id}: device destroyed after event {} of attempt {attempt}",
                    int(&event, "sequence")
                );
                house.host().tensors().lose_device();
                lost = attempt;
            }
        };
        println!(
            "{id}: {} as event {} of attempt {}",
            kind(&last),
            int(&last, "sequence"),
            int(&last, "attempt")
        );
        assert_eq!((kind(&last), last.properties.text("code")), (end, code), "{last:?}\n{}", logs::tail(20));
        assert!(attempts.is_sorted() && int(&last, "attempt") == 2, "{attempts:?}");
        house.quiet().await;
        let letters = house.dead_letters().await;
        assert_eq!(letters.len(), usize::from(code.is_some()), "{letters:?}");
        for letter in letters {
            let history = letter.properties.text("history").unwrap_or_default();
            println!("{id}: dead letter, history: {history}");
            assert_eq!(history.lines().count(), 2, "{history}");
            assert!(history.lines().all(|line| line.contains("DEVICE_LOST")), "{history}");
        }
    }
    // What is counted is right, on the device that came after.
    let seen = house.run(hostile("device-steps", i64::from(STEPS))).await;
    let response = seen.end().unwrap_or_else(|e| panic!("{e:?}\n{}", logs::tail(20)));
    let counted = vec![STEPS as f32; 64].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(response.outputs.len(), 1);
    assert_eq!(response.outputs[0].data, Data::Raw(counted.into()));
    assert_eq!(seen.events.last().map(|e| e.attempt), Some(1));
    // What jobs held is given back; the last result once its message is gone.
    let start = Instant::now();
    while house.host().tensors().stats().device_live_bytes > 0 {
        assert!(start.elapsed() < PATIENCE, "still held: {:?}", house.host().tensors().stats());
        tokio::time::sleep(GLANCE).await;
    }
}

//! A host's life as its operator sees it: probes, the service manager's notes, signals, exit codes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;

use warren::broker::QueueSpec;
use warren_tests::rabbitmq::Node;
use warren_tests::{Inbox, body, inbox, job};

use super::*;

/// The address that a host says it answers probes on.
async fn probes(host: &Process) -> String {
    until("the probes' address", || {
        let log = host.log();
        let line = log.lines().find_map(|l| l.strip_prefix("probes: http://"))?;
        line.split_once('/').map(|(address, _)| address.to_owned())
    })
    .await
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the probes' port");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a code"), body.to_owned())
}

async fn until_ready(address: &str, code: u16) -> String {
    until(&format!("/readyz to answer {code}"), || {
        let (found, body) = get(address, "/readyz");
        assert_eq!(get(address, "/livez"), (200, "ok\n".to_owned()), "alive without a broker, too");
        (found == code).then_some(body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_follow_the_broker_and_the_drain() {
    // Its own node: it is stopped.
    let node = tokio::task::block_in_place(|| Node::start(""));
    let scene = Scene::at(node.address("/")).await;
    let listen = ("health__listen", "127.0.0.1:0");
    tokio::task::block_in_place(|| node.stop());
    let mut host =
        Process::start(&scene.address, scene.plugins.path(), &[listen, ("amqp__startup_ms", "60000")]);
    let address = probes(&host).await;
    let reasons = until_ready(&address, 503).await;
    assert!(reasons.contains("starting") && reasons.contains("broker"), "{reasons}");
    tokio::task::block_in_place(|| node.restart());
    assert_eq!(until_ready(&address, 200).await, "ok\n");

    tokio::task::block_in_place(|| node.stop());
    let reasons = until_ready(&address, 503).await;
    assert!(reasons.contains("broker") && !reasons.contains("starting"), "{reasons}");
    tokio::task::block_in_place(|| node.restart());
    until_ready(&address, 200).await;
    host.ready().await;

    // A job holds the drain up.
    until("the test's own connection", || scene.broker.is_connected().then_some(())).await;
    scene.publish(job("patient", "long", body(serde_json::json!({ "mode": "sleep" })))).await;
    let start = Instant::now();
    while scene.ready("warren.jobs.patient").await > 0 {
        assert!(start.elapsed() < PATIENCE, "the job is not taken");
        tokio::time::sleep(GLANCE).await;
    }
    host.signal("TERM");
    let reasons = until_ready(&address, 503).await;
    assert!(reasons.contains("draining"), "{reasons}");
    host.signal("TERM");
    assert_eq!(host.ended(PROMPT).await.code(), Some(1), "{}", host.log());
}

/// Messages to a service manager.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<(Instant, String)>,
}

impl Manager {
    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
        }
    }

    fn times(&mut self, line: &str) -> Vec<Instant> {
        self.listen();
        self.heard.iter().filter(|(_, l)| l == line).map(|(at, _)| *at).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_start_life_and_end() {
    let scene = Scene::set("manager").await;
    let place = scene.plugins.path().join("notify.sock");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    socket.set_nonblocking(true).expect("set");
    let mut manager = Manager { socket, heard: Vec::new() };
    let mut child = scene
        .command(&["serve", "--slots", "2", "--tensor-threads", "1"])
        .env("NOTIFY_SOCKET", &place)
        .env("WATCHDOG_USEC", "400000")
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let ready = until("READY=1", || manager.times("READY=1").first().copied()).await;
    // Ready means that its queues are consumed.
    for queue in ["warren.jobs.echo", "warren.jobs.hostile.bulk", "warren.undone"] {
        assert_eq!(scene.broker.consumers(queue).await, Ok(Some(1)), "{queue}");
    }
    assert!(manager.heard.iter().any(|(_, l)| l == "STATUS=loading plugins"), "{:?}", manager.heard);
    let fed = until("the watchdog to be fed", || {
        let times = manager.times("WATCHDOG=1");
        (times.len() >= 6).then_some(times)
    })
    .await;
    assert!(fed[0] >= ready, "fed before it was ready");
    // A process that stands still feeds nothing.
    signal(child.id(), "STOP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = manager.times("WATCHDOG=1").len();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(manager.times("WATCHDOG=1").len(), before);
    signal(child.id(), "CONT");
    until("the watchdog to be fed again", || (manager.times("WATCHDOG=1").len() > before).then_some(()))
        .await;

    assert!(manager.times("STOPPING=1").is_empty());
    signal(child.id(), "TERM");
    let status = until("the end", || child.try_wait().expect("a child")).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(manager.times("STOPPING=1").len(), 1);
    assert!(manager.heard.iter().any(|(_, l)| l.starts_with("EXTEND_TIMEOUT_USEC=")), "{:?}", manager.heard);
}

/// Publishes jobs that take this long each, and waits until one runs.
async fn busy(scene: &Scene, count: usize, ms: u64) -> Inbox<'_> {
    let spec = QueueSpec { name: "answers".to_owned(), ..QueueSpec::default() };
    scene.broker.declare_queue(&spec).await.expect("declared");
    let mut answers = Inbox::open(&*scene.broker, "answers").await;
    for n in 0..count {
        let parameters = serde_json::json!({ "mode": "announced-busy", "number": ms });
        let mut message = job("patient", &format!("b{n}"), body(parameters));
        message.properties.reply_to = Some("answers".to_owned());
        scene.publish(message).await;
    }
    assert_eq!(inbox::kind(&answers.next().await), "status");
    answers
}

fn results(events: Vec<Message>) -> Vec<String> {
    let mut ids: Vec<String> = events
        .into_iter()
        .filter(|event| inbox::kind(event) == "result")
        .filter_map(|event| event.properties.correlation_id)
        .collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_running_jobs_finish_and_gives_the_rest_back() {
    let scene = Scene::set("drain").await;
    let mut host = scene.host(&[]).await;
    let mut answers = busy(&scene, 30, 1500).await;
    host.signal("TERM");
    let status = host.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", host.log());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let done = results(answers.arrived());
    // Two slots: two ran, and a third may have begun.
    assert!((2..=4).contains(&done.len()), "{done:?}\n{}", host.log());
    // What is done is gone, everything else is there: confirms and acknowledgements went out.
    scene.until_ready("warren.jobs.patient", 30 - done.len() as u64).await;
    // And another host does it.
    let _next = scene.host(&[]).await;
    scene.until_ready("warren.jobs.patient", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_drain_time_is_given_back_and_that_is_no_failure() {
    let scene = Scene::set("outlasts").await;
    let mut host = scene.host(&[("drain_ms", "700")]).await;
    let _answers = busy(&scene, 2, 50_000).await;
    host.signal("TERM");
    assert_eq!(host.ended(PROMPT).await.code(), Some(0), "{}", host.log());
    assert!(host.log().contains("back in their queues"), "{}", host.log());
    scene.until_ready("warren.jobs.patient", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_returns_everything_at_once() {
    let scene = Scene::set("second").await;
    for (first, second) in [("TERM", "TERM"), ("INT", "INT")] {
        let mut host = scene.host(&[]).await;
        let answers = busy(&scene, 10, 50_000).await;
        drop(answers);
        host.signal(first);
        until("the drain", || host.log().contains("stopping").then_some(())).await;
        let start = Instant::now();
        host.signal(second);
        assert_eq!(host.ended(PROMPT).await.code(), Some(1), "{}", host.log());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(8), "took {took:?}");
        scene.until_ready("warren.jobs.patient", 10).await;
        scene.broker.delete_queue("warren.jobs.patient").await.expect("deleted");
        scene.broker.delete_queue("answers").await.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_before_the_start_is_done_ends_it() {
    let scene = Scene::set("early").await;
    // Nobody listens there.
    let nowhere = "amqp://guest:guest@127.0.0.1:1/%2f";
    let mut host = Process::start(nowhere, scene.plugins.path(), &[("health__listen", "127.0.0.1:0")]);
    probes(&host).await;
    host.signal("TERM");
    assert_eq!(host.ended(PROMPT).await.code(), Some(0), "{}", host.log());
    let mut host = Process::start(nowhere, scene.plugins.path(), &[("amqp__startup_ms", "1000")]);
    assert_eq!(host.ended(PROMPT).await.code(), Some(1));
    assert!(host.log().contains("no broker answers"), "{}", host.log());
    let mut host = Process::start(nowhere, scene.plugins.path(), &[("health__listen", "nonsense")]);
    assert_eq!(host.ended(PROMPT).await.code(), Some(1));
    assert!(host.log().contains("nonsense") && host.log().contains("--health"), "{}", host.log());
}

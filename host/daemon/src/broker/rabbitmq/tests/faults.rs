//! What happens to connections, queues and the node while messages are under way.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// Publishes one message with these property flags and bytes, over a socket by hand.
pub(super) fn publish_raw(port: u16, vhost: &str, queue: &str, flags: u16, properties: &[u8]) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let short = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    let long = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    let frame = |kind: u8, channel: u16, payload: &[u8]| {
        [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xce]].concat()
    };
    let method = |channel: u16, class: u16, id: u16, arguments: &[u8]| {
        frame(1, channel, &[&class.to_be_bytes()[..], &id.to_be_bytes(), arguments].concat())
    };
    // Reads frames up to that method.
    let await_method = |socket: &mut TcpStream, class: u16, id: u16| loop {
        let mut head = [0; 7];
        socket.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
        socket.read_exact(&mut payload).unwrap();
        if payload[..4] == [class.to_be_bytes(), id.to_be_bytes()].concat() {
            return payload;
        }
        assert_eq!(head[0], 1);
        assert!(payload[3] != 50 || payload[1] != 10, "closed: {:?}", String::from_utf8_lossy(&payload));
    };
    socket.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    await_method(&mut socket, 10, 10);
    let login = [&long(b"")[..], &short("PLAIN"), &long(b"\0guest\0guest"), &short("en_US")].concat();
    socket.write_all(&method(0, 10, 11, &login)).unwrap();
    let tune = await_method(&mut socket, 10, 30);
    socket.write_all(&method(0, 10, 31, &[&tune[4..10], &[0, 0][..]].concat())).unwrap();
    socket.write_all(&method(0, 10, 40, &[&short(vhost)[..], &[0, 0]].concat())).unwrap();
    await_method(&mut socket, 10, 41);
    socket.write_all(&method(1, 20, 10, &[0])).unwrap();
    await_method(&mut socket, 20, 11);
    socket.write_all(&method(1, 85, 10, &[0])).unwrap();
    await_method(&mut socket, 85, 11);
    socket.write_all(&method(1, 60, 40, &[&[0, 0][..], &short(""), &short(queue), &[0]].concat())).unwrap();
    let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &flags.to_be_bytes(), properties].concat();
    socket.write_all(&frame(2, 1, &header)).unwrap();
    socket.write_all(&frame(3, 1, b"x")).unwrap();
    await_method(&mut socket, 60, 80);
}

/// Publishers that keep what was confirmed, and consumers that keep what they settled.
struct Load {
    confirmed: Mutex<HashSet<String>>,
    seen: Mutex<HashSet<String>>,
    published: AtomicU64,
    stop: AtomicBool,
    /// Longest time without a confirm.
    gap: Mutex<(Instant, Duration)>,
}

impl Load {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            confirmed: Mutex::default(),
            seen: Mutex::default(),
            published: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            gap: Mutex::new((Instant::now(), Duration::ZERO)),
        })
    }

    async fn publish(self: Arc<Self>, broker: Arc<RabbitMq>, who: usize) {
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let mut confirms = Vec::new();
            for _ in 0..20 {
                n += 1;
                let body = format!("{who}:{n}");
                confirms.push((body.clone(), broker.publish(message("q", body), true)));
                self.published.fetch_add(1, Ordering::Relaxed);
            }
            let mut failed = false;
            for (body, confirm) in confirms {
                match confirm.await {
                    Ok(Confirmation::Confirmed) => {
                        self.confirmed.lock().unwrap().insert(body);
                        let mut gap = self.gap.lock().unwrap();
                        gap.1 = gap.1.max(gap.0.elapsed());
                        gap.0 = Instant::now();
                    }
                    Ok(other) => panic!("{body} is {other:?}"),
                    Err(_) => failed = true,
                }
            }
            tokio::time::sleep(Duration::from_millis(if failed { 50 } else { 1 })).await;
        }
    }

    async fn consume(self: Arc<Self>, broker: Arc<RabbitMq>) {
        let mut consumer = broker.consume("q", 50).await.unwrap();
        while let Some(delivery) = consumer.deliveries.recv().await {
            let body = String::from_utf8(delivery.message.body.to_vec()).unwrap();
            self.seen.lock().unwrap().insert(body);
            broker.settle(delivery.tag, Settle::Ack);
        }
        panic!("a subscription ended");
    }

    /// Runs it while `harm` is done, then checks that whatever was confirmed was delivered.
    async fn survive(broker: Arc<RabbitMq>, harm: impl FnOnce() + Send + 'static) {
        broker.declare_queue(&spec("q")).await.unwrap();
        let load = Load::new();
        let mut tasks = tokio::task::JoinSet::new();
        let mut consumers = tokio::task::JoinSet::new();
        for who in 0..3 {
            tasks.spawn(Arc::clone(&load).publish(Arc::clone(&broker), who));
            consumers.spawn(Arc::clone(&load).consume(Arc::clone(&broker)));
        }
        until("some are confirmed", async || load.confirmed.lock().unwrap().len() > 200).await;
        tokio::task::spawn_blocking(harm).await.unwrap();
        let before = load.confirmed.lock().unwrap().len();
        until("some more are confirmed", async || load.confirmed.lock().unwrap().len() > before + 200).await;
        load.stop.store(true, Ordering::Relaxed);
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        until("all is delivered and settled", async || {
            load.confirmed.lock().unwrap().is_subset(&load.seen.lock().unwrap())
                && broker.depth("q").await.is_ok_and(|depth| depth == QueueDepth::default())
        })
        .await;
        println!(
            "published {}, confirmed {}, longest gap {:?}, connections {}",
            load.published.load(Ordering::Relaxed),
            load.confirmed.lock().unwrap().len(),
            load.gap.lock().unwrap().1,
            broker.connects()
        );
        assert!(broker.connects() > 2, "no harm was done");
        consumers.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_when_connections_are_closed() {
    let node = Arc::new(tokio::task::spawn_blocking(|| node::Node::start("")).await.unwrap());
    let broker = connect(&node.address("/")).await;
    let harmed = Arc::clone(&node);
    Load::survive(broker, move || {
        for _ in 0..6 {
            harmed.close_all_connections();
            std::thread::sleep(Duration::from_millis(500));
        }
    })
    .await;
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_when_the_node_is_killed() {
    let node = Arc::new(tokio::task::spawn_blocking(|| node::Node::start("")).await.unwrap());
    let broker = connect(&node.address("/")).await;
    let harmed = Arc::clone(&node);
    Load::survive(broker, move || {
        // Some traffic first; and the queue must have been written.
        std::thread::sleep(Duration::from_secs(1));
        harmed.sync_queues();
        harmed.kill();
        std::thread::sleep(Duration::from_secs(2));
        harmed.restart();
    })
    .await;
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_voids_its_deliveries_and_nothing_else() {
    let node = Arc::new(tokio::task::spawn_blocking(|| node::Node::start("")).await.unwrap());
    let broker = connect(&node.address("/")).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    broker.declare_exchange(&ExchangeSpec::new("fan", crate::broker::ExchangeKind::Fanout)).await.unwrap();
    let exclusive = QueueSpec { exclusive: true, ..spec("mine") };
    broker.declare_queue(&exclusive).await.unwrap();
    broker.bind("mine", "fan", "").await.unwrap();
    let mut mine = broker.consume("mine", 5).await.unwrap();
    let mut consumer = broker.consume("q", 5).await.unwrap();
    broker.publish(message("q", "job"), true).await.unwrap();
    let old = take(&mut consumer).await;
    let lost = broker.lost(old.tag);
    let harmed = Arc::clone(&node);
    tokio::task::spawn_blocking(move || harmed.stop()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), lost.wait()).await.unwrap();
    // Down: at once, and nothing is kept for later.
    let start = Instant::now();
    until("publishing fails", async || {
        broker.publish(message("q", "never"), true).await == Err(BrokerError::ConnectionLost)
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(5));
    let harmed = Arc::clone(&node);
    tokio::task::spawn_blocking(move || harmed.restart()).await.unwrap();
    let again = take(&mut consumer).await;
    assert_eq!((&again.message.body[..], again.delivery_count), (&b"job"[..], 1));
    assert_ne!(again.tag.channel, old.tag.channel);
    // The same number may be open on the new channel: the old tag must not settle it.
    broker.settle(Tag { channel: old.tag.channel, number: again.tag.number }, Settle::Ack);
    tokio::time::timeout(Duration::from_secs(1), broker.lost(old.tag).wait()).await.unwrap();
    assert_eq!(broker.depth("q").await, Ok(QueueDepth { ready: 0, unacked: 1 }));
    broker.settle(again.tag, Settle::Ack);
    until("it is settled", async || broker.depth("q").await == Ok(QueueDepth::default())).await;
    // The exclusive queue and its binding are there again.
    until("the exclusive queue answers", async || {
        broker.publish(Message { exchange: "fan".to_owned(), ..message("", "news") }, true).await
            == Ok(Confirmation::Confirmed)
    })
    .await;
    assert_eq!(&take(&mut mine).await.message.body[..], b"news");
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_holds_publishing_up_and_acknowledging_goes_on() {
    let node = Arc::new(tokio::task::spawn_blocking(|| node::Node::start("")).await.unwrap());
    let broker = connect(&node.address("/")).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    for i in 0..10 {
        broker.publish(message("q", i.to_string()), true).await.unwrap();
    }
    let mut consumer = broker.consume("q", 10).await.unwrap();
    let ctl = |arguments: &'static [&'static str]| {
        let node = Arc::clone(&node);
        tokio::task::spawn_blocking(move || node.ctl(arguments))
    };
    ctl(&["set_vm_memory_high_watermark", "absolute", "1"]).await.unwrap();
    let mut held = Vec::new();
    for i in 0..50 {
        held.push(broker.publish(message("q", format!("held {i}")), true));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..10 {
        broker.settle(take(&mut consumer).await.tag, Settle::Ack);
    }
    until("acknowledgements are taken", async || broker.depth("q").await == Ok(QueueDepth::default())).await;
    let (first, rest) = held.split_first_mut().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), first).await.is_err(), "there is no alarm");
    ctl(&["set_vm_memory_high_watermark", "0.8"]).await.unwrap();
    for confirm in rest {
        assert_eq!(confirm.await, Ok(Confirmation::Confirmed));
    }
    for i in 0..50 {
        let delivery = take(&mut consumer).await;
        assert_eq!(delivery.message.body, format!("held {i}"));
        broker.settle(delivery.tag, Settle::Ack);
    }
    assert_eq!(broker.connects(), 2);
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_ends_its_subscription_only() {
    let address = vhost("deleting").await;
    let (broker, other) = (connect(&address).await, connect(&address).await);
    for queue in ["one", "two"] {
        broker.declare_queue(&spec(queue)).await.unwrap();
    }
    let mut one = broker.consume("one", 5).await.unwrap();
    let mut two = broker.consume("two", 5).await.unwrap();
    for i in 0..20 {
        drop(broker.publish(message("one", i.to_string()), true));
    }
    let held = take(&mut one).await;
    other.delete_queue("one").await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async { while one.deliveries.recv().await.is_some() {} })
        .await
        .unwrap();
    broker.settle(held.tag, Settle::Ack);
    tokio::time::timeout(Duration::from_secs(1), broker.lost(held.tag).wait()).await.unwrap();
    broker.publish(message("two", "x"), true).await.unwrap();
    broker.settle(take(&mut two).await.tag, Settle::Ack);
    assert_eq!(broker.connects(), 2);
}

/// The broker closes the channel of a consumer that sits on a delivery too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_timeout_costs_the_channel_only() {
    let node = tokio::task::spawn_blocking(|| node::Node::start("consumer_timeout = 3000")).await.unwrap();
    let broker = connect(&node.address("/")).await;
    for queue in ["q", "other"] {
        broker.declare_queue(&spec(queue)).await.unwrap();
    }
    broker.publish(message("q", "slow"), true).await.unwrap();
    let mut consumer = broker.consume("q", 1).await.unwrap();
    let mut other = broker.consume("other", 1).await.unwrap();
    let slow = take(&mut consumer).await;
    tokio::time::timeout(Duration::from_secs(30), broker.lost(slow.tag).wait()).await.unwrap();
    let again = take(&mut consumer).await;
    assert_eq!(again.delivery_count, 1);
    broker.settle(again.tag, Settle::Ack);
    broker.publish(message("other", "x"), true).await.unwrap();
    broker.settle(take(&mut other).await.tag, Settle::Ack);
    assert_eq!(broker.connects(), 2);
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

/// As the host drains: stops receiving, returns what it has not begun, finishes what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_returned_while_draining_stays_away() {
    let broker = connect(&vhost("draining").await).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    for i in 0..50 {
        broker.publish(message("q", i.to_string()), true).await.unwrap();
    }
    let mut consumer = broker.consume("q", 20).await.unwrap();
    let begun = take(&mut consumer).await;
    until("the prefetch is full", async || broker.depth("q").await.unwrap().ready == 30).await;
    consumer.deliveries.close();
    while let Some(delivery) = consumer.deliveries.recv().await {
        broker.settle(delivery.tag, Settle::Nack);
    }
    until("all but one are back", async || {
        broker.depth("q").await.unwrap() == QueueDepth { ready: 49, unacked: 1 }
    })
    .await;
    broker.settle(begun.tag, Settle::Ack);
    drop(consumer);
    assert!(broker.finished(Duration::from_secs(10)).await);
    until("the last is done", async || {
        broker.depth("q").await.unwrap() == QueueDepth { ready: 49, unacked: 0 }
    })
    .await;
    let mut next = broker.consume("q", 49).await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..49 {
        counts.push(take(&mut next).await.delivery_count);
    }
    // Brokers before 4.3 count a return; nothing may have gone round.
    assert!(counts.iter().all(|c| *c <= 1), "{counts:?}");
}

/// A server that takes the connection and says nothing must cost neither thread nor time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options {
        addresses: vec![format!("amqp://{}", silent.local_addr().unwrap())],
        connect_timeout: Duration::from_millis(200),
        startup_timeout: Duration::from_secs(3),
        ..Options::default()
    };
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter(|t| {
                std::fs::read_to_string(t.as_ref().unwrap().path().join("comm"))
                    .is_ok_and(|n| n.starts_with("lapin"))
            })
            .count()
    };
    let watch = tokio::spawn(async move {
        let mut most = 0;
        for _ in 0..28 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            most = most.max(threads());
        }
        most
    });
    let before = threads();
    let error = RabbitMq::connect(options).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    let most = watch.await.unwrap();
    assert!(most <= before + 4, "{before} threads became {most}");
}

/// Own authority, client certificate, and a server that insists on one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_certificates_on_both_sides() {
    let certificates = tempfile::tempdir().unwrap();
    let at = |name: &str| certificates.path().join(name).to_str().unwrap().to_owned();
    let openssl = |arguments: &str| {
        let output = std::process::Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&certificates)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=ca");
    for name in ["server", "client"] {
        openssl(&format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        std::fs::write(at("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out {name}.pem -extfile san"
        ));
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true",
        at("ca.pem"),
        at("server.pem"),
        at("server.key"),
    );
    let node = tokio::task::spawn_blocking(move || node::Node::start(&config)).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    let options = Options {
        addresses: vec![format!("amqps://guest:guest@localhost:{port}/%2f")],
        ca: Some(read("ca.pem")),
        identity: Some((read("client.pem"), read("client.key"))),
        startup_timeout: Duration::from_secs(10),
        ..Options::default()
    };
    let broker = RabbitMq::connect(options.clone()).await.unwrap();
    broker.declare_queue(&spec("q")).await.unwrap();
    let big = vec![7u8; 3 << 20];
    assert_eq!(broker.publish(message("q", big.clone()), true).await, Ok(Confirmation::Confirmed));
    let mut consumer = broker.consume("q", 1).await.unwrap();
    assert!(take(&mut consumer).await.message.body == big);
    assert_eq!(broker.version().as_deref().map(|v| v.split('.').count()), Some(3));
    for worse in [
        Options { ca: None, startup_timeout: Duration::from_secs(1), ..options.clone() },
        Options { identity: None, startup_timeout: Duration::from_secs(1), ..options },
    ] {
        let error = RabbitMq::connect(worse).await.err().unwrap();
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
        println!("{error}");
    }
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

/// More channels than a connection has numbers, many of them closed by the broker: their errors must
/// not come back with their numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_may_be_used_up_without_end() {
    let broker = connect(&vhost("channels").await).await;
    broker.declare_queue(&spec("q")).await.unwrap();
    let mut publishes = Vec::new();
    for i in 0..2500 {
        let error = broker.depth("missing").await.unwrap_err();
        assert!(matches!(error, BrokerError::NotFound { .. }), "{i}: {error}");
        publishes.push(broker.publish(message("q", "x"), true));
        if i % 100 == 0 {
            assert_eq!(broker.depth("q").await.map(|d| d.unacked), Ok(0), "{i}");
            let mut consumer = broker.consume("q", 1).await.unwrap();
            broker.settle(take(&mut consumer).await.tag, Settle::Ack);
        }
    }
    for (i, confirm) in publishes.into_iter().enumerate() {
        assert_eq!(confirm.await, Ok(Confirmation::Confirmed), "{i}");
    }
}

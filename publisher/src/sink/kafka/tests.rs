//! Against librdkafka's mock cluster: what brokers say when they do not take a message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bywash_common::config::Config;
use rdkafka::{
    ClientConfig, Message as _, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers as _},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::{
    service::{Company, Opaque},
    *,
};
use crate::delivery::{
    DeadLetter, EventId, Frontier, Message, News, Outcome, Record, SendError, Sink, Subject, Ticket,
    testing::{self, record},
};

/// Long enough for anything that will happen at all.
const TIMEOUT: Duration = Duration::from_secs(60);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    MockCluster::new(1).unwrap()
}

fn sink(cluster: &Cluster) -> (KafkaSink, Arc<Frontier>) {
    sink_with(cluster, &[])
}

fn sink_with(cluster: &Cluster, properties: &[(&str, &str)]) -> (KafkaSink, Arc<Frontier>) {
    let frontier = testing::frontier();
    let mut config = Config::default();
    // How long librdkafka hopes for a topic that is said not to exist.
    config.kafka.properties.insert("topic.metadata.propagation.max.ms".to_owned(), "100".to_owned());
    for (name, value) in properties {
        config.kafka.properties.insert((*name).to_owned(), (*value).to_owned());
    }
    config.kafka.brokers = cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
    (KafkaSink::open(&config, Arc::clone(&frontier)).unwrap(), frontier)
}

fn message(payload: &[u8]) -> Message<'_> {
    Message {
        topic: "t",
        key: Some(b"/f"),
        payload,
        id: testing::id(1),
        event_id: testing::ID_1,
        time_ms: 0,
        is_dead_letter: false,
        failure: None,
    }
}

/// Lets the sink work until `done`.
fn until(sink: &mut KafkaSink, frontier: &Frontier, done: impl Fn(&Frontier) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !done(frontier) {
        assert!(Instant::now() < deadline, "not done after {TIMEOUT:?}");
        let seen = frontier.events();
        sink.poll().unwrap();
        frontier.wait_past(seen, Duration::from_millis(10));
    }
}

/// The payloads in the topic, in order.
fn payloads(cluster: &Cluster, count: usize) -> Vec<Vec<u8>> {
    read(cluster, count, |message| message.payload().unwrap().to_vec())
}

/// What `of` makes of each message in the topic, in order.
fn read<T>(cluster: &Cluster, count: usize, of: impl Fn(&BorrowedMessage<'_>) -> T) -> Vec<T> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset("t", 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let mut made = Vec::new();
    while made.len() < count && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            made.push(of(&message));
        }
    }
    made
}

/// Waits until a failure was reported that has messages wait to be sent again.
#[track_caller]
fn until_holding(sink: &KafkaSink) {
    let deadline = Instant::now() + TIMEOUT;
    while !sink.service().retries.is_holding() {
        assert!(Instant::now() < deadline, "the failure was not reported");
        std::thread::yield_now();
    }
}

/// Has the broker answer the next `times` requests to produce that the topic may not be written to.
fn bar(cluster: &Cluster, times: usize) {
    let barred = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; times];
    cluster.request_errors(RDKafkaApiKey::Produce, &barred);
}

#[test]
fn delivered_messages_complete_in_order() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    let sent: Vec<Vec<u8>> = (0..100_u8).map(|i| vec![i]).collect();
    for (i, payload) in sent.iter().enumerate() {
        sink.send(&message(payload), frontier.open(record(i as u64))).unwrap();
    }
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(payloads(&cluster, 100), sent);
    Box::new(sink).close(Instant::now());
}

#[test]
fn a_message_that_is_sent_again_keeps_its_time() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    bar(&cluster, 1);
    const TIME_MS: u64 = 1_234_567;
    let ticket = frontier.open(Record { time_ns: TIME_MS * 1_000_000, ..record(0) });
    sink.send(&Message { time_ms: TIME_MS, ..message(b"x") }, ticket).unwrap();
    until_holding(&sink);
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(read(&cluster, 1, |message| message.timestamp()), [Timestamp::CreateTime(TIME_MS as i64)]);
    Box::new(sink).close(Instant::now());
}

#[test]
fn headers_take_their_room_from_the_payload() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    let bare = sink.payload_bytes_max(2);
    let mut config = Config::default();
    config.kafka.headers.insert("name".to_owned(), "v".repeat(5000));
    sink.reconfigure(&config);
    assert!(sink.payload_bytes_max(2) <= bare - 5004);
    let payload = vec![b'x'; sink.payload_bytes_max(2)];
    sink.send(&message(&payload), frontier.open(record(0))).unwrap();
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    Box::new(sink).close(Instant::now());
}

#[test]
fn a_topic_that_may_not_be_written_to_holds_everything_until_it_may() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    bar(&cluster, 1);
    sink.send(&message(b"first"), frontier.open(record(0))).unwrap();
    until_holding(&sink);
    let second = frontier.open(record(1));
    assert!(matches!(sink.send(&message(b"second"), second), Err(SendError::Full)));
    until(&mut sink, &frontier, |f| f.in_flight() == 1);
    sink.send(&message(b"second"), second).unwrap();
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(frontier.take_refused(), []);
    assert_eq!(payloads(&cluster, 2), [b"first".to_vec(), b"second".to_vec()]);
    Box::new(sink).close(Instant::now());
}

#[test]
fn a_topic_that_does_not_exist_holds_everything_until_it_does() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    cluster.topic_error("t", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    for i in 0..3_u8 {
        sink.send(&message(&[i]), frontier.open(record(i.into()))).unwrap();
    }
    until_holding(&sink);
    assert_eq!(frontier.in_flight(), 3);
    cluster.topic_error("t", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(payloads(&cluster, 3), [vec![0], vec![1], vec![2]]);
    Box::new(sink).close(Instant::now());
}

#[test]
fn a_rejected_batch_is_sent_one_by_one_and_only_the_culprit_is_refused() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    // The batch, and then the first message by itself.
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large, too_large]);
    let tickets = [frontier.open(record(0)), frontier.open(record(1))];
    for (ticket, payload) in tickets.iter().zip([b"large", b"small"]) {
        sink.send(&message(payload), *ticket).unwrap();
    }
    until(&mut sink, &frontier, |f| f.events() >= 2);
    let refused = frontier.take_refused();
    assert_eq!(refused.iter().map(|r| r.ticket).collect::<Vec<_>>(), [tickets[0]]);
    frontier.settle(tickets[0], Outcome::DeadLettered);
    assert_eq!(frontier.in_flight(), 0);
    assert_eq!(payloads(&cluster, 1), [b"small".to_vec()]);
    Box::new(sink).close(Instant::now());
}

#[test]
fn an_end_with_dead_brokers_is_soon_and_completes_nothing() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    cluster.broker_down(1).unwrap();
    sink.send(&message(b"x"), frontier.open(record(0))).unwrap();
    let begun = Instant::now();
    Box::new(sink).close(begun + Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((frontier.in_flight(), frontier.take_refused().len()), (1, 0));
}

#[test]
fn what_is_too_large_for_librdkafka_is_refused_at_once() {
    let cluster = cluster();
    let (mut sink, frontier) = sink(&cluster);
    let payload = vec![b'x'; sink.payload_bytes_max(2)];
    sink.send(&message(&payload), frontier.open(record(0))).unwrap();
    let payload = vec![b'x'; 1_000_000];
    let sent = sink.send(&message(&payload), frontier.open(record(1)));
    assert!(matches!(sent, Err(SendError::Refused(_))), "{sent:?}");
    Box::new(sink).close(Instant::now());
}

#[test]
fn a_producer_that_cannot_go_on_is_replaced_and_its_messages_are_sent_again_in_order() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    // Which librdkafka holds to be the end, where the first batch that is on its way gets it.
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
    );
    let sent: Vec<Vec<u8>> = (0..100_u8).map(|i| vec![i]).collect();
    for (i, payload) in sent.iter().enumerate() {
        sink.send(&message(payload), frontier.open(record(i as u64))).unwrap();
    }
    until_holding(&sink);
    let later = frontier.open(record(100));
    assert!(matches!(sink.send(&message(b"later"), later), Err(SendError::Full)));
    until(&mut sink, &frontier, |f| f.in_flight() == 1);
    sink.send(&message(b"later"), later).unwrap();
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(payloads(&cluster, 101), [sent, vec![b"later".to_vec()]].concat());
    Box::new(sink).close(Instant::now());
}

/// Sends numbers, while brokers answer each of `errors` once, and gives what the topic holds in the end.
fn numbers_in_spite_of(errors: &[RDKafkaRespErr]) -> Vec<u16> {
    const NUMBERS: u16 = 400;
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    // The mock takes what follows a refused request, as no broker does: one request at a time.
    let (mut sink, frontier) = sink_with(&cluster, &[("max.in.flight", "1"), ("batch.num.messages", "10")]);
    sink.send(&message(&u16::MAX.to_be_bytes()), frontier.open(record(0))).unwrap();
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    cluster.broker_round_trip_time(1, Duration::from_millis(2)).unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, errors);
    for number in 0..NUMBERS {
        let ticket = frontier.open(record(u64::from(number) + 1));
        let deadline = Instant::now() + TIMEOUT;
        while let Err(error) = sink.send(&message(&number.to_be_bytes()), ticket) {
            assert!(matches!(error, SendError::Full) && Instant::now() < deadline, "{error}");
            let seen = frontier.events();
            sink.poll().unwrap();
            frontier.wait_past(seen, Duration::from_millis(10));
        }
        // As the drain does, between two turns.
        sink.poll().unwrap();
    }
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    let all = payloads(&cluster, usize::from(NUMBERS) + 1);
    Box::new(sink).close(Instant::now());
    all[1..].iter().map(|payload| u16::from_be_bytes(payload[..].try_into().unwrap())).collect()
}

#[test]
fn nothing_passes_what_librdkafka_gives_up_for_a_code_that_ends_by_itself() {
    for code in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
    ] {
        assert_eq!(numbers_in_spite_of(&[code]), (0..400).collect::<Vec<u16>>(), "{code:?}");
    }
}

#[test]
fn nothing_passes_a_batch_that_is_rejected_and_sent_again_one_by_one() {
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    let exception = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION;
    assert_eq!(numbers_in_spite_of(&[too_large, exception]), (0..400).collect::<Vec<u16>>());
}

#[test]
fn a_producer_that_gets_no_id_for_lack_of_a_right_is_replaced_until_it_does() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    // The end of a producer, and nothing is on its way.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied]);
    let (mut sink, frontier) = sink(&cluster);
    let deadline = Instant::now() + TIMEOUT;
    let ticket = frontier.open(record(0));
    while let Err(error) = sink.send(&message(b"x"), ticket) {
        assert!(matches!(error, SendError::Full), "{error}");
        assert!(Instant::now() < deadline, "it stays full");
        sink.poll().unwrap();
    }
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(payloads(&cluster, 1), [b"x".to_vec()]);
    Box::new(sink).close(Instant::now());
}

#[test]
fn in_transactions_nothing_passes_a_refused_message_and_its_news_are_not_taken_for_committed() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let frontier = testing::frontier();
    let mut config = Config::default();
    config.kafka.brokers = cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
    config.kafka.topic = "t".into();
    let mut sink: Box<dyn Sink> = Box::new(TransactionalSink::open(&config, Arc::clone(&frontier)).unwrap());
    let named = |subject: Subject, payload: &'static [u8]| {
        let id = EventId { subject, ..testing::id(0) };
        (id, id.to_string(), payload)
    };
    let bytes = |sequence| Subject::Bytes { sequence, stretch: None };
    let mut send = |(id, event_id, payload): &(EventId, String, &'static [u8]), ticket| {
        let message = Message { id: *id, event_id, ..message(payload) };
        let deadline = Instant::now() + TIMEOUT;
        while let Err(error) = sink.send(&message, ticket) {
            assert!(matches!(error, SendError::Full) && Instant::now() < deadline, "{error}");
            sink.poll().unwrap();
        }
        sink.push().unwrap();
    };
    let tickets = [0, 1, 2].map(|i| frontier.open(record(i)));
    send(&named(bytes(0), b"zero"), tickets[0]);
    // As the drain does with what is too large: without asking the sink.
    let (id, topic, payload) = (testing::id(1), "t".to_owned(), b"one".to_vec());
    let dead_letter =
        DeadLetter { topic, key: None, payload, id, time_ms: 0, reason: "too large".to_owned() };
    frontier.refuse(tickets[1], dead_letter);
    send(&named(bytes(2), b"two"), tickets[2]);
    // And then announces what it cannot keep.
    assert_eq!(frontier.take_refused().len(), 1);
    assert!(frontier.announce(tickets[1]));
    send(&named(Subject::News(News::Undeliverable { sequence: 1 }), b"lost"), tickets[1]);
    frontier.replaced();
    let deadline = Instant::now() + TIMEOUT;
    while frontier.in_flight() > 0 {
        assert!(Instant::now() < deadline, "{} are not committed", frontier.in_flight());
        sink.poll().unwrap();
        sink.push().unwrap();
    }
    assert_eq!(payloads(&cluster, 3), [b"zero".to_vec(), b"lost".to_vec(), b"two".to_vec()]);
    let outcomes = frontier.outcomes();
    let records = [Outcome::Delivered, Outcome::Lost].map(|outcome| outcomes.of(outcome).records);
    assert_eq!(records, [2, 1]);
    sink.close(Instant::now());
}

#[test]
fn in_transactions_what_an_operator_can_mend_is_never_refused_for_good() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let frontier = testing::frontier();
    frontier.set_keeps_dead_letters(true);
    let mut config = Config::default();
    config.kafka.brokers = cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
    config.kafka.topic = "t".into();
    config.failed.give_up_after = bywash_common::units::Span(Duration::ZERO);
    let mut sink: Box<dyn Sink> = Box::new(TransactionalSink::open(&config, Arc::clone(&frontier)).unwrap());
    bar(&cluster, 1);
    let deadline = Instant::now() + TIMEOUT;
    let ticket = frontier.open(record(0));
    while let Err(error) = sink.send(&message(b"waits"), ticket) {
        assert!(matches!(error, SendError::Full) && Instant::now() < deadline, "{error}");
        sink.poll().unwrap();
    }
    while !frontier.has_refused() {
        assert!(Instant::now() < deadline, "it is not given up");
        sink.poll().unwrap();
        sink.push().unwrap();
    }
    let refused = frontier.take_refused();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].is_mendable, "a full store would lose it");
    // As the drain does where there is no room for it: it is handed over again, and goes out once it may.
    frontier.set_keeps_dead_letters(false);
    sink.send(&message(b"waits"), ticket).unwrap();
    frontier.replaced();
    while frontier.in_flight() > 0 {
        assert!(Instant::now() < deadline, "it is not committed");
        sink.poll().unwrap();
        sink.push().unwrap();
    }
    assert_eq!(payloads(&cluster, 1), [b"waits".to_vec()]);
    sink.close(Instant::now());
}

#[test]
fn in_transactions_an_end_without_brokers_is_within_its_bound() {
    const END: Duration = Duration::from_secs(1);
    /// How long librdkafka waits for the coordinator's next chance, whatever it is told.
    const RECONNECT: Duration = Duration::from_secs(10);
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let frontier = testing::frontier();
    let mut config = Config::default();
    config.kafka.brokers = cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
    config.kafka.topic = "t".into();
    let wait = RECONNECT.as_millis().to_string();
    for property in ["reconnect.backoff.ms", "reconnect.backoff.max.ms"] {
        config.kafka.properties.insert(property.to_owned(), wait.clone());
    }
    let mut sink: Box<dyn Sink> = Box::new(TransactionalSink::open(&config, Arc::clone(&frontier)).unwrap());
    let deadline = Instant::now() + TIMEOUT;
    for (number, payload) in [(0, b"one"), (1, b"two")] {
        let ticket = frontier.open(record(number));
        let id = testing::id(number);
        let event_id = &id.to_string();
        while let Err(error) = sink.send(&Message { id, event_id, ..message(payload) }, ticket) {
            assert!(matches!(error, SendError::Full) && Instant::now() < deadline, "{error}");
            sink.poll().unwrap();
        }
        if number == 0 {
            while frontier.in_flight() > 0 {
                assert!(Instant::now() < deadline, "it is not committed");
                sink.poll().unwrap();
                sink.push().unwrap();
            }
            cluster.broker_down(1).unwrap();
        }
    }
    let begun = Instant::now();
    sink.close(Instant::now() + END);
    assert!(begun.elapsed() < RECONNECT / 2, "{:?}", begun.elapsed());
    assert_eq!(frontier.in_flight(), 1);
}

#[test]
fn a_dead_letter_for_a_topic_that_takes_nothing_is_given_back_at_once_and_stops_no_other_topic() {
    let cluster = cluster();
    for topic in ["t", "gone"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let barred = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.topic_error("gone", barred).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    let dead_letter = frontier.open_beside(1, 0);
    sink.send(&Message { topic: "gone", is_dead_letter: true, ..message(b"dead letter") }, dead_letter)
        .unwrap();
    until(&mut sink, &frontier, Frontier::has_refused);
    assert!(!sink.service().retries.is_holding(), "nothing waits for it");
    let refused = frontier.take_refused();
    assert_eq!(refused.iter().map(|refused| refused.ticket).collect::<Vec<_>>(), [dead_letter]);
    frontier.settle_refused(dead_letter, Outcome::DeadLettered);
    for number in 0..3_u8 {
        sink.send(&message(&[number]), frontier.open(record(u64::from(number)))).unwrap();
    }
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(payloads(&cluster, 3), [vec![0], vec![1], vec![2]]);
    Box::new(sink).close(Instant::now());
}

/// The processor time of this thread.
fn thread_time() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(now)
}

#[test]
fn an_end_while_messages_wait_for_a_topic_takes_no_processor() {
    const END: Duration = Duration::from_secs(1);
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    // More often than it is tried until the end.
    bar(&cluster, 100);
    sink.send(&message(b"waits"), frontier.open(record(0))).unwrap();
    until_holding(&sink);
    let (begun, before) = (Instant::now(), thread_time());
    Box::new(sink).close(Instant::now() + END);
    let (took, used) = (begun.elapsed(), thread_time() - before);
    assert!(took >= END, "it waits for the topic: {took:?}");
    assert!(used < END / 4, "{used:?} of {took:?}");
    assert_eq!(frontier.in_flight(), 1);
}

#[test]
fn what_waits_over_a_reload_keeps_the_header_of_its_own_encoder() {
    let cluster = cluster();
    cluster.create_topic("t", 1, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    bar(&cluster, 1);
    sink.send(&message(b"before"), frontier.open(record(0))).unwrap();
    until_holding(&sink);
    let mut config = Config::default();
    config.event.encoder = bywash_common::config::Encoder::Raw;
    sink.reconfigure(&config);
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    sink.send(&message(b"after"), frontier.open(record(1))).unwrap();
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    assert_eq!(encoders(&cluster, 2), ["logstash_base64", "raw"]);
    Box::new(sink).close(Instant::now());
}

/// The encoder that each message in the topic names, in order.
fn encoders(cluster: &Cluster, count: usize) -> Vec<String> {
    let encoder = |message: &BorrowedMessage<'_>| {
        let headers = message.headers().unwrap();
        let header = headers.iter().find(|header| header.key == ENCODER_HEADER).unwrap();
        String::from_utf8(header.value.unwrap().to_vec()).unwrap()
    };
    read(cluster, count, encoder)
}

#[test]
fn a_key_goes_to_the_partition_where_java_clients_look_for_it() {
    const PARTITIONS: i32 = 101;
    // From Kafka's own tests (org.apache.kafka.common.utils.UtilsTest, testMurmur2).
    const HASHES: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let cluster = cluster();
    cluster.create_topic("t", PARTITIONS, 1).unwrap();
    let (mut sink, frontier) = sink(&cluster);
    for (i, (key, _)) in HASHES.iter().enumerate() {
        let message = Message { key: Some(key.as_bytes()), ..message(key.as_bytes()) };
        sink.send(&message, frontier.open(record(i as u64))).unwrap();
    }
    until(&mut sink, &frontier, |f| f.in_flight() == 0);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    (0..PARTITIONS).for_each(|p| all.add_partition_offset("t", p, Offset::Beginning).unwrap());
    consumer.assign(&all).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let mut found = Vec::new();
    while found.len() < HASHES.len() && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            found.push((message.key().unwrap().to_vec(), message.partition()));
        }
    }
    found.sort();
    // As Java's DefaultPartitioner does: the hash made positive, and its remainder.
    let mut expected = HASHES.map(|(key, hash)| (key.as_bytes().to_vec(), (hash & i32::MAX) % PARTITIONS));
    expected.sort();
    assert_eq!(found, expected);
    Box::new(sink).close(Instant::now());
}

#[test]
fn a_ticket_survives_the_trip_through_librdkafka() {
    for number in [0, 1, 2, u64::from(u32::MAX), (1 << 62) - 1] {
        for company in [Company::Any, Company::Suspects, Company::Alone] {
            let opaque = Opaque { ticket: Ticket::from_number(number), company };
            assert_eq!(Opaque::from_number(opaque.number()), opaque);
        }
    }
}

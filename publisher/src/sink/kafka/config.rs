//! librdkafka's properties: what the configuration says, what the guarantees ask for, and what contradicts them.

use bywash_common::config::{Config, Unusable, is_sensitive};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError};

use super::{
    refusal::{PROPERTIES, set_twice, wrong},
    tokens,
};

/// How long a message waits for others unless `publisher.flush_interval` says otherwise.
const LINGER_MS: &str = "5";
/// How often librdkafka says how it is doing, where somebody wants to know, in milliseconds.
const STATISTICS_MS: &str = "5000";
/// librdkafka's default for `message.max.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Some brokers that speak Kafka's protocol do not heed how much a reader asks for at most.
const RESPONSE_BYTES_MAX: &str = "1073741824";
/// librdkafka's own queue takes this many times what may be on its way: an encoded event is larger than its record.
const QUEUE_HEADROOM: u64 = 2;
/// The largest value of librdkafka's `queue.buffering.max.*`.
const QUEUE_MAX: u64 = 2_147_483_647;

/// Has librdkafka stop where it gives a message up.
pub const GAPLESS: &str = "enable.gapless.guarantee";

/// Properties that other keys of the configuration set, with their other names, and the key.
const FIRST_CLASS: [(&[&str], &str); 6] = [
    (&["transactional.id"], "kafka.transactional_id"),
    (&["bootstrap.servers", "metadata.broker.list"], "kafka.brokers"),
    (&["allow.auto.create.topics"], "kafka.create_topic"),
    (&["log_level"], "log.level"),
    (&["queue.buffering.max.messages"], "publisher.in_flight_records"),
    (&["queue.buffering.max.kbytes"], "publisher.in_flight_bytes"),
];

/// Two names of one property each, beside those of the properties above and below.
const ALIASES: [[&str; 2]; 7] = [
    ["compression.codec", "compression.type"],
    ["fetch.message.max.bytes", "max.partition.fetch.bytes"],
    ["max.in.flight.requests.per.connection", "max.in.flight"],
    ["queue.buffering.max.ms", "linger.ms"],
    ["sasl.mechanisms", "sasl.mechanism"],
    ["sasl.oauthbearer.client.id", "sasl.oauthbearer.client.credentials.client.id"],
    ["sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.credentials.client.secret"],
];

/// Properties that the guarantees fix, and what another value would do.
const FIXED: [(&[&str], &str); 7] = [
    (&["enable.idempotence"], "without idempotence a retry doubles and reorders events"),
    (
        &["acks", "request.required.acks"],
        "with fewer acknowledgements than `all` the loss of a broker loses events that were reported as delivered",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "a time-out would drop events that the ring keeps safe while the brokers are away",
    ),
    (
        &["retries", "message.send.max.retries"],
        "with fewer retries events would be dropped that a broker takes later",
    ),
    (&["enable.auto.commit"], "`publisher consume` is to leave no trace among the brokers"),
    (
        &["test.mock.num.brokers"],
        "events would go to brokers that are made up in this process, and end with it",
    ),
    (&["delivery.report.only.error"], "without delivery reports nothing would ever count as delivered"),
];

/// What librdkafka says is wrong with a client's properties as a whole: of the one that it names, as far as that is the user's.
pub fn wrong_as_a_whole(config: &Config, text: String) -> Unusable {
    let named = config.kafka.properties.keys().filter(|property| text.contains(property.as_str()));
    match named.max_by_key(|property| property.len()) {
        Some(property) => wrong(property, unreadable(config, property).unwrap_or(text)),
        None => Unusable::new(PROPERTIES, text),
    }
}

/// Why the file cannot be read that a property names, which TLS libraries say in words of their own.
fn unreadable(config: &Config, property: &str) -> Option<String> {
    let path = config.kafka.properties.get(property).filter(|_| property.ends_with(".location"))?;
    let read = std::fs::metadata(path)
        .and_then(|found| if found.is_file() { std::fs::File::open(path).map(drop) } else { Ok(()) });
    let shown = if is_sensitive(property) { "the file" } else { path };
    read.err().map(|error| format!("cannot read {shown}: {error}"))
}

/// The producer's properties.
///
/// # Errors
/// An [`Unusable`] for a property that is unknown, wrong, set twice or against the guarantees.
pub fn producer_config(config: &Config) -> Result<ClientConfig, Unusable> {
    let mut client = base_config(config)?;
    // Java's default partitioner: consumers that partition likewise find a key where they look for it.
    set_default(&mut client, "partitioner", "murmur2_random");
    client.set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "0");
    // Else librdkafka goes on with what lies behind a message that it gives up, before anybody can put that back.
    client.set(GAPLESS, "true");

    let publisher = &config.publisher;
    let linger = publisher.flush_interval.map(|span| (span.0.as_secs_f64() * 1e3).to_string());
    let batch_records = publisher.batch_records.map(|n| n.to_string());
    let batch_bytes = publisher.batch_bytes.map(|size| size.0.to_string());
    let settings = [
        (["linger.ms", "queue.buffering.max.ms"], "publisher.flush_interval", linger),
        (["batch.num.messages"; 2], "publisher.batch_records", batch_records),
        (["batch.size"; 2], "publisher.batch_bytes", batch_bytes),
    ];
    for (names, key, value) in settings {
        let Some(value) = value else { continue };
        if let Some(twice) = names.iter().find(|name| client.get(name).is_some()) {
            return Err(set_twice(twice, key));
        }
        client.set(names[0], &value);
        validate(&client).map_err(|error| Unusable::new(key, format!("{}: {}", error.key, error.message)))?;
    }
    if client.get("queue.buffering.max.ms").is_none() {
        set_default(&mut client, "linger.ms", LINGER_MS);
    }
    if config.metrics.listen.is_some() {
        set_default(&mut client, "statistics.interval.ms", STATISTICS_MS);
    }
    let records = u64::from(publisher.in_flight_records).saturating_mul(QUEUE_HEADROOM);
    let kbytes = (publisher.in_flight_bytes.0 / 1024 + 1).saturating_mul(QUEUE_HEADROOM);
    client.set("queue.buffering.max.messages", records.min(QUEUE_MAX).to_string());
    client.set("queue.buffering.max.kbytes", kbytes.min(QUEUE_MAX).to_string());
    validate(&client)?;
    Ok(client)
}

/// The properties of a producer that writes in transactions.
///
/// # Errors
/// An [`Unusable`] as for the other producer.
pub fn transactional_config(config: &Config, transactional_id: &str) -> Result<ClientConfig, Unusable> {
    let mut client = producer_config(config)?;
    client.set("transactional.id", transactional_id);
    // A message that is given up fails its transaction.
    client.remove(GAPLESS);
    // librdkafka takes the transaction's: what is not delivered by then is taken back with it, and sent again in the next.
    client.remove("message.timeout.ms");
    validate(&client)?;
    Ok(client)
}

/// The properties of a client that only reads: it assigns partitions to itself and commits nothing.
///
/// # Errors
/// An [`Unusable`] as for the producer.
pub fn consumer_config(config: &Config) -> Result<ClientConfig, Unusable> {
    let mut client = base_config(config)?;
    // librdkafka assigns no partitions without a group's name. Nobody joins that group, so it comes to no trace.
    set_default(&mut client, "group.id", &format!("bywash-{}", std::process::id()));
    set_default(&mut client, "receive.message.max.bytes", RESPONSE_BYTES_MAX);
    client.set("enable.auto.commit", "false").set("allow.auto.create.topics", "false");
    validate(&client)?;
    Ok(client)
}

/// The properties of a client that makes topics.
///
/// # Errors
/// An [`Unusable`] as for the producer.
pub fn admin_config(config: &Config) -> Result<ClientConfig, Unusable> {
    let mut client = base_config(config)?;
    // The other clients say all that there is to be said.
    client.set_log_level(RDKafkaLogLevel::Emerg);
    Ok(client)
}

/// The most bytes that librdkafka takes as one message.
pub fn message_bytes_max(client: &ClientConfig) -> usize {
    client.get("message.max.bytes").and_then(|n| n.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX)
}

/// What to add to librdkafka's words for an error. It names the property for some of the ways in which a broker's certificate
/// turns out not to be an authority's, and not for others: where that has the same name and another key, say.
pub fn hint(reason: &str) -> &'static str {
    const PROPERTY: &str = "ssl.ca.location";
    if reason.contains("SASL authentication error") {
        return " (mechanism, name and secret of kafka.properties; or, with kafka.aws, the credentials, their right \
                kafka-cluster:Connect, kafka.aws.region and this machine's clock)";
    }
    if reason.contains("certificate verify failed") && !reason.contains(PROPERTY) {
        " (`ssl.ca.location` names the authority to trust)"
    } else {
        ""
    }
}

/// The user's properties, checked, and what producer and consumer have in common.
fn base_config(config: &Config) -> Result<ClientConfig, Unusable> {
    for property in config.kafka.properties.keys() {
        let named = |names: &[&str]| names.contains(&property.as_str());
        if let Some((_, key)) = FIRST_CLASS.iter().find(|(names, _)| named(names)) {
            return Err(set_twice(property, key));
        }
        if let Some((_, reason)) = FIXED.iter().find(|(names, _)| named(names)) {
            return Err(wrong(property, format!("it cannot be changed: {reason}; leave it out")));
        }
    }
    if config.kafka.properties.get(GAPLESS).is_some_and(|value| value.parse() != Ok(true)) {
        let message = "it cannot be switched off: events would overtake those that a broker refuses for a moment; leave it out";
        return Err(wrong(GAPLESS, message));
    }
    let is_set = |name: &&str| config.kafka.properties.contains_key(*name);
    if let Some([one, other]) = ALIASES.iter().find(|names| names.iter().all(is_set)) {
        let message = format!("`{other}` is another name for it, and sets it too: keep one of the two");
        return Err(wrong(one, message));
    }
    tokens::check(config)?;
    let mut client = ClientConfig::new();
    client.extend(config.kafka.properties.iter().map(|(k, v)| (k.clone(), v.clone())));
    validate(&client)?;
    if config.kafka.aws.iam {
        set_default(&mut client, tokens::PROTOCOL, "sasl_ssl");
        client.set("sasl.mechanism", tokens::OAUTHBEARER);
    }
    set_default(&mut client, "client.id", "bywash");
    client.set("bootstrap.servers", config.kafka.brokers.join(","));
    let is_debugged = tracing::enabled!(tracing::Level::DEBUG);
    client.set_log_level(if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    Ok(client)
}

fn set_default(client: &mut ClientConfig, property: &str, value: &str) {
    if client.get(property).is_none() {
        client.set(property, value);
    }
}

/// Asks librdkafka what it thinks of the properties, one by one.
fn validate(client: &ClientConfig) -> Result<(), Unusable> {
    match client.create_native_config() {
        Ok(_) => Ok(()),
        // The value is left out: it may be a secret. librdkafka's text has it where that helps.
        Err(KafkaError::ClientConfig(_, text, property, _)) => Err(wrong(&property, text)),
        Err(error) => Err(Unusable::new(PROPERTIES, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use bywash_common::{
        config::Key,
        units::{ByteSize, Span},
    };

    use super::*;

    fn with(property: &str, value: &str) -> Config {
        let mut config = Config::default();
        config.kafka.properties.insert(property.to_owned(), value.to_owned());
        config
    }

    /// The property is refused, and the message holds each of the words.
    fn refused(config: &Config, words: &[&str]) {
        let message = producer_config(config).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }

    #[test]
    fn the_default_gives_what_the_guarantees_ask_for() {
        let client = producer_config(&Config::default()).unwrap();
        for (property, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("message.timeout.ms", "0"),
            (GAPLESS, "true"),
            ("partitioner", "murmur2_random"),
            ("linger.ms", "5"),
            ("bootstrap.servers", "localhost:9092"),
        ] {
            assert_eq!(client.get(property), Some(value), "{property}");
        }
    }

    #[test]
    fn what_would_void_a_guarantee_is_refused_with_the_reason() {
        refused(&with("acks", "1"), &["acks", "loses events"]);
        refused(&with("request.required.acks", "1"), &["request.required.acks"]);
        refused(&with("enable.idempotence", "false"), &["reorders"]);
        refused(&with("message.timeout.ms", "1000"), &["drop"]);
        refused(&with("delivery.timeout.ms", "1000"), &["drop"]);
        refused(&with("message.send.max.retries", "1"), &["dropped"]);
        refused(&with(GAPLESS, "false"), &["overtake"]);
        assert!(producer_config(&with(GAPLESS, "true")).is_ok());
        refused(&with("test.mock.num.brokers", "3"), &["made up"]);
        refused(&with("enable.auto.commit", "true"), &["enable.auto.commit"]);
    }

    #[test]
    fn a_property_that_another_key_sets_is_refused_with_both_names() {
        refused(&with("bootstrap.servers", "a:1"), &["bootstrap.servers", "`kafka.brokers`"]);
        refused(&with("metadata.broker.list", "a:1"), &["metadata.broker.list", "`kafka.brokers`"]);
        refused(&with("transactional.id", "x"), &["transactional.id", "`kafka.transactional_id`"]);
        refused(&with("allow.auto.create.topics", "true"), &["`kafka.create_topic`"]);
        refused(&with("log_level", "7"), &["`log.level`"]);
        let mut config = with("queue.buffering.max.ms", "7");
        assert_eq!(producer_config(&config).unwrap().get("linger.ms"), None);
        config.publisher.flush_interval = Some(Span(std::time::Duration::from_secs(1)));
        refused(&config, &["queue.buffering.max.ms", "`publisher.flush_interval`"]);
        let mut config = with("batch.size", "100");
        config.publisher.batch_bytes = Some(ByteSize(1));
        refused(&config, &["batch.size", "`publisher.batch_bytes`"]);
    }

    #[test]
    fn a_property_that_is_set_under_both_its_names_is_refused_with_both() {
        for [one, other] in ALIASES {
            let mut config = with(one, "1");
            config.kafka.properties.insert(other.to_owned(), "2".to_owned());
            refused(&config, &[one, other]);
        }
    }

    #[test]
    fn each_pair_of_names_is_one_property_to_librdkafka() {
        let of_names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let pairs = ALIASES.iter().map(|pair| of_names(pair));
        let pairs = pairs.chain(FIRST_CLASS.iter().chain(&FIXED).map(|(names, _)| of_names(names)));
        for names in pairs.filter(|names| names.len() == 2) {
            let mut client = ClientConfig::new();
            let value = if names[0].starts_with("compression") { "zstd" } else { "7" };
            client.set(&names[0], value);
            let native = client.create_native_config().unwrap();
            assert_eq!(native.get(&names[0]).unwrap(), native.get(&names[1]).unwrap(), "{names:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_in_plain_words() {
        let mut config = with("security.protocol", "ssl");
        config.kafka.properties.insert("ssl.ca.location".to_owned(), "/gone/ca.pem".to_owned());
        let refused = super::super::check(&config).unwrap_err();
        let unusable = refused.unusable().unwrap();
        assert_eq!(unusable.key, Key::from(PROPERTIES).with("ssl.ca.location"));
        assert!(unusable.message.contains("cannot read /gone/ca.pem: No such file"), "{unusable}");
    }

    #[test]
    fn unknown_and_wrong_properties_are_named() {
        refused(&with("no.such.thing", "1"), &["no.such.thing"]);
        refused(&with("compression.type", "rar"), &["compression.type", "rar"]);
        let mut config = Config::default();
        config.publisher.flush_interval = Some(Span(std::time::Duration::from_secs(100_000)));
        refused(&config, &["linger.ms", "publisher.flush_interval: "]);
    }

    #[test]
    fn the_other_keys_reach_librdkafka() {
        let mut config = with("partitioner", "consistent");
        config.publisher.flush_interval = Some(Span(std::time::Duration::from_millis(200)));
        config.publisher.batch_records = Some(500);
        config.publisher.batch_bytes = Some(ByteSize(1 << 20));
        let client = producer_config(&config).unwrap();
        for (property, value) in [
            ("linger.ms", "200"),
            ("batch.num.messages", "500"),
            ("batch.size", "1048576"),
            ("partitioner", "consistent"),
        ] {
            assert_eq!(client.get(property), Some(value), "{property}");
        }
        assert_eq!(message_bytes_max(&client), 1_000_000);
        assert_eq!(message_bytes_max(&producer_config(&with("message.max.bytes", "5000")).unwrap()), 5000);
    }

    #[test]
    fn a_certificate_that_is_not_trusted_always_has_a_way_out() {
        let terse =
            "error:0A000086:SSL routines::certificate verify failed (after 3ms in state SSL_HANDSHAKE)";
        assert!(hint(terse).contains("ssl.ca.location"));
        let telling = "certificate verify failed: verify that ssl.ca.location is correctly configured";
        assert_eq!([hint(telling), hint("Connection refused")], ["", ""]);
    }

    #[test]
    fn a_consumer_commits_nothing_and_shares_no_group_unless_told_to() {
        let client = consumer_config(&with("group.id", "g")).unwrap();
        assert_eq!((client.get("group.id"), client.get("enable.auto.commit")), (Some("g"), Some("false")));
        let client = consumer_config(&Config::default()).unwrap();
        assert!(client.get("group.id").is_some_and(|id| id.ends_with(&std::process::id().to_string())));
    }
}

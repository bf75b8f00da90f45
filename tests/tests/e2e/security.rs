//! Brokers that ask for TLS and SASL: a proxy in front of one that does not.

use std::{fs, path::Path};

use bywash_tests::harness::{
    Account, Authority, Broker, Bywash, Guard, KafkaProxy, Mechanism, Settings,
    wait::{self, TIMEOUT},
};

use crate::append;

const PASSWORD: &str = "hunter2";
/// Nothing is to be waited for when the publisher stops in vain.
pub const QUICK: Settings = Settings { publisher: "shutdown_timeout = \"1s\"", ..Settings::DEFAULT };

/// The configuration with more librdkafka properties.
pub fn set(bywash: &Bywash, properties: &[(&str, &str)]) {
    let pairs: Vec<String> = properties.iter().map(|(name, value)| format!("{name:?} = {value:?}")).collect();
    bywash.edit("[kafka]\n", &format!("[kafka]\nproperties = {{ {} }}\n", pairs.join(", ")));
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Waits until the publisher has said all of these words.
#[track_caller]
pub fn wait_for_words(bywash: &mut Bywash, words: &[&str]) {
    wait::until("the reason in the log", TIMEOUT, || {
        let log = bywash.publisher().log();
        if words.iter().all(|word| log.contains(word)) { Ok(()) } else { Err(log) }
    });
}

/// A write arrives, and the other commands come through too.
#[track_caller]
pub fn assert_works(bywash: &mut Bywash, broker: &Broker, topic: &str) {
    append(&bywash.file("f"), b"guarded");
    assert_eq!(broker.read(topic).events(1)[0].message(), b"guarded");
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "1"]);
    assert!(consumed.stdout.contains("@message: guarded"), "{consumed:?}");
}

fn tls(broker: &Broker, authority: &Authority, name: &str, clients: Option<&Authority>) -> KafkaProxy {
    let guard = Guard { tls: Some(authority.server(name, clients)), account: None };
    KafkaProxy::start_guarded(broker, guard)
}

#[test]
fn tls_delivers_and_a_wrong_authority_is_named_and_costs_nothing() {
    let broker = Broker::start();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let proxy = tls(&broker, &authority, "127.0.0.1", None);
    let mut bywash = Bywash::new(&proxy.address(), &QUICK);
    let trusted = authority.write(bywash.root(), "trusted.pem");
    let wrong = stranger.write(bywash.root(), "wrong.pem");
    set(&bywash, &[("security.protocol", "ssl"), ("ssl.ca.location", text(&wrong))]);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("early"), b"while nobody trusts the broker");
    wait_for_words(&mut bywash, &["certificate verify failed", "ssl.ca.location", "waits in the ring"]);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains("certificate verify failed"), "{check:?}");

    bywash.publisher().terminate(TIMEOUT);
    bywash.edit(text(&wrong), text(&trusted));
    bywash.start_publisher();
    assert_eq!(broker.read("logs").events(1)[0].message(), b"while nobody trusts the broker");
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "1"]);
    assert!(consumed.stdout.contains("@message: while nobody"), "{consumed:?}");
}

#[test]
fn a_broker_under_another_name_than_its_certificates_is_refused() {
    let broker = Broker::start();
    let authority = Authority::new();
    let proxy = tls(&broker, &authority, "elsewhere.example", None);
    let bywash = Bywash::new(&proxy.address(), &QUICK);
    let trusted = authority.write(bywash.root(), "trusted.pem");
    set(&bywash, &[("security.protocol", "ssl"), ("ssl.ca.location", text(&trusted))]);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains("certificate verify failed"), "{check:?}");
}

#[test]
fn a_certificate_of_the_publishers_own_lets_it_in() {
    let broker = Broker::start();
    let authority = Authority::new();
    let proxy = tls(&broker, &authority, "127.0.0.1", Some(&authority));
    let mut bywash = Bywash::new(&proxy.address(), &QUICK);
    let trusted = authority.write(bywash.root(), "trusted.pem");
    let (certificate, key) = authority.write_client(bywash.root());
    let (trusted, certificate, key) = (text(&trusted), text(&certificate), text(&key));
    set(&bywash, &[("security.protocol", "ssl"), ("ssl.ca.location", trusted)]);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    let last = format!("{:?} = {trusted:?}", "ssl.ca.location");
    let own =
        format!("{last}, \"ssl.certificate.location\" = {certificate:?}, \"ssl.key.location\" = {key:?}");
    bywash.edit(&last, &own);
    bywash.start_agent();
    bywash.start_publisher();
    assert_works(&mut bywash, &broker, "logs");
}

/// What lets a client in that says its password by `password`.
fn credentials(mechanism: Mechanism, password: &str) -> Vec<(&'static str, &str)> {
    let mut properties = vec![("sasl.mechanism", mechanism.name())];
    properties.extend(match mechanism {
        Mechanism::OAuthBearer => {
            [("enable.sasl.oauthbearer.unsecure.jwt", "true"), ("sasl.oauthbearer.config", "principal=alice")]
        }
        _ => [("sasl.username", "alice"), ("sasl.password", password)],
    });
    properties
}

#[track_caller]
fn assert_lets_in(mechanism: Mechanism, topic: &'static str) {
    let account = Account { mechanism, user: "alice".to_owned(), password: PASSWORD.to_owned() };
    let broker = Broker::start();
    let authority = Authority::new();
    let guard = Guard { tls: Some(authority.server("127.0.0.1", None)), account: Some(account) };
    let proxy = KafkaProxy::start_guarded(&broker, guard);
    let mut bywash = Bywash::new(&proxy.address(), &Settings { topic, ..QUICK });
    let trusted = authority.write(bywash.root(), "trusted.pem");
    let mut properties = vec![("security.protocol", "sasl_ssl"), ("ssl.ca.location", text(&trusted))];
    let file = bywash.root().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let reference = format!("${{file:{}}}", file.display());
    properties.extend(credentials(mechanism, &reference));
    set(&bywash, &properties);
    bywash.start_agent();
    bywash.start_publisher();
    assert_works(&mut bywash, &broker, topic);
    let said = bywash.publisher().log() + &bywash.publisher_command(&["check", "--print"]).stdout;
    assert!(!said.contains(PASSWORD) && !said.contains("principal=alice"), "{said}");
}

#[test]
fn sasl_plain_lets_in() {
    assert_lets_in(Mechanism::Plain, "plain");
}

#[test]
fn sasl_scram_sha_256_lets_in() {
    assert_lets_in(Mechanism::ScramSha256, "scram-sha-256");
}

#[test]
fn sasl_scram_sha_512_lets_in() {
    assert_lets_in(Mechanism::ScramSha512, "scram-sha-512");
}

#[test]
fn sasl_oauthbearer_lets_in() {
    assert_lets_in(Mechanism::OAuthBearer, "oauthbearer");
}

#[test]
fn transactions_go_through_tls_and_sasl() {
    let mechanism = Mechanism::ScramSha256;
    let account = Account { mechanism, user: "alice".to_owned(), password: PASSWORD.to_owned() };
    let broker = Broker::start();
    let authority = Authority::new();
    let guard = Guard { tls: Some(authority.server("127.0.0.1", None)), account: Some(account) };
    let proxy = KafkaProxy::start_guarded(&broker, guard);
    let mut bywash = Bywash::new(&proxy.address(), &QUICK);
    let trusted = authority.write(bywash.root(), "trusted.pem");
    let mut properties = vec![("security.protocol", "sasl_ssl"), ("ssl.ca.location", text(&trusted))];
    properties.extend(credentials(mechanism, PASSWORD));
    set(&bywash, &properties);
    bywash.edit("[kafka]\n", "[kafka]\ndelivery = \"exactly_once\"\n");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"committed");
    assert_eq!(broker.read_committed("logs").events(1)[0].message(), b"committed");
}

//! Credentials that are wrong.

use bywash_tests::harness::{
    Account, Broker, Bywash, Guard, KafkaProxy, Mechanism, Settings, Trial,
    wait::{self, TIMEOUT},
};

use super::FAULT_TIME;

const RIGHT: &str = "the right password";
const WRONG: &str = "the wrong password";

#[test]
fn a_wrong_password_is_named_not_shown_and_costs_nothing() {
    let settings = Settings {
        publisher: "shutdown_timeout = \"1s\"",
        kafka: "properties = { \"security.protocol\" = \"sasl_plaintext\", \"sasl.mechanism\" = \"PLAIN\", \
                \"sasl.username\" = \"alice\", \"sasl.password\" = \"the right password\" }",
        ..Settings::default()
    };
    let account =
        Account { mechanism: Mechanism::Plain, user: "alice".to_owned(), password: RIGHT.to_owned() };
    let broker = Broker::start();
    let proxy = KafkaProxy::start_guarded(&broker, Guard { tls: None, account: Some(account) });
    let mut bywash = Bywash::new(&proxy.address(), &settings);
    bywash.start_agent();
    bywash.start_publisher();
    let mut trial = Trial::begin("wrong password", &mut bywash);
    bywash.publisher().terminate(TIMEOUT);
    bywash.edit(RIGHT, WRONG);
    bywash.start_publisher();
    trial.write_during(&mut bywash, FAULT_TIME, |bywash| {
        wait::until("the reason in the log", TIMEOUT, || {
            let log = bywash.publisher().log();
            let says = log.contains("Authentication failed") && log.contains("in the ring");
            if says { Ok(()) } else { Err(log) }
        });
        assert!(!bywash.publisher().log().contains("password"), "{}", bywash.publisher().log());
    });
    bywash.publisher().terminate(TIMEOUT);
    bywash.edit(WRONG, RIGHT);
    bywash.start_publisher();
    let outcome = trial.end(&bywash, &mut broker.read("logs"));
    assert_eq!((outcome.received, outcome.duplicates), (outcome.sent, 0));
}

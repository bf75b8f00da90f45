//! Brokers that ask for a token (SASL's OAUTHBEARER): one that AWS's credentials sign, as Amazon MSK with IAM does, and one that an
//! endpoint gives (OIDC).

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bywash_tests::harness::{
    Account, Authority, AwsIdentity, Broker, Bywash, Cut, Guard, KafkaProxy, Mechanism, Settings,
    TokenEndpoint,
    token_endpoint::CLIENT,
    wait::{self, TIMEOUT},
};

use crate::{
    append,
    security::{QUICK, assert_works, set, text, wait_for_words},
};

/// `kafka.aws`, for whoever has credentials.
const IAM: &str = "aws = { iam = true, region = \"eu-west-1\" }\n";
/// The secret that AWS's services of the tests give out.
const SECRET: &str = "s";

/// A broker behind a guard that asks for tokens, over TLS.
struct Cluster {
    broker: Broker,
    authority: Authority,
    proxy: KafkaProxy,
}

impl Cluster {
    fn start(mechanism: Mechanism, user: &str, password: &str) -> Self {
        let account = Account { mechanism, user: user.to_owned(), password: password.to_owned() };
        let (broker, authority) = (Broker::start(), Authority::new());
        let guard = Guard { tls: Some(authority.server("127.0.0.1", None)), account: Some(account) };
        let proxy = KafkaProxy::start_guarded(&broker, guard);
        Self { broker, authority, proxy }
    }

    /// MSK, which lets an access key in whose secret is [`SECRET`].
    fn msk(key: &str) -> Self {
        Self::start(Mechanism::AwsIam, key, SECRET)
    }

    /// A pair of services with more lines for `[kafka]`, which find no credentials of whoever runs the test.
    fn bywash(&self, kafka: &'static str) -> Bywash {
        let mut bywash = Bywash::new(&self.proxy.address(), &Settings { kafka, ..QUICK });
        let trusted = self.authority.write(bywash.root(), "trusted.pem");
        set(&bywash, &[("ssl.ca.location", text(&trusted))]);
        for pair in [
            "AWS_CONFIG_FILE=/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
            "AWS_EC2_METADATA_DISABLED=true",
        ] {
            bywash.environment.push(pair.to_owned());
        }
        bywash
    }
}

/// Has the programs find an access key and its secret.
fn give_key(bywash: &mut Bywash, key: &str, secret: &str) {
    bywash.environment.push(format!("AWS_ACCESS_KEY_ID={key}"));
    bywash.environment.push(format!("AWS_SECRET_ACCESS_KEY={secret}"));
}

/// Has the programs ask for credentials as in a container.
fn ask(bywash: &mut Bywash, identity: &AwsIdentity) {
    bywash.environment.push(format!("AWS_CONTAINER_CREDENTIALS_FULL_URI={}/credentials", identity.url()));
}

#[test]
fn msk_lets_in_who_shows_a_token_that_aws_credentials_sign() {
    let msk = Cluster::start(Mechanism::AwsIam, "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG");
    let mut bywash = msk.bywash(IAM);
    give_key(&mut bywash, "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG");
    bywash.start_agent();
    bywash.start_publisher();
    assert_works(&mut bywash, &msk.broker, "logs");
    let said = bywash.publisher().log() + &bywash.publisher_command(&["check", "--print"]).stdout;
    assert!(!said.contains("wJalr") && !said.contains("X-Amz") && !said.contains("aHR0cHM"), "{said}");
}

#[test]
fn transactions_reach_msk_as_a_role_that_is_assumed() {
    let msk = Cluster::msk("ROLE");
    let identity = AwsIdentity::start("ROLE");
    let mut bywash = msk.bywash(
        "delivery = \"exactly_once\"\n\
         aws = { iam = true, region = \"eu-west-1\", role_arn = \"arn:aws:iam::000000000000:role/shipper\" }\n",
    );
    give_key(&mut bywash, "BASE", "base");
    bywash.environment.push(format!("AWS_ENDPOINT_URL_STS={}", identity.url()));
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"committed");
    assert_eq!(msk.broker.read_committed("logs").events(1)[0].message(), b"committed");
}

#[test]
fn credentials_that_msk_refuses_are_named_and_cost_nothing() {
    let msk = Cluster::msk("KEY");
    let mut bywash = msk.bywash(IAM);
    let file = bywash.root().join("credentials");
    let write = |secret: &str| {
        fs::write(&file, format!("[default]\naws_access_key_id=KEY\naws_secret_access_key={secret}\n"))
            .unwrap();
    };
    write("another");
    bywash.environment.push(format!("AWS_SHARED_CREDENTIALS_FILE={}", file.display()));
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"waits");
    wait_for_words(&mut bywash, &["Authentication failed", "kafka.aws", "waits in the ring"]);
    let check = bywash.publisher_command(&["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.contains("Authentication failed"), "{check:?}");

    bywash.publisher().terminate(TIMEOUT);
    write(SECRET);
    bywash.start_publisher();
    assert_eq!(msk.broker.read("logs").events(1)[0].message(), b"waits");
}

#[test]
fn credentials_that_cannot_be_had_are_asked_for_until_they_can() {
    let msk = Cluster::msk("KEY");
    let identity = AwsIdentity::start("KEY");
    identity.accept_only("nobody shows this");
    let mut bywash = msk.bywash(IAM);
    ask(&mut bywash, &identity);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"waits");
    wait_for_words(&mut bywash, &["no AWS credentials", "kafka.aws.profile", "waits in the ring"]);
    // Whatever is shown.
    identity.accept_only("");
    assert_eq!(msk.broker.read("logs").events(1)[0].message(), b"waits");
}

#[test]
fn a_token_is_replaced_before_its_credentials_end() {
    let msk = Cluster::msk("OLD");
    let identity = AwsIdentity::start("OLD");
    identity.last(Duration::from_secs(4));
    let mut bywash = msk.bywash(IAM);
    ask(&mut bywash, &identity);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"1");
    let mut reader = msk.broker.read("logs");
    reader.events(1);
    let before = identity.requests();
    identity.give_out("NEW");
    identity.last(Duration::from_secs(3600));
    msk.proxy.let_in_only("NEW");
    wait::until("other credentials to be asked for", TIMEOUT, || {
        if identity.requests() > before { Ok(()) } else { Err("nobody asks".to_owned()) }
    });
    // Whoever connects again needs the new token.
    let has_cut = AtomicBool::new(false);
    msk.proxy.plan(move || if has_cut.swap(true, Ordering::Relaxed) { Cut::None } else { Cut::InRequest });
    append(&bywash.file("f"), b"2");
    assert_eq!(reader.events(2)[1].message(), b"2");
    assert_eq!(msk.proxy.cuts(), 1);
}

/// What signs the tokens of an endpoint.
const KEY: &str = "known to the endpoint and the broker";

/// Brokers that take an endpoint's tokens, the endpoint, and services that ask it.
fn oidc(seconds: i64, kafka: &'static str) -> (Cluster, TokenEndpoint, Bywash) {
    let cluster = Cluster::start(Mechanism::Oidc, "alice", KEY);
    let endpoint = TokenEndpoint::start("alice", KEY, seconds);
    let bywash = Bywash::new(&cluster.proxy.address(), &Settings { kafka, ..QUICK });
    let trusted = cluster.authority.write(bywash.root(), "trusted.pem");
    let (id, secret) = CLIENT;
    let file = bywash.root().join("secret");
    fs::write(&file, secret).unwrap();
    set(
        &bywash,
        &[
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", text(&trusted)),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.client.id", id),
            ("sasl.oauthbearer.client.secret", &format!("${{file:{}}}", file.display())),
            ("sasl.oauthbearer.token.endpoint.url", &endpoint.url()),
        ],
    );
    (cluster, endpoint, bywash)
}

#[test]
fn an_endpoint_s_token_lets_every_client_in() {
    let (cluster, endpoint, mut bywash) = oidc(3600, "create_topic = true\n");
    bywash.start_agent();
    bywash.start_publisher();
    assert_works(&mut bywash, &cluster.broker, "logs");
    assert!(endpoint.given() > 0);
    let said = bywash.publisher().log() + &bywash.publisher_command(&["check", "--print"]).stdout;
    assert!(!said.contains(CLIENT.1) && !said.contains("eyJ"), "{said}");
}

#[test]
fn an_endpoint_that_refuses_is_named_and_costs_nothing() {
    let (cluster, endpoint, mut bywash) = oidc(3600, "");
    endpoint.refuse(true);
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"waits");
    wait_for_words(&mut bywash, &["OAUTHBEARER token", "401", "waits in the ring"]);
    endpoint.refuse(false);
    assert_eq!(cluster.broker.read("logs").events(1)[0].message(), b"waits");
}

#[test]
fn an_endpoint_is_asked_again_before_its_token_ends() {
    let (cluster, endpoint, mut bywash) = oidc(4, "");
    bywash.start_agent();
    bywash.start_publisher();
    append(&bywash.file("f"), b"1");
    let mut reader = cluster.broker.read("logs");
    reader.events(1);
    let before = endpoint.given();
    wait::until("another token to be given", TIMEOUT, || {
        if endpoint.given() > before { Ok(()) } else { Err("nobody asks".to_owned()) }
    });
    append(&bywash.file("f"), b"2");
    assert_eq!(reader.events(2)[1].message(), b"2");
}

//! Credentials that are renewed while the publisher runs, wherever it has them from.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bywash_tests::harness::{AwsIdentity, Bywash, Fault, FaultProxy, Kinesis, wait::TIMEOUT};

use super::SMALL;
use crate::append;

/// The name of a token's file is the SHA-1 of this.
const SSO_START_URL: &str = "https://bywash.awsapps.com/start";
const SSO_CACHE: &str = "f7e7dbc7b57df1344e776f871ba7584875039efc.json";
/// More attempts than this with credentials that are known to have expired are no back-off. Each wait is at least half again
/// as long as the one before it.
const ATTEMPTS_MAX: usize = 20;

/// Where the publisher has its credentials from in a test.
struct Origin {
    kinesis: Kinesis,
    proxy: FaultProxy,
    identity: AwsIdentity,
    bywash: Bywash,
}

impl Origin {
    fn new() -> Self {
        let kinesis = Kinesis::start();
        kinesis.create_stream("logs", 1);
        let proxy = FaultProxy::start(&kinesis);
        let mut bywash = Bywash::for_kinesis(&proxy.url(), &SMALL);
        bywash.environment.retain(|pair| !pair.contains("KEY"));
        Self { kinesis, proxy, identity: AwsIdentity::start("OLD"), bywash }
    }

    /// Sets a variable for the programs.
    fn set(&mut self, name: &str, value: &str) {
        self.bywash.environment.push(format!("{name}={value}"));
    }

    /// Writes a file beside the configuration; gives its path.
    fn write(&self, name: &str, content: &str) -> String {
        let path = self.bywash.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn write_keys(&self, key: &str) -> String {
        let content =
            format!("[default]\naws_access_key_id={key}\naws_secret_access_key=s\naws_session_token=t\n");
        self.write("credentials", &content)
    }

    /// Kinesis refuses the old access key from some moment on; `renew` is done a while later. Everything arrives.
    fn assert_found_once_renewed(mut self, renew: impl FnOnce(&Self)) {
        self.bywash.start_agent();
        self.bywash.start_publisher();
        append(&self.bywash.file("f"), b"1\n");
        let mut reader = self.kinesis.read("logs");
        reader.events(1);
        let has_refused = Arc::new(AtomicBool::new(false));
        let plan_has_refused = Arc::clone(&has_refused);
        self.proxy.plan(move |put| {
            if put.access_key != "OLD" {
                return Fault::None;
            }
            plan_has_refused.store(true, Ordering::Relaxed);
            Fault::Call(400, "ExpiredTokenException", "The security token included in the request is expired")
        });
        let before = self.proxy.seen().puts;
        append(&self.bywash.file("f"), b"2\n");
        bywash_tests::harness::wait::until("the old key to be refused", TIMEOUT, || {
            if has_refused.load(Ordering::Relaxed) { Ok(()) } else { Err("it is not".to_owned()) }
        });
        // So that what is read again is still the old.
        std::thread::sleep(Duration::from_secs(1));
        renew(&self);
        reader.events(2);
        let seen = self.proxy.seen();
        assert!(seen.access_keys.contains("NEW"), "{seen:?}");
        assert!(seen.puts - before < ATTEMPTS_MAX, "{seen:?}");
    }
}

#[test]
fn a_profile_s_file_is_read_again() {
    let mut origin = Origin::new();
    let file = origin.write_keys("OLD");
    origin.set("AWS_SHARED_CREDENTIALS_FILE", &file);
    origin.assert_found_once_renewed(|origin| drop(origin.write_keys("NEW")));
}

#[test]
fn a_container_s_endpoint_is_asked_again() {
    let mut origin = Origin::new();
    let url = origin.identity.url() + "/credentials";
    origin.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url);
    origin.assert_found_once_renewed(|origin| origin.identity.give_out("NEW"));
}

#[test]
fn a_web_identity_s_token_is_read_again() {
    let mut origin = Origin::new();
    let (file, url) = (origin.write("token", "token-1"), origin.identity.url());
    for (name, value) in [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/shipper"),
        ("AWS_ENDPOINT_URL_STS", &url),
    ] {
        origin.set(name, value);
    }
    origin.assert_found_once_renewed(|origin| {
        origin.identity.give_out("NEW");
        origin.identity.accept_only("token-2");
        origin.write("token", "token-2");
    });
}

#[test]
fn a_role_s_own_base_is_read_again() {
    let mut origin = Origin::new();
    let role = "[kinesis]\nrole_arn = \"arn:aws:iam::000000000000:role/shipper\"";
    origin.bywash.edit("[kinesis]", role);
    let (file, url) = (origin.write_keys("BASE-1"), origin.identity.url());
    origin.set("AWS_SHARED_CREDENTIALS_FILE", &file);
    origin.set("AWS_ENDPOINT_URL_STS", &url);
    origin.assert_found_once_renewed(|origin| {
        origin.identity.give_out("NEW");
        origin.identity.accept_only("BASE-2");
        // Whoever asks with the old base is refused for a while.
        let before = origin.identity.requests();
        bywash_tests::harness::wait::until("a role to be asked for in vain", TIMEOUT, || {
            if origin.identity.requests() > before { Ok(()) } else { Err("nobody asks".to_owned()) }
        });
        origin.write_keys("BASE-2");
    });
}

#[test]
fn a_role_of_a_profile_s_chain_is_asked_for_again() {
    let mut origin = Origin::new();
    let config = "[default]\nregion=us-east-1\nrole_arn=arn:aws:iam::000000000000:role/b\nsource_profile=base\n\
                  [profile base]\naws_access_key_id=BASE\naws_secret_access_key=s\n";
    let (file, url) = (origin.write("config", config), origin.identity.url());
    origin.set("AWS_CONFIG_FILE", &file);
    origin.set("AWS_ENDPOINT_URL_STS", &url);
    origin.assert_found_once_renewed(|origin| origin.identity.give_out("NEW"));
}

#[test]
fn the_cache_of_a_sign_on_is_read_again() {
    let mut origin = Origin::new();
    let config = format!(
        "[default]\nsso_start_url={SSO_START_URL}\nsso_region=us-east-1\nsso_account_id=000000000000\n\
         sso_role_name=r\nregion=us-east-1\n"
    );
    let cache = |token: &str| {
        format!(
            "{{\"accessToken\":\"{token}\",\"expiresAt\":\"2099-01-01T00:00:00Z\",\"region\":\"us-east-1\"}}"
        )
    };
    let cache_file = format!(".aws/sso/cache/{SSO_CACHE}");
    origin.write(&cache_file, &cache("token-1"));
    let (file, url) = (origin.write("config", &config), origin.identity.url());
    let home = origin.bywash.root().display().to_string();
    for (name, value) in [("AWS_CONFIG_FILE", file.as_str()), ("HOME", &home), ("AWS_ENDPOINT_URL", &url)] {
        origin.set(name, value);
    }
    origin.assert_found_once_renewed(|origin| {
        origin.identity.give_out("NEW");
        origin.identity.accept_only("token-2");
        origin.write(&cache_file, &cache("token-2"));
    });
}

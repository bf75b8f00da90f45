//! Where tokens come from that brokers are shown by SASL's OAUTHBEARER, as far as properties say it.

use bywash_common::config::{Config, Unusable};
use rdkafka::ClientConfig;

use super::refusal::{set_twice, wrong};

/// Whether connections are encrypted, and ask who it is.
pub const PROTOCOL: &str = "security.protocol";
/// The names of one property.
const MECHANISM: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];
/// The mechanism of whoever shows a token.
pub const OAUTHBEARER: &str = "OAUTHBEARER";
const METHOD: &str = "sasl.oauthbearer.method";
/// Has librdkafka make tokens up, for tests.
const UNSIGNED: &str = "enable.sasl.oauthbearer.unsecure.jwt";

/// Has a client that is only made to check its properties ask nobody for a token: librdkafka asks the endpoint as soon as
/// there is a client that would authenticate by one, and waits for the answer when the client is taken down. The properties
/// of the mechanism are checked whatever the protocol.
pub fn without_token(client: &mut ClientConfig) {
    let is_by_token = MECHANISM
        .iter()
        .any(|name| client.get(name).is_some_and(|value| value.eq_ignore_ascii_case(OAUTHBEARER)));
    let protocol = client.get(PROTOCOL).unwrap_or_default().to_ascii_lowercase();
    if let Some(bare) = protocol.strip_prefix("sasl_").filter(|_| is_by_token) {
        client.set(PROTOCOL, bare);
    }
}

/// Whether it is said once, and once only, where tokens come from, as far as brokers are to be shown any.
///
/// # Errors
/// An [`Unusable`] that names what is said twice, or not at all.
pub fn check(config: &Config) -> Result<(), Unusable> {
    let property = |name: &str| config.kafka.properties.get(name).map(|value| value.to_ascii_lowercase());
    let mechanism = MECHANISM.iter().find_map(|name| Some((*name, property(name)?)));
    if config.kafka.aws.iam {
        let is_sasls = |name: &&String| name.starts_with("sasl.") || *name == UNSIGNED;
        if let Some(name) = config.kafka.properties.keys().find(is_sasls) {
            return Err(set_twice(name, "kafka.aws.iam"));
        }
        if let Some(protocol) = property(PROTOCOL).filter(|protocol| !protocol.starts_with("sasl_")) {
            let message = format!(
                "`{protocol}` shows brokers no token, as kafka.aws.iam has it: leave it out, for sasl_ssl"
            );
            return Err(wrong(PROTOCOL, message));
        }
        if config.kafka.create_topic {
            // rdkafka's client for that asks for no token.
            let message = "it cannot be had with kafka.aws.iam: leave it out, and make topics otherwise \
                           (kafka-topics.sh, auto.create.topics.enable of the cluster)";
            return Err(Unusable::new("kafka.create_topic", message));
        }
        return Ok(());
    }
    let is_on = |name| property(name).is_some_and(|value| !["false", "f", "0"].contains(&value.as_str()));
    match mechanism.filter(|(_, mechanism)| mechanism.eq_ignore_ascii_case(OAUTHBEARER)) {
        Some((name, _)) if property(METHOD).as_deref() != Some("oidc") && !is_on(UNSIGNED) => {
            let message = "nothing says where its tokens come from: set \"sasl.oauthbearer.method\" = \"oidc\" with the properties \
                           that belong to that, or kafka.aws.iam = true in place of both (docs/kafka.md)";
            Err(wrong(name, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bywash_common::config::ConfigArgs;

    use super::{
        super::config::{consumer_config, producer_config},
        *,
    };

    fn with(property: &str, value: &str) -> Config {
        let mut config = Config::default();
        config.kafka.properties.insert(property.to_owned(), value.to_owned());
        config
    }

    /// The configuration is refused, and the message holds each of the words.
    fn refused(config: &Config, words: &[&str]) {
        let message = producer_config(config).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }

    #[test]
    fn a_check_asks_for_no_token_and_still_names_what_a_token_needs() {
        let mut config = with("sasl.mechanism", "oauthbearer");
        let mut set = |name: &str, value: &str| {
            config.kafka.properties.insert(name.to_owned(), value.to_owned());
            config.clone()
        };
        set("sasl.oauthbearer.method", "oidc");
        let config = set("security.protocol", "SASL_PLAINTEXT");
        let mut client = producer_config(&config).unwrap();
        without_token(&mut client);
        assert_eq!(client.get("security.protocol"), Some("plaintext"));
        let refused = super::super::check(&config).unwrap_err().to_string();
        assert!(refused.contains("sasl.oauthbearer.token.endpoint.url"), "{refused}");
    }

    #[test]
    fn msk_s_tokens_go_with_sasl_over_tls_and_nothing_else() {
        let mut config = Config::default();
        config.kafka.aws.iam = true;
        let client = producer_config(&config).unwrap();
        assert_eq!(
            (client.get(PROTOCOL), client.get("sasl.mechanism")),
            (Some("sasl_ssl"), Some(OAUTHBEARER))
        );
        super::super::check(&config).unwrap();
        let with_iam = |property: &str, value: &str| {
            let mut config = with(property, value);
            config.kafka.aws.iam = true;
            config
        };
        refused(&with_iam("sasl.mechanism", "PLAIN"), &["sasl.mechanism", "kafka.aws.iam"]);
        refused(&with_iam("sasl.oauthbearer.method", "oidc"), &[METHOD, "kafka.aws.iam"]);
        refused(&with_iam(PROTOCOL, "ssl"), &["`ssl`", "sasl_ssl"]);
        config.kafka.create_topic = true;
        refused(&config, &["kafka.create_topic", "kafka.aws.iam"]);
    }

    #[test]
    fn tokens_that_come_from_nowhere_are_refused() {
        refused(
            &with("sasl.mechanisms", "OAUTHBEARER"),
            &["sasl.mechanisms", METHOD, "oidc", "kafka.aws.iam"],
        );
    }

    #[test]
    fn kerberos_is_refused_as_not_built_in() {
        let mut config = with(PROTOCOL, "sasl_ssl");
        for mechanism in [None, Some("GSSAPI")] {
            let mechanism = mechanism.map(|name| ("sasl.mechanism".to_owned(), name.to_owned()));
            config.kafka.properties.extend(mechanism);
            let refused = super::super::check(&config).unwrap_err().to_string();
            assert!(refused.contains("GSSAPI") && refused.contains("OAUTHBEARER"), "{refused}");
        }
    }

    #[test]
    fn the_document_s_examples_can_be_used() {
        let document = include_str!("../../../../docs/kafka.md");
        let examples = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let of_tokens = examples.filter(|example| example.contains("iam = true") || example.contains("oidc"));
        let directory = tempfile::tempdir().unwrap();
        let mut mechanisms = Vec::new();
        for example in of_tokens {
            let file = directory.path().join("bywash.toml");
            std::fs::write(&file, example).unwrap();
            let config = Config::load(&ConfigArgs { config: Some(file), ..ConfigArgs::default() }).unwrap();
            super::super::check(&config).unwrap();
            mechanisms.push(consumer_config(&config).unwrap().get("sasl.mechanism").map(str::to_owned));
        }
        assert_eq!(mechanisms, [Some(OAUTHBEARER.to_owned()), Some(OAUTHBEARER.to_owned())]);
    }
}

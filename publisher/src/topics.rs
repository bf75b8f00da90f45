//! Where events can go.

use std::collections::BTreeSet;

use bywash_common::config::Config;

/// All topics, or streams, that events can go to, but for those that templates name ([`Config::templates`]).
pub fn topics(config: &Config) -> Vec<&str> {
    let own = config.own_topics().filter_map(|(_, topic)| topic.named());
    let own = own.chain(config.event.loss_topic.as_deref());
    let fallback = config.templates().next().map(|_| config.fallback_topic());
    own.chain([config.fixed_topic()]).chain(fallback).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The same, and that of dead letters.
pub fn all_topics(config: &Config) -> Vec<&str> {
    topics(config).into_iter().chain(config.failed_topic()).collect()
}

#[cfg(test)]
mod tests {
    use bywash_common::config::DirectoryConfig;

    use super::*;

    #[test]
    fn each_topic_counts_once() {
        let directory = |path: &str, topic: Option<&str>| DirectoryConfig {
            topic: topic.map(Into::into),
            ..DirectoryConfig::at(path.into())
        };
        let directories = vec![directory("/a", Some("x")), directory("/b", None), directory("/c", Some("x"))];
        let mut config = Config { directories, ..Config::default() };
        assert_eq!(topics(&config), ["logs", "x"]);
        config.event.loss_topic = Some("losses".to_owned());
        assert_eq!(topics(&config), ["logs", "losses", "x"]);
    }
}

//! What the errors of librdkafka and of brokers mean.

use rdkafka::error::RDKafkaErrorCode;

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be taken later.
    Again,
    /// It will be taken once an operator has acted, and not before.
    Barred,
    /// The message, or another one of its batch, will never be taken.
    Poison,
    /// The producer has ended: another one sends the message, or else the ring keeps it.
    Ended,
}

/// Why a producer is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It has given up on messages, which are sent again: what lies behind them in its queue must not go before.
    GaveUp,
    /// It cannot go on.
    Broken(String),
}

/// What an error of a delivery or of handing a message over means. What is not known to be the message's own fault is
/// tried again: that is loud, but loses nothing.
pub fn verdict(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as Code;
    match code {
        Code::PurgeQueue | Code::PurgeInflight | Code::Fatal => Verdict::Ended,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidMessage
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::UnsupportedForMessageFormat => Verdict::Poison,
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::PolicyViolation => Verdict::Barred,
        _ => Verdict::Again,
    }
}

/// Whether an error says that a topic does not exist.
pub fn is_missing(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
}

/// Whether an error that an operator can mend is about one topic alone.
pub fn is_topics_own(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    is_missing(code)
        || matches!(code, Code::InvalidTopic | Code::TopicAuthorizationFailed | Code::PolicyViolation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_messages_own_faults_are_final() {
        use RDKafkaErrorCode as Code;
        for (code, expected) in [
            (Code::MessageSizeTooLarge, Verdict::Poison),
            (Code::InvalidRecord, Verdict::Poison),
            (Code::UnknownTopic, Verdict::Barred),
            (Code::UnknownTopicOrPartition, Verdict::Barred),
            (Code::TopicAuthorizationFailed, Verdict::Barred),
            (Code::InvalidDifferentRecord, Verdict::Again),
            (Code::PolicyViolation, Verdict::Barred),
            (Code::NotEnoughReplicas, Verdict::Again),
            (Code::PurgeInflight, Verdict::Ended),
            (Code::PurgeQueue, Verdict::Ended),
        ] {
            assert_eq!(verdict(code), expected, "{code:?}");
        }
    }
}

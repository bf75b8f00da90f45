//! What quotas withhold: announced by file, and by nobody twice.

use super::*;

/// The losses that are announced, each with its file.
fn announced(publisher: &mut PublisherRing) -> Vec<(u64, u64, Vec<u8>)> {
    let seen = drain(&mut publisher.consumer);
    let losses = seen.iter().filter(|(entry, _)| entry.kind == Kind::Lost);
    losses
        .map(|(_, payload)| {
            let (loss, path) = Loss::decode(payload).unwrap();
            (loss.events, loss.bytes, path.to_vec())
        })
        .collect()
}

fn withheld(events: u64, bytes: u64) -> Loss {
    Loss { reason: LossReason::Quota, events, bytes, first_ns: 1, last_ns: 1 }
}

#[test]
fn what_quotas_withhold_is_announced_by_file_and_the_rest_with_other_losses() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let mut publisher = ring.publisher();
    let producer = &agent.producer;
    producer.count_losses(LossReason::Quota, 5, weight(50));
    producer.announce_losses();
    assert_eq!(announced(&mut publisher), [], "it is for the agent to say whose they are");
    assert!(producer.announce_withheld(&withheld(2, 20), b"/a"));
    producer.let_go_of_withheld(&withheld(1, 10));
    producer.count_loss(LossReason::RingFull, weight(7));
    producer.announce_losses();
    producer.announce_losses();
    let expected = [(2, 20, b"/a".to_vec()), (1, 7, Vec::new()), (1, 10, Vec::new())];
    assert_eq!(announced(&mut publisher), expected);
    // Other losses that are due go along.
    producer.count_loss(LossReason::RingFull, weight(7));
    assert!(producer.announce_withheld(&withheld(2, 20), b"/b"));
    producer.announce_losses();
    assert_eq!(announced(&mut publisher), [(2, 20, b"/b".to_vec()), (1, 7, Vec::new())]);
}

#[test]
fn what_a_killed_agent_has_withheld_is_announced_by_its_successor_once() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.count_losses(LossReason::Quota, 5, weight(50));
    assert!(agent.producer.announce_withheld(&withheld(2, 20), b"/a"));
    drop(agent);
    for expected in [vec![(2, 20, b"/a".to_vec()), (3, 30, Vec::new())], Vec::new()] {
        ring.agent().producer.announce_losses();
        let mut publisher = ring.publisher();
        assert_eq!(announced(&mut publisher), expected);
        publisher.consumer.acker().ack(publisher.consumer.position());
    }
}

#[test]
fn what_a_quota_withholds_stays_counted_while_there_is_no_room_to_say_so() {
    let ring = TestRing::new();
    let agent = ring.agent();
    let mut publisher = ring.publisher();
    while agent.producer.push(Kind::Write, &[&[1; 1000]], weight(1000)).is_ok() {}
    agent.producer.count_loss(LossReason::Quota, weight(10));
    let long = vec![b'x'; 4096];
    assert!(!agent.producer.announce_withheld(&withheld(1, 10), &long));
    drain(&mut publisher.consumer);
    publisher.consumer.acker().ack(publisher.consumer.position());
    assert!(agent.producer.announce_withheld(&withheld(1, 10), &long));
    assert_eq!(announced(&mut publisher)[0], (1, 10, long));
}

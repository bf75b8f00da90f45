//! The same records through iceoryx2's publish/subscribe, between two processes.

use std::{hint::black_box, io::Write as _, time::Instant};

use iceoryx2::{
    port::{publisher::Publisher, subscriber::Subscriber},
    prelude::*,
};

use crate::Peer;

/// Samples that a subscriber may be behind; a publisher then waits.
const BUFFER: usize = 1024;

type Port = iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, [u8], ()>;

fn service(name: &str) -> (Node<ipc::Service>, Port) {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>().unwrap();
    let service = node
        .service_builder(&name.try_into().unwrap())
        .publish_subscribe::<[u8]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(BUFFER)
        .max_publishers(1)
        .max_subscribers(1)
        .open_or_create()
        .unwrap();
    (node, service)
}

/// The publishing end, and the process at the other.
pub(crate) struct Channel {
    publisher: Publisher<ipc::Service, [u8], ()>,
    peer: Peer,
    _service: Port,
    _node: Node<ipc::Service>,
}

impl Channel {
    /// For records of `len` bytes, in rounds of `count`.
    pub(crate) fn start(len: usize, count: usize) -> Self {
        let name = format!("bywash-bench-{}-{len}", std::process::id());
        let (node, service) = service(&name);
        let publisher = service
            .publisher_builder()
            .initial_max_slice_len(len)
            .max_loaned_samples(2)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .unwrap();
        let peer = Peer::start(&["iceoryx", &name, &count.to_string()]);
        Self { publisher, peer, _service: service, _node: node }
    }

    /// Nanoseconds a record from the first until the other process has had all.
    pub(crate) fn round(&mut self, record: &[u8], count: usize) -> f64 {
        self.peer.go();
        let start = Instant::now();
        for _ in 0..count {
            let sample = self.publisher.loan_slice_uninit(record.len()).unwrap();
            sample.write_from_slice(record).send().unwrap();
        }
        self.peer.line();
        start.elapsed().as_nanos() as f64 / count as f64
    }

    pub(crate) fn finish(self) {
        drop(self.peer);
    }
}

/// The other process: says when it has had a round.
pub(crate) fn subscribe(name: &str, count: usize) -> ! {
    let (_node, service) = service(name);
    let subscriber: Subscriber<ipc::Service, [u8], ()> =
        service.subscriber_builder().buffer_size(BUFFER).create().unwrap();
    println!("ready");
    // What the ring's consumer does, and what a sink needs: the record out of the shared memory.
    let mut copy = Vec::new();
    // Looks for records in its own turn only.
    for _go in std::io::stdin().lines() {
        let mut seen = 0;
        while seen < count {
            match subscriber.receive().unwrap() {
                Some(sample) => {
                    copy.clear();
                    copy.extend_from_slice(sample.payload());
                    black_box(&copy);
                    seen += 1;
                }
                None => std::hint::spin_loop(),
            }
        }
        println!("done");
        std::io::stdout().flush().unwrap();
    }
    std::process::exit(0)
}

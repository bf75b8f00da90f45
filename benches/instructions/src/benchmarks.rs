//! What is counted.

mod encoding;
mod ring;
mod writes;

use anyhow::Result;

/// Runs what is to be counted, and nothing else.
pub type Counted<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// Something that is done again and again.
pub trait Bench {
    /// Does it once.
    ///
    /// # Errors
    /// If it does not do what it should: its count would say nothing.
    fn round(&mut self, counted: Counted<'_>) -> Result<()>;
}

/// One line of the table.
pub struct Benchmark {
    /// Its name there.
    pub name: &'static str,
    /// Gets everything ready.
    pub make: fn() -> Result<Box<dyn Bench>>,
}

/// All of them.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "write 128 B", make: || writes::write(128) },
    Benchmark { name: "write 4 KiB", make: || writes::write(4 << 10) },
    Benchmark { name: "write 128 KiB", make: || writes::write(128 << 10) },
    Benchmark { name: "FIFO, 64 lines of 200 B", make: || writes::fifo(64, 200) },
    Benchmark { name: "ring push 128 B", make: || ring::push(128) },
    Benchmark { name: "ring push 4 KiB", make: || ring::push(4 << 10) },
    Benchmark { name: "ring push 128 KiB", make: || ring::push(128 << 10) },
    Benchmark { name: "ring pop 128 B", make: || ring::pop(128) },
    Benchmark { name: "ring pop 4 KiB", make: || ring::pop(4 << 10) },
    Benchmark { name: "ring pop 128 KiB", make: || ring::pop(128 << 10) },
    Benchmark { name: "ring to event, ecs 4 KiB", make: || encoding::drain("ecs", 4 << 10) },
    Benchmark {
        name: "ring to event, logstash_base64 4 KiB",
        make: || encoding::drain("logstash_base64", 4 << 10),
    },
    Benchmark {
        name: "ring to event, logstash_base64 128 KiB",
        make: || encoding::drain("logstash_base64", 128 << 10),
    },
    Benchmark { name: "encode logstash_base64 200 B", make: || encoding::encode("logstash_base64", 200) },
    Benchmark { name: "encode logstash 200 B", make: || encoding::encode("logstash", 200) },
    Benchmark { name: "encode ecs 200 B", make: || encoding::encode("ecs", 200) },
    Benchmark { name: "encode raw 200 B", make: || encoding::encode("raw", 200) },
    Benchmark { name: "encode logstash_base64 4 KiB", make: || encoding::encode("logstash_base64", 4 << 10) },
    Benchmark { name: "encode ecs 4 KiB", make: || encoding::encode("ecs", 4 << 10) },
];

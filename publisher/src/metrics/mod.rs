//! `[metrics]`: what `status` shows, served over HTTP in Prometheus's text format.
//!
//! The server looks at the ring from outside, just as `publisher status` does in another process: it has no lock, channel or counter
//! in common with the drain, so that nothing that a client does reaches the delivery. It has a thread of its own, which sleeps in
//! epoll_wait(2) until somebody connects, as the drain and the sink's thread must not wait for clients.
//!
//! HTTP is hyper's, which is in the program anyway for AWS's SDK. The text is written by hand: a metrics library would hold every
//! counter a second time, while these are in the ring's segments already and outlive the process.
//!
//! | file | holds |
//! |---|---|
//! | `families.rs` | every metric: name, type, labels, meaning, and where its values come from |
//! | `sink_families.rs` | those of sinks, dead letters and handovers |
//! | `places.rs` | what is looked at on disks |
//! | `exposition.rs` | the text format |
//! | `server.rs` | the thread, its connections and their limits |

mod all;
mod exposition;
mod families;
mod places;
mod server;
mod sink_families;
#[cfg(test)]
mod tests;

pub use server::Server;

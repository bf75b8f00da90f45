//! Brokers as ZooKeeper knows them: each one of a cluster registers itself under `/brokers/ids` for as long as it lives.
//!
//! fuse_kafka found its brokers so, and followed them. librdkafka follows a cluster by itself as long as one broker that it knows
//! lives; what ZooKeeper adds is the first address, and a new one when all that were known are gone.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use bywash_common::config::Config;
use serde_json::Value;
use zookeeper_client::{Client, Error, EventType};

use crate::rate::LogRate;

/// Where brokers register (kafka.zk.BrokerIdsZNode).
const BROKERS: &str = "/brokers/ids";
/// How long the first look-up may take. Longer than a session needs to be refused.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long ZooKeeper may be silent before the session counts as lost.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the next attempt waits after one that failed.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// At most one line about trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// No brokers were found.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("kafka.zookeepers: no broker found at {servers} within {LOOK_UP_TIMEOUT:?}: {reason}")]
pub struct LookUpError {
    servers: String,
    reason: String,
}

/// What the watching thread has found.
#[derive(Default)]
struct Found {
    /// Brokers that are registered and that nobody has taken notice of yet.
    news: Option<Vec<String>>,
    /// Why there are none so far.
    reason: String,
}

/// Watches which brokers are registered.
pub struct Watch {
    found: Arc<Mutex<Found>>,
}

impl Watch {
    /// The registered brokers, if all of them are others than those that a client began with: librdkafka cannot find those
    /// by itself. Gives each news once.
    pub fn moved(&self, known: &[String]) -> Option<Vec<String>> {
        let news = self.found.lock().unwrap_or_else(PoisonError::into_inner).news.take();
        news.filter(|brokers| !brokers.iter().any(|broker| known.contains(broker)))
    }
}

/// The configuration with the brokers that ZooKeeper knows, where it names ZooKeeper servers, and who watches them.
///
/// # Errors
/// [`LookUpError`] if none is found in time.
pub fn locate(config: &Config) -> Result<(Cow<'_, Config>, Option<Watch>), LookUpError> {
    if config.kafka.zookeepers.is_empty() {
        return Ok((Cow::Borrowed(config), None));
    }
    let servers = config.kafka.zookeepers.join(",");
    let failed = |reason: String| LookUpError { servers: servers.clone(), reason };
    let found = Arc::<Mutex<Found>>::default();
    let (sender, first) = mpsc::channel();
    let watcher = Watcher {
        servers: servers.clone(),
        protocol: protocol(config),
        found: Arc::downgrade(&found),
        first: sender,
        has_found: false,
        log_rate: LogRate::new(LOG_INTERVAL),
    };
    let spawned = thread::Builder::new().name("zookeepers".to_owned()).spawn(|| watcher.run());
    spawned.map_err(|error| failed(error.to_string()))?;
    let Ok(brokers) = first.recv_timeout(LOOK_UP_TIMEOUT) else {
        let reason = found.lock().unwrap_or_else(PoisonError::into_inner).reason.clone();
        let reason = if reason.is_empty() { "no answer".to_owned() } else { reason };
        return Err(failed(reason));
    };
    tracing::info!("brokers by ZooKeeper at {servers}: {}", brokers.join(","));
    let mut config = config.clone();
    config.kafka.brokers = brokers;
    Ok((Cow::Owned(config), Some(Watch { found })))
}

/// The security protocol that this client speaks, as brokers name it.
fn protocol(config: &Config) -> String {
    let property = config.kafka.properties.get("security.protocol");
    property.map_or("PLAINTEXT".to_owned(), |name| name.to_ascii_uppercase())
}

/// Runs in a thread of its own.
struct Watcher {
    servers: String,
    protocol: String,
    found: Weak<Mutex<Found>>,
    first: mpsc::Sender<Vec<String>>,
    /// It has found some.
    has_found: bool,
    log_rate: LogRate,
}

impl Watcher {
    /// Watches until nobody wants to know any more.
    fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.say(&error.to_string()),
        };
        while self.found.strong_count() > 0 {
            let began = Instant::now();
            if let Err(reason) = runtime.block_on(self.session()) {
                self.say(&reason);
            }
            thread::sleep(RETRY_WAIT.saturating_sub(began.elapsed()));
        }
    }

    /// Watches for as long as a session lasts.
    async fn session(&mut self) -> Result<(), String> {
        let text = |error: Error| error.to_string();
        let connector = Client::connector().with_session_timeout(SESSION_TIMEOUT);
        let client = connector.connect(&self.servers).await.map_err(text)?;
        while self.found.strong_count() > 0 {
            let (ids, watcher) = match client.list_and_watch_children(BROKERS).await {
                Err(Error::NoNode) => return Err(format!("there is no {BROKERS}")),
                listed => listed.map_err(text)?,
            };
            let mut brokers = Vec::new();
            for id in ids {
                match client.get_data(&format!("{BROKERS}/{id}")).await {
                    Ok((data, _)) => brokers.extend(address(&data, &self.protocol)),
                    // It has gone meanwhile, and the watcher says so.
                    Err(Error::NoNode) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            brokers.sort();
            self.publish(brokers);
            if watcher.changed().await.event_type == EventType::Session {
                return Err("the session is lost".to_owned());
            }
        }
        Ok(())
    }

    fn publish(&mut self, brokers: Vec<String>) {
        if brokers.is_empty() {
            return self.say(&format!("none is registered under {BROKERS} with {}", self.protocol));
        }
        if let Some(found) = self.found.upgrade() {
            found.lock().unwrap_or_else(PoisonError::into_inner).news = Some(brokers.clone());
        }
        self.has_found = true;
        // Only the first is waited for.
        let _ = self.first.send(brokers);
    }

    fn say(&mut self, reason: &str) {
        if let Some(found) = self.found.upgrade() {
            reason.clone_into(&mut found.lock().unwrap_or_else(PoisonError::into_inner).reason);
        }
        let kept =
            if self.has_found { "the brokers known so far are kept" } else { "no broker is known yet" };
        if let Some(others) = self.log_rate.pass() {
            tracing::warn!("ZooKeeper at {}: {reason}; {kept}{others}", self.servers);
        }
    }
}

/// host:port of the broker that registered with this JSON: of its endpoint with the protocol, or, before Kafka 0.9, its only one.
fn address(data: &[u8], protocol: &str) -> Option<String> {
    let json: Value = serde_json::from_slice(data).ok()?;
    let endpoints = json["endpoints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for endpoint in endpoints {
        let (listener, address) = endpoint.split_once("://")?;
        let spoken = json["listener_security_protocol_map"][listener].as_str().unwrap_or(listener);
        if spoken == protocol {
            return Some(address.to_owned());
        }
    }
    let (host, port) = (json["host"].as_str()?, json["port"].as_u64()?);
    (protocol == "PLAINTEXT").then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_of_any_age_is_found_by_its_protocol() {
        let old = br#"{"jmx_port":-1,"timestamp":"1","host":"a","version":1,"port":9092}"#;
        assert_eq!(address(old, "PLAINTEXT").as_deref(), Some("a:9092"));
        assert_eq!(address(old, "SSL"), None);
        let new =
            br#"{"listener_security_protocol_map":{"IN":"PLAINTEXT","OUT":"SASL_SSL"},"port":-1,"host":null,
                       "endpoints":["IN://b:1","OUT://c:2"],"version":5}"#;
        assert_eq!(address(new, "PLAINTEXT").as_deref(), Some("b:1"));
        assert_eq!(address(new, "SASL_SSL").as_deref(), Some("c:2"));
        assert_eq!(address(new, "SSL"), None);
        assert_eq!(address(b"no json", "PLAINTEXT"), None);
    }
}

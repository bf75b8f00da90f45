//! Topics that do not exist are made where the configuration asks for that (`kafka.create_topic`).

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bywash_common::config::Config;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
};

use crate::{rate::LogRate, topics::all_topics};

use super::{
    config::admin_config,
    connect::{Lookup, Presence},
    error::OpenError,
};

/// Has the brokers take their own `num.partitions` or `default.replication.factor`.
const BROKERS_DEFAULT: i32 = -1;
/// How long the brokers have for making a topic.
const MAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the next attempt waits after one that failed.
const RETRY_WAIT: Duration = Duration::from_secs(2);
/// At most one line about trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    /// Topics that may be missing.
    wanted: BTreeSet<String>,
    /// Other brokers than those of the beginning.
    brokers: Option<String>,
    ends: bool,
}

/// Makes topics, in a thread of its own that ends with this.
pub struct TopicMaker {
    shared: Arc<(Mutex<State>, Condvar)>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TopicMaker {
    /// Starts with the topics that the configuration names; nothing if it does not ask for that.
    ///
    /// # Errors
    /// An [`OpenError`] that names what is wrong.
    pub fn start(config: &Config) -> Result<Option<Self>, OpenError> {
        if !config.kafka.create_topic {
            return Ok(None);
        }
        let admin = admin_config(config)?;
        let lookup = Lookup::new(config)?;
        let wanted = all_topics(config).into_iter().map(str::to_owned).collect();
        let shared = Arc::new((Mutex::new(State { wanted, ..State::default() }), Condvar::new()));
        let worker =
            Worker { shared: Arc::clone(&shared), admin, lookup, log_rate: LogRate::new(LOG_INTERVAL) };
        let spawned = thread::Builder::new().name("topics".to_owned()).spawn(|| worker.run());
        spawned.map_err(|error| OpenError::Producer(error.to_string()))?;
        Ok(Some(Self { shared }))
    }

    /// This topic may be missing.
    pub fn want(&self, topic: &str) {
        let mut state = lock(&self.shared.0);
        if !state.wanted.contains(topic) {
            state.wanted.insert(topic.to_owned());
            self.shared.1.notify_all();
        }
    }

    /// The brokers are elsewhere from now on.
    pub fn turn_to(&self, brokers: &str) {
        lock(&self.shared.0).brokers = Some(brokers.to_owned());
    }
}

impl Drop for TopicMaker {
    fn drop(&mut self) {
        lock(&self.shared.0).ends = true;
        self.shared.1.notify_all();
    }
}

struct Worker {
    shared: Arc<(Mutex<State>, Condvar)>,
    admin: ClientConfig,
    lookup: Lookup,
    log_rate: LogRate,
}

impl Worker {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let (state, changed) = &*shared;
        let mut last = String::new();
        let mut guard = lock(state);
        while !guard.ends {
            // In turns: one that cannot be made holds up no other.
            let behind = (Bound::Excluded(last.as_str()), Bound::Unbounded);
            let next = guard.wanted.range::<str, _>(behind).next().or_else(|| guard.wanted.first());
            let Some(topic) = next.cloned() else {
                guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if let Some(brokers) = guard.brokers.take() {
                self.admin.set("bootstrap.servers", &brokers);
                self.lookup.turn_to(&brokers);
            }
            drop(guard);
            let made = self.ensure(&topic);
            guard = lock(state);
            last.clone_from(&topic);
            match made {
                Ok(()) => {
                    guard.wanted.remove(&topic);
                }
                Err(reason) => {
                    if let Some(others) = self.log_rate.pass() {
                        tracing::warn!(
                            "kafka.create_topic: cannot make the topic `{topic}`: {reason}; it is tried again{others}"
                        );
                    }
                    guard = changed
                        .wait_timeout_while(guard, RETRY_WAIT, |state| !state.ends)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }

    /// Makes the topic unless it is there.
    fn ensure(&self, topic: &str) -> Result<(), String> {
        if self.lookup.look_for(topic)? != Presence::Missing {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            self.admin.create().map_err(|error| error.to_string())?;
        let new = NewTopic::new(topic, BROKERS_DEFAULT, TopicReplication::Fixed(BROKERS_DEFAULT));
        let options =
            AdminOptions::new().request_timeout(Some(MAKE_TIMEOUT)).operation_timeout(Some(MAKE_TIMEOUT));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let made =
            runtime.block_on(admin.create_topics([&new], &options)).map_err(|error| error.to_string())?;
        match made.into_iter().next() {
            Some(Ok(_)) => tracing::info!("made the topic `{topic}`, as kafka.create_topic says"),
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(code.to_string()),
            None => return Err("the brokers say nothing of it".to_owned()),
        }
        Ok(())
    }
}

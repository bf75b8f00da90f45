//! Topics that templates name, and that cannot be used: their events go to the fallback topic.
//!
//! Whoever may write a file decides the names that come of a template. If its events waited for such a topic, as they do for one that an operator
//! has named, everybody who may write one could hold up all others.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bywash_common::config::Config;

use crate::{rate::LogRate, sink_stats::sink_stats};

/// At most one line about topics that cannot be used in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

struct State {
    fallback: Arc<str>,
    /// Topics that templates have named, and that have taken nothing so far.
    unproven: HashSet<String>,
    /// Those that cannot be used.
    unusable: HashSet<String>,
    log: LogRate,
}

/// Which topics events do not go to, until the next reload or restart.
pub struct FallbackTopics {
    state: Mutex<State>,
    /// Whether there is any; lets the common case do without the lock.
    has_any: AtomicBool,
    /// Whether there is any that has taken nothing; the same.
    has_unproven: AtomicBool,
}

impl FallbackTopics {
    /// None so far.
    pub fn new(config: &Config) -> Self {
        let state = State {
            fallback: config.fallback_topic().into(),
            unproven: HashSet::new(),
            unusable: HashSet::new(),
            log: LogRate::new(LOG_INTERVAL),
        };
        let (has_any, has_unproven) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { state: Mutex::new(state), has_any, has_unproven }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew with another configuration. Gives the topics that could not be used, and are tried again from now on.
    pub fn reconfigure(&self, config: &Config) -> Vec<String> {
        let mut state = self.lock();
        self.has_any.store(false, Ordering::Release);
        self.has_unproven.store(false, Ordering::Release);
        state.unproven.clear();
        state.fallback = config.fallback_topic().into();
        state.unusable.drain().collect()
    }

    /// A template has named a topic.
    pub fn meet(&self, topic: &str) {
        self.lock().unproven.insert(topic.to_owned());
        self.has_unproven.store(true, Ordering::Release);
    }

    /// A topic has taken a message: what it does not take later waits for it.
    pub fn delivered(&self, topic: &str) {
        if self.has_unproven.load(Ordering::Acquire) {
            let mut state = self.lock();
            if state.unproven.remove(topic) {
                self.has_unproven.store(!state.unproven.is_empty(), Ordering::Release);
            }
        }
    }

    /// Where a message for this topic goes instead, if it does.
    pub fn of(&self, topic: &str) -> Option<Arc<str>> {
        if !self.has_any.load(Ordering::Acquire) {
            return None;
        }
        let state = self.lock();
        state.unusable.contains(topic).then(|| {
            sink_stats().fallbacks.fetch_add(1, Ordering::Relaxed);
            Arc::clone(&state.fallback)
        })
    }

    /// A topic cannot be used for a reason that an operator can mend. Gives where its messages go instead, if a template has named it and it
    /// has never taken one; of others none, which wait.
    pub fn take(&self, topic: &str, reason: &str) -> Option<Arc<str>> {
        let mut state = self.lock();
        let is_new = *state.fallback != *topic && state.unproven.remove(topic);
        if !is_new && !state.unusable.contains(topic) {
            return None;
        }
        if is_new {
            state.unusable.insert(topic.to_owned());
            self.has_any.store(true, Ordering::Release);
            self.has_unproven.store(!state.unproven.is_empty(), Ordering::Release);
        }
        if is_new && let Some(others) = state.log.pass() {
            tracing::warn!(
                "events for the topic `{topic}`, which a template names, go to `{}`: {reason}; once it can be used, reload the \
                 publisher{others}",
                state.fallback
            );
        }
        sink_stats().fallbacks.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&state.fallback))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_has_named_goes_elsewhere_once_it_cannot_be_used_and_nothing_else_does() {
        let fallback_topics = FallbackTopics::new(&Config::default());
        assert_eq!(fallback_topics.take("a", "missing"), None);
        fallback_topics.meet("a");
        assert_eq!(fallback_topics.of("a"), None);
        assert_eq!(fallback_topics.take("a", "missing").as_deref(), Some("logs"));
        assert_eq!((fallback_topics.of("a").as_deref(), fallback_topics.of("b")), (Some("logs"), None));
        assert_eq!(fallback_topics.reconfigure(&Config::default()), ["a"]);
        assert_eq!((fallback_topics.of("a"), fallback_topics.take("a", "missing")), (None, None));
    }

    #[test]
    fn a_topic_that_has_taken_something_is_waited_for() {
        let fallback_topics = FallbackTopics::new(&Config::default());
        fallback_topics.meet("a");
        fallback_topics.meet("b");
        fallback_topics.delivered("a");
        assert_eq!((fallback_topics.take("a", "missing"), fallback_topics.of("a")), (None, None));
        assert!(fallback_topics.take("b", "missing").is_some());
        // Those that were on their way come back one by one.
        assert!(fallback_topics.take("b", "missing").is_some());
    }

    #[test]
    fn the_fallback_itself_is_waited_for() {
        let fallback_topics = FallbackTopics::new(&Config::default());
        fallback_topics.meet("logs");
        assert_eq!(fallback_topics.take("logs", "missing"), None);
    }
}

//! What the service manager is told (sd_notify(3)). Without one all of this does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service manager, and when it wants to hear that the agent lives.
pub struct Manager {
    /// Half of the time after which it would kill the agent.
    watchdog: Option<Duration>,
    heard: Instant,
}

impl Manager {
    /// Everything that is configured is listened to.
    pub fn ready() -> Self {
        tell(&[NotifyState::Ready]);
        Self { watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 2), heard: Instant::now() }
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        let mut state = vec![NotifyState::Reloading];
        // That this clock cannot be read takes a broken kernel.
        state.extend(NotifyState::monotonic_usec_now().ok());
        tell(&state);
    }

    /// It is in force, or refused.
    pub fn reloaded(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The agent's loop goes round. Says so as often as is wanted.
    pub fn alive(&mut self) {
        if self.watchdog.is_some_and(|interval| self.heard.elapsed() >= interval) {
            tell(&[NotifyState::Watchdog]);
            self.heard = Instant::now();
        }
    }

    /// The agent is about to end, in `most` at the latest.
    pub fn stopping(&self, most: Duration) {
        let most = u32::try_from(most.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(most)]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot tell the service manager: {error}");
    }
}

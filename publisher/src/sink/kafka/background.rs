//! A slow call in a thread of its own, so that the drain does not block: it polls for the result.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

/// Something that is being made.
pub struct BackgroundTask<T> {
    made: Receiver<T>,
}

/// Its thread has ended without making it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the thread that was to make it has ended")]
pub struct Abandoned;

impl<T: Send + 'static> BackgroundTask<T> {
    /// Starts making it, in a thread called `name`.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(name: &str, make: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (done, made) = mpsc::channel();
        let work = move || {
            // Nobody waits any more at the publisher's end.
            let _ = done.send(make());
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { made })
    }

    /// What was made, if that is done within `wait`.
    ///
    /// # Errors
    /// [`Abandoned`] if it never will be, or was given before.
    pub fn take(&self, wait: Duration) -> Result<Option<T>, Abandoned> {
        match self.made.recv_timeout(wait) {
            Ok(made) => Ok(Some(made)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for anything that will happen at all.
    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn what_takes_long_holds_nobody_up_and_is_there_when_it_is_done() {
        let (release, wait) = mpsc::channel::<u32>();
        let background = BackgroundTask::start("test", move || wait.recv().unwrap()).unwrap();
        assert_eq!(background.take(Duration::ZERO), Ok(None), "it hangs, and this does not");
        release.send(7).unwrap();
        assert_eq!(background.take(TIMEOUT), Ok(Some(7)));
        assert_eq!(background.take(TIMEOUT), Err(Abandoned));
    }
}

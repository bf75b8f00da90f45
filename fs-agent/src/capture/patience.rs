//! Questions whose answer may never come, asked by a thread that has not got long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::Duration,
};

/// How long an answer is waited for. It takes some 50 us, a thread's start included.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// The most questions that wait for an answer. While there are as many, nobody is asked: answers are likely to be slow.
const OPEN_MAX: usize = 16;

/// How many questions are open.
#[derive(Default)]
pub struct Patience {
    open: Arc<AtomicUsize>,
}

/// One less is open when it is dropped, on whichever way.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Patience {
    /// What `question` gives, if it does soon.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
        let was_open = self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&self.open));
        if was_open >= OPEN_MAX {
            return None;
        }
        let (answer, answered) = sync_channel(1);
        let ask = move || {
            let _open = open;
            // Nobody waits any more if it took too long.
            let _ = answer.send(question());
        };
        thread::Builder::new().name("command".to_owned()).spawn(ask).ok()?;
        answered.recv_timeout(WAIT_MAX).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc::channel, time::Instant};

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let patience = Patience::default();
        assert_eq!(patience.ask(|| Some(1)), Some(1));
        assert_eq!(patience.ask(|| None::<i32>), None);
        let begin = Instant::now();
        let silent: Vec<_> = (0..OPEN_MAX)
            .map(|_| {
                let (release, released) = channel::<()>();
                assert_eq!(patience.ask(move || released.recv().ok().map(|()| 1)), None);
                release
            })
            .collect();
        assert!(begin.elapsed() >= WAIT_MAX * u32::try_from(OPEN_MAX).unwrap());
        // As many as can be are open: no thread is started for more.
        assert_eq!(patience.ask(|| panic!("asked")), None::<i32>);
        drop(silent);
        while patience.open.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        assert_eq!(patience.ask(|| Some(2)), Some(2));
    }
}

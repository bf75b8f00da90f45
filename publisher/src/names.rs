//! Names of users and groups, looked up here so that no write ever waits for a name service.
//!
//! A look-up can hang (LDAP). It runs in a thread of its own; the drain waits for it a bounded time once, and then
//! goes on with the number as text until the answer comes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use bywash_common::record::{Origin, Write};
use nix::unistd::{Gid, Group, Uid, User};

/// The most names that are remembered.
const NAMES_MAX: usize = 4096;
/// How long a name is believed.
const TIME_TO_LIVE: Duration = Duration::from_secs(300);
/// How long the drain waits for a name that it has never seen.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How many look-ups may wait for a name service that hangs.
const REQUESTS_MAX: usize = 256;

/// A number that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// A user's.
    User(u32),
    /// A group's.
    Group(u32),
}

impl Id {
    fn number(self) -> u32 {
        match self {
            Self::User(id) | Self::Group(id) => id,
        }
    }
}

/// What the system says; nothing for a number without a name or if the look-up fails.
fn system_name(id: Id) -> Option<String> {
    match id {
        Id::User(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name),
        Id::Group(gid) => Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name),
    }
}

struct Known {
    name: Arc<str>,
    /// When to ask again.
    stale_at: Instant,
}

type Answer = (Id, Option<String>);

/// Names by number.
pub struct Names {
    known: HashMap<Id, Known>,
    requests: SyncSender<Id>,
    answers: Receiver<Answer>,
    /// Look-ups without an answer so far.
    outstanding: usize,
    /// A look-up took too long: nobody waits for another until it answers.
    is_stuck: bool,
    first_wait: Duration,
}

impl Names {
    /// Names as the system's name services give them.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn of_the_system() -> std::io::Result<Self> {
        Self::new(system_name, FIRST_WAIT)
    }

    /// Numbers alone: nobody is asked.
    #[cfg(test)]
    pub fn none() -> Self {
        let ((requests, _), (_, answers)) = (mpsc::sync_channel(1), mpsc::channel());
        let (known, first_wait) = (HashMap::new(), FIRST_WAIT);
        Self { known, requests, answers, outstanding: 0, is_stuck: false, first_wait }
    }

    fn new(
        look_up: impl Fn(Id) -> Option<String> + Send + 'static,
        first_wait: Duration,
    ) -> std::io::Result<Self> {
        let (requests, inbox) = mpsc::sync_channel::<Id>(REQUESTS_MAX);
        let (outbox, answers) = mpsc::channel::<Answer>();
        std::thread::Builder::new().name("names".to_owned()).spawn(move || {
            for id in inbox {
                if outbox.send((id, look_up(id))).is_err() {
                    break;
                }
            }
        })?;
        let known = HashMap::new();
        Ok(Self { known, requests, answers, outstanding: 0, is_stuck: false, first_wait })
    }

    /// The names of the user and the group that a write is by; none where it says nobody. `now` as in [`Self::name`].
    pub fn of_writer(&mut self, write: &Write<'_>, now: Instant) -> Option<(Arc<str>, Arc<str>)> {
        let is_known = write.origin == Origin::Write;
        is_known.then(|| (self.name(Id::User(write.uid), now), self.name(Id::Group(write.gid), now)))
    }

    /// The name, or the number as text where there is none or it is not known yet. `now` may be a moment old.
    pub fn name(&mut self, id: Id, now: Instant) -> Arc<str> {
        while self.outstanding > 0
            && let Ok(answer) = self.answers.try_recv()
        {
            self.learn(answer);
        }
        match self.known.get_mut(&id) {
            Some(known) if known.stale_at > now => return Arc::clone(&known.name),
            Some(known) => {
                // The old name serves until the new one is there.
                known.stale_at = now + TIME_TO_LIVE;
                let name = Arc::clone(&known.name);
                self.ask(id);
                return name;
            }
            None => {}
        }
        let number: Arc<str> = id.number().to_string().into();
        self.remember(id, Arc::clone(&number), now);
        if self.ask(id) && !self.is_stuck {
            self.wait_for(id, Instant::now() + self.first_wait);
        }
        self.known.get(&id).map_or(number, |known| Arc::clone(&known.name))
    }

    fn ask(&mut self, id: Id) -> bool {
        let asked = self.requests.try_send(id).is_ok();
        self.outstanding += usize::from(asked);
        asked
    }

    fn wait_for(&mut self, id: Id, deadline: Instant) {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(answer) => {
                    let found = answer.0 == id;
                    self.learn(answer);
                    if found {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.is_stuck = true;
                    let number = id.number();
                    return tracing::warn!(
                        "the name service does not answer for {number}: events carry numbers instead of names \
                         until it does"
                    );
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn learn(&mut self, (id, name): Answer) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.is_stuck = false;
        if let Some(name) = name {
            self.remember(id, name.into(), Instant::now());
        }
    }

    fn remember(&mut self, id: Id, name: Arc<str>, now: Instant) {
        if self.known.len() >= NAMES_MAX && !self.known.contains_key(&id) {
            // Rare, and refilled within moments: not worth an order of use.
            self.known.clear();
        }
        self.known.insert(id, Known { name, stale_at: now + TIME_TO_LIVE });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_an_unknown_number_stays_one() {
        let mut names = Names::of_the_system().unwrap();
        assert_eq!(&*names.name(Id::User(0), Instant::now()), "root");
        assert_eq!(&*names.name(Id::Group(0), Instant::now()), "root");
        assert_eq!(&*names.name(Id::User(3_999_999_999), Instant::now()), "3999999999");
    }

    #[test]
    fn a_name_is_looked_up_once() {
        let (count, counted) = mpsc::channel();
        let look_up = move |id: Id| {
            count.send(()).unwrap();
            Some(format!("{id:?}"))
        };
        let mut names = Names::new(look_up, Duration::from_secs(60)).unwrap();
        for _ in 0..3 {
            assert_eq!(&*names.name(Id::User(7), Instant::now()), "User(7)");
        }
        drop(names);
        assert_eq!(counted.iter().count(), 1);
    }

    #[test]
    fn a_name_service_that_hangs_holds_up_nothing_and_is_heard_later() {
        let (release, released) = mpsc::channel::<()>();
        let look_up = move |_| {
            let _ = released.recv();
            Some("late".to_owned())
        };
        let mut names = Names::new(look_up, Duration::from_millis(1)).unwrap();
        assert_eq!(&*names.name(Id::User(7), Instant::now()), "7");
        assert!(names.is_stuck);
        names.first_wait = Duration::from_secs(3600);
        assert_eq!(&*names.name(Id::User(8), Instant::now()), "8");
        drop(release);
        while &*names.name(Id::User(7), Instant::now()) != "late"
            || &*names.name(Id::User(8), Instant::now()) != "late"
        {
            std::thread::yield_now();
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut names = Names::new(|_| None, Duration::from_secs(60)).unwrap();
        for uid in 0..=NAMES_MAX as u32 {
            names.name(Id::User(uid), Instant::now());
        }
        assert!(names.known.len() <= NAMES_MAX);
    }
}

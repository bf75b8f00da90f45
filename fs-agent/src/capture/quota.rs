//! How much of each file is captured: the accounts of a directory's files.
//!
//! The rules are those of [`QuotaConfig`]. Balances are whole numbers of billionths of a byte, so that nothing is ever
//! rounded; time is handed in. What is withheld of a file is gathered until it is [`Quota::due`], which the caller asks
//! now and then, or until the file loses its account: so a file is reported once in [`REPORT_AFTER_NS`] at most, but
//! for those that others push out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bywash_common::{
    config::{QuotaConfig, QuotaRule},
    record::{Loss, LossReason},
};

/// How long what is withheld of a file is gathered before it is reported, in nanoseconds.
pub const REPORT_AFTER_NS: u64 = 1_000_000_000;

const NS_PER_SECOND: i128 = 1_000_000_000;

/// A file, told from all that had its number before or will have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Its number.
    pub number: u64,
    /// What no two files of one number share: when it came into being.
    pub birth: u64,
}

/// What was withheld of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Where it was last written under.
    pub path: Arc<[u8]>,
    /// How many writes.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first was made, in nanoseconds since the epoch.
    pub first_ns: u64,
    /// When the last was made, in nanoseconds since the epoch.
    pub last_ns: u64,
}

impl Withheld {
    /// As the ring says it.
    pub fn loss(&self) -> Loss {
        let Self { events, bytes, first_ns, last_ns, .. } = *self;
        Loss { reason: LossReason::Quota, events, bytes, first_ns, last_ns }
    }
}

/// A write to decide about.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The file.
    pub file: FileId,
    /// Its path.
    pub path: &'a Arc<[u8]>,
    /// How many bytes.
    pub bytes: u64,
    /// When, in nanoseconds since the epoch.
    pub time_ns: u64,
}

/// What becomes of a write.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// It is captured.
    pub captured: bool,
    /// What was withheld of a file that has lost its account to this one.
    pub pushed_out: Option<Withheld>,
}

/// The account of one file.
struct Account {
    /// Billionths of a byte; negative while overdrawn.
    balance: i128,
    /// When the balance was that, in the monotonic nanoseconds that are handed in.
    as_of_ns: u64,
    /// With [`QuotaRule::Write`]: it has been written to before.
    is_known: bool,
    /// Its place in the order of use.
    used: u64,
    withheld: Option<Gathered>,
}

struct Gathered {
    since_ns: u64,
    withheld: Withheld,
}

/// The accounts of a directory's files.
pub struct Quota {
    config: QuotaConfig,
    accounts: HashMap<FileId, Account>,
    /// Files by their last use; the first was not written to for the longest time.
    order: BTreeMap<u64, FileId>,
    uses: u64,
}

impl Quota {
    /// No file has an account yet.
    pub fn new(config: QuotaConfig) -> Self {
        Self { config, accounts: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// By which rules accounts are kept.
    pub fn config(&self) -> QuotaConfig {
        self.config
    }

    /// Decides about a write at `now_ns`, by a clock that never goes back.
    pub fn decide(&mut self, write: &Write<'_>, now_ns: u64) -> Decision {
        let burst = i128::from(self.config.burst_bytes.0) * NS_PER_SECOND;
        let rate = i128::from(self.config.bytes_per_second.0);
        self.uses += 1;
        let used = self.uses;
        let new = || Account { balance: burst, as_of_ns: now_ns, is_known: false, used, withheld: None };
        let account = self.accounts.entry(write.file).or_insert_with(new);
        self.order.remove(&account.used);
        self.order.insert(used, write.file);
        account.used = used;
        if self.config.rule == QuotaRule::Write {
            // A file's first write opens its account.
            let is_first = !account.is_known;
            let allowed = rate.saturating_mul(i128::from(now_ns.saturating_sub(account.as_of_ns)));
            let captured = is_first || allowed > 0 && i128::from(write.bytes) * NS_PER_SECOND <= allowed;
            (account.is_known, account.as_of_ns) = (true, account.as_of_ns.max(now_ns));
            if !captured {
                account.withhold(write, now_ns);
            }
            return Decision { captured, pushed_out: self.push_out() };
        }
        // A byte per second is a billionth of a byte per nanosecond.
        let credit = rate.saturating_mul(i128::from(now_ns.saturating_sub(account.as_of_ns)));
        account.balance = account.balance.saturating_add(credit).min(burst);
        account.as_of_ns = account.as_of_ns.max(now_ns);
        let captured = account.balance >= 0;
        if captured {
            account.balance -= i128::from(write.bytes) * NS_PER_SECOND;
        } else {
            account.withhold(write, now_ns);
        }
        Decision { captured, pushed_out: self.push_out() }
    }

    /// Closes the account that was not used for the longest time, if there is one too many.
    fn push_out(&mut self) -> Option<Withheld> {
        if self.accounts.len() <= self.config.files_tracked as usize {
            return None;
        }
        let (_, file) = self.order.pop_first()?;
        self.accounts.remove(&file)?.withheld.map(|gathered| gathered.withheld)
    }

    /// What was gathered for long enough by `now_ns`. Whoever asks says it, or gives it back.
    pub fn due(&mut self, now_ns: u64) -> Vec<(FileId, Withheld)> {
        let is_due = |gathered: &mut Gathered| now_ns.saturating_sub(gathered.since_ns) >= REPORT_AFTER_NS;
        self.take(is_due)
    }

    /// All that is gathered.
    pub fn all(&mut self) -> Vec<(FileId, Withheld)> {
        self.take(|_| true)
    }

    fn take(&mut self, mut pick: impl FnMut(&mut Gathered) -> bool) -> Vec<(FileId, Withheld)> {
        let taken = self
            .accounts
            .iter_mut()
            .filter_map(|(file, account)| Some((*file, account.withheld.take_if(&mut pick)?.withheld)));
        taken.collect()
    }

    /// Takes back what could not be said now. Gives it if the file has no account any more.
    pub fn give_back(&mut self, file: FileId, earlier: Withheld, now_ns: u64) -> Option<Withheld> {
        let Some(account) = self.accounts.get_mut(&file) else { return Some(earlier) };
        let gathered = account.withheld.take();
        let withheld = match gathered {
            None => earlier,
            Some(Gathered { withheld: later, .. }) => Withheld {
                path: later.path,
                events: earlier.events + later.events,
                bytes: earlier.bytes + later.bytes,
                first_ns: earlier.first_ns,
                last_ns: later.last_ns,
            },
        };
        account.withheld = Some(Gathered { since_ns: now_ns, withheld });
        None
    }
}

impl Account {
    fn withhold(&mut self, write: &Write<'_>, now_ns: u64) {
        let begin = || {
            let path = Arc::clone(write.path);
            let withheld =
                Withheld { path, events: 0, bytes: 0, first_ns: write.time_ns, last_ns: write.time_ns };
            Gathered { since_ns: now_ns, withheld }
        };
        let Gathered { withheld, .. } = self.withheld.get_or_insert_with(begin);
        withheld.events += 1;
        withheld.bytes += write.bytes;
        withheld.last_ns = write.time_ns;
        if withheld.path != *write.path {
            withheld.path = Arc::clone(write.path);
        }
    }
}

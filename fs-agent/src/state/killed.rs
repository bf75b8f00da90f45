//! Has a thread die between two stores, for tests: it panics there, and what it lets go of afterwards changes nothing.

use std::cell::Cell;

thread_local! {
    /// How many stores the thread still makes.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static DEAD: Cell<bool> = const { Cell::new(false) };
}

/// What a thread panics with when it dies.
pub struct Killed;

/// Whether the thread is dead.
pub fn is_dead() -> bool {
    DEAD.get()
}

/// Has the thread die after `stores`.
pub fn after(stores: u64) {
    LEFT.set(Some(stores));
}

/// Has it live again; gives whether it had died.
pub fn revive() -> bool {
    LEFT.set(None);
    DEAD.replace(false)
}

/// One store is to be made.
pub fn step() {
    match LEFT.get() {
        Some(0) => {
            LEFT.set(None);
            DEAD.set(true);
            std::panic::resume_unwind(Box::new(Killed));
        }
        Some(left) => LEFT.set(Some(left - 1)),
        None => {}
    }
}

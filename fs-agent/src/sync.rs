//! What the agent's threads share of locking.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose state is valid wherever a thread could panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

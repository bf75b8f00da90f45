//! Tables by the numbers of handles, nodes and threads, which each request looks into.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// A table whose keys are numbers that the kernel or this process gives out. To hash one takes a tenth of what the standard
/// library's hash takes; that one is for keys that strangers choose at will.
pub type ByNumber<K, V> = HashMap<K, V, RandomState>;

//! System and C library calls that no crate wraps: the agent's only `unsafe`.

#![allow(unsafe_code)]

/// From how many bytes on the C library maps what is allocated, rather than to take it from an arena. The FUSE library
/// has a buffer of 16 MiB for each thread, of which most stays untouched: fresh pages of a mapping take no memory until
/// then, while what an arena gives was often used before and is filled with zeros. Less than that, the buffers of
/// requests among it, would cost page faults each time.
const MAP_FROM_BYTES: i32 = 4 << 20;

/// How much an arena keeps at its end: what the C library would choose by itself for [`MAP_FROM_BYTES`].
const KEEP_BYTES: i32 = 2 * MAP_FROM_BYTES;

/// Has large allocations take no more memory than is used of them. To be called before any thread is started.
pub fn map_large_allocations() {
    // Elsewhere they are mapped as they are.
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(nix::libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES), (nix::libc::M_TRIM_THRESHOLD, KEEP_BYTES)]
    {
        // SAFETY: `mallopt` takes two numbers and touches the allocator's own parameters alone, under its own lock. Both
        // values are within its limits; another would be refused, without consequence.
        unsafe { nix::libc::mallopt(parameter, value) };
    }
}

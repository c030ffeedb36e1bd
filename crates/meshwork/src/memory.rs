//! Memory that was needed for a moment goes back to the kernel.
//!
//! Starting and reading config take several MiB for some milliseconds. The allocator keeps what was freed in the middle
//! of its heap, so that an idle sidecar would hold it for ever.

/// Gives back what reading config took, and what the allocator holds and nobody uses. Takes about a millisecond, in which whoever allocates waits: for
/// moments when nothing is going on.
pub(crate) fn give_back() {
    meshwork_xds::unload_descriptors();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    trim();
}

/// Has all threads allocate from one arena, for processes with many connections and little to compute: what one thread
/// frees, any other uses. To be called before there are threads.
pub(crate) fn share_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    one_arena();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's; it has no other way to ask")]
fn one_arena() {
    // SAFETY: mallopt(3) sets a number that the allocator reads when a thread needs an arena; it may be called at any
    // time. Where it fails, there are more arenas, as without it.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's; it has no other way to ask")]
fn trim() {
    // SAFETY: malloc_trim(3) may be called at any time, from any thread; it takes the allocator's own locks and moves
    // nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

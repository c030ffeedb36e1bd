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

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's; it has no other way to ask")]
fn trim() {
    // SAFETY: malloc_trim(3) may be called at any time, from any thread; it takes the allocator's own locks and moves
    // nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

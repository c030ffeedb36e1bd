//! Memory that was needed for a moment goes back to the kernel.
//!
//! Starting and reading config take several MiB for some milliseconds. The allocator keeps what was freed in the middle
//! of its heap, so that an idle sidecar would hold it for ever; and so it would the pages of the program that did it.

/// Gives back what reading config took, and what the allocator holds and nobody uses. Takes about a millisecond, in which whoever allocates waits: for
/// moments when nothing is going on.
pub(crate) fn give_back() {
    meshwork_xds::unload_descriptors();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    trim();
    #[cfg(target_os = "linux")]
    unmap_text();
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

/// Has the kernel forget which pages of the program were used: with each that startup touched it has mapped its
/// neighbours, 10 MiB in all. What goes on is mapped again at its next use, from the page cache.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "what is unmapped is the program itself, which no library can know to be safe"
)]
fn unmap_text() {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for text in unchanged_text(&smaps) {
        // SAFETY: these pages are those of a file, private, not writable, and not one of them has been changed: what is
        // read at their next use is what is there now.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(text.start), text.len(), libc::MADV_DONTNEED)
        };
    }
}

/// Where text of programs is mapped, by `/proc/self/smaps`, but where somebody has changed it for himself, such as a debugger
/// or a probe, whose changes would be lost. Source: proc(5).
#[cfg(target_os = "linux")]
fn unchanged_text(smaps: &str) -> Vec<std::ops::Range<usize>> {
    let mut texts = Vec::new();
    let mut last = None;
    for line in smaps.lines() {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        match fields[..] {
            ["Anonymous:", "0", "kB"] => texts.extend(last.take()),
            [range, mode, _, _, inode, ..] if range.contains('-') => {
                last = addresses(range).filter(|_| mode == "r-xp" && inode != "0");
            }
            _ => {}
        }
    }
    texts
}

#[cfg(target_os = "linux")]
fn addresses(range: &str) -> Option<std::ops::Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn text_of_files_is_unmapped_where_nobody_changed_it() {
        let mapped = |head: &str, changed: usize| {
            format!("{head}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {changed} kB\nVmFlags: rd ex mr mw me\n")
        };
        let smaps = [
            mapped("1000-3000 r--p 00000000 fe:00 65 /bin/meshwork", 0),
            mapped("3000-5000 r-xp 00002000 fe:00 65 /bin/meshwork", 0),
            mapped("5000-7000 rw-p 00004000 fe:00 65 /bin/meshwork", 0),
            mapped("8000-9000 r-xp 00000000 00:00 0 [vdso]", 0),
            mapped("a000-c000 r-xp 00000000 fe:00 66 /lib/with a breakpoint.so", 4),
            mapped("c000-d000 rwxp 00000000 fe:00 67 /lib/strange.so", 0),
            mapped("d000-f000 r-xp 00000000 fe:00 68 /lib/libc.so.6", 0),
        ];
        assert_eq!(unchanged_text(&smaps.concat()), [0x3000..0x5000, 0xd000..0xf000]);
        assert!(unchanged_text("nonsense\n- r-xp a b 1\nAnonymous: 0 kB\n").is_empty());
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
        assert!(!unchanged_text(&smaps).is_empty());
        for _ in 0..3 {
            unmap_text();
        }
    }
}

//! Texts that others begin with, or end with, sorted so that all that a text begins with are found by one search.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// From which end texts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// From the first byte.
    Start,
    /// From the last byte.
    Back,
}

/// Texts with the rules that need them.
#[derive(Debug)]
pub(super) struct Affixes {
    end: End,
    /// Sorted, as they are compared.
    entries: Box<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    /// As it is compared: of [`End::Back`] from its last byte to its first.
    text: Box<[u8]>,
    /// The longest other one that this one begins with.
    shorter: Option<usize>,
    rules: Box<[u32]>,
}

impl Affixes {
    /// Texts with sorted numbers of rules.
    pub(super) fn of(end: End, texts: impl IntoIterator<Item = (Box<[u8]>, Vec<u32>)>) -> Self {
        let compared = |mut text: Box<[u8]>| {
            if end == End::Back {
                text.reverse();
            }
            text
        };
        let sorted: BTreeMap<_, _> = texts.into_iter().map(|(text, rules)| (compared(text), rules)).collect();
        let mut entries: Vec<Entry> = Vec::with_capacity(sorted.len());
        for (text, rules) in sorted {
            // What this one begins with stands before it: it is the last one, or what that begins with.
            let mut shorter = entries.len().checked_sub(1);
            while let Some(at) = shorter.filter(|at| !text.starts_with(&entries[*at].text)) {
                shorter = entries[at].shorter;
            }
            entries.push(Entry { text, shorter, rules: rules.into() });
        }
        Self { end, entries: entries.into() }
    }

    /// Visits the rules of every text that this one begins (or ends) with.
    pub(super) fn visit(&self, text: &[u8], visit: &mut impl FnMut(&[u32])) {
        let is_before = |entry: &Entry| self.compare(&entry.text, text) != Ordering::Greater;
        let Some(last) = self.entries.partition_point(is_before).checked_sub(1) else { return };
        // Whatever the text begins with is this one, or what this one begins with.
        let common = self.common(&self.entries[last].text, text);
        let mut next = Some(last);
        while let Some(entry) = next.and_then(|at| self.entries.get(at)) {
            if entry.text.len() <= common {
                visit(&entry.rules);
            }
            next = entry.shorter;
        }
    }

    fn compare(&self, entry: &[u8], text: &[u8]) -> Ordering {
        match self.end {
            End::Start => entry.cmp(text),
            End::Back => entry.iter().cmp(text.iter().rev()),
        }
    }

    /// How many bytes both begin with.
    fn common(&self, entry: &[u8], text: &[u8]) -> usize {
        match self.end {
            End::Start => entry.iter().zip(text).take_while(|(a, b)| a == b).count(),
            End::Back => entry.iter().zip(text.iter().rev()).take_while(|(a, b)| a == b).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(end: End, texts: &[&str], text: &str, expected: &[u32]) {
        let numbered = texts.iter().zip(0..).map(|(text, at)| (text.as_bytes().into(), vec![at]));
        let affixes = Affixes::of(end, numbered);
        let mut found = Vec::new();
        affixes.visit(text.as_bytes(), &mut |rules: &[u32]| found.extend_from_slice(rules));
        found.sort_unstable();
        assert_eq!(found, expected, "{texts:?} {text}");
    }

    #[test]
    fn all_that_a_text_begins_with_is_found() {
        let paths = ["/a", "/a/b", "/a/b/c", "/ab", "/b", "/", "/a/bz"];
        check(End::Start, &paths, "/a/b/x", &[0, 1, 5]);
        check(End::Start, &paths, "/a/b", &[0, 1, 5]);
        check(End::Start, &paths, "/a/bzz", &[0, 1, 5, 6]);
        check(End::Start, &paths, "/abc", &[0, 3, 5]);
        check(End::Start, &paths, "/c", &[5]);
        check(End::Start, &paths, "x", &[]);
        check(End::Start, &paths, "", &[]);
        check(End::Start, &[], "/", &[]);
    }

    #[test]
    fn all_that_a_text_ends_with_is_found() {
        let names = [".css", ".min.css", "s", "/sa/web", "web"];
        check(End::Back, &names, "a.min.css", &[0, 1, 2]);
        check(End::Back, &names, "/a.css", &[0, 2]);
        check(End::Back, &names, "spiffe://td/ns/a/sa/web", &[3, 4]);
        check(End::Back, &names, "web2", &[]);
    }
}

//! Which virtual host has a domain: by hash, so that what a request costs does not grow with the table.

use std::collections::HashMap;

use super::{Domain, VirtualHost};

/// Virtual hosts by domain, all in lowercase.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct DomainIndex {
    exact: HashMap<Box<[u8]>, usize>,
    suffixes: ByLength,
    prefixes: ByLength,
    any: Option<usize>,
}

/// Patterns by their length, the longest first.
type ByLength = Vec<(usize, HashMap<Box<[u8]>, usize>)>;

/// Authorities up to this length are put into lowercase on the stack: all that name a host of DNS and a port.
const SHORT: usize = 264;

impl DomainIndex {
    pub(super) fn of(hosts: &[VirtualHost]) -> Self {
        let mut index = Self::default();
        for (at, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                match domain {
                    Domain::Exact(text) => drop(index.exact.insert(lowercase(text), at)),
                    Domain::Suffix(text) => put(&mut index.suffixes, text, at),
                    Domain::Prefix(text) => put(&mut index.prefixes, text, at),
                    Domain::Any => index.any = Some(at),
                }
            }
        }
        index.suffixes.sort_by_key(|(length, _)| usize::MAX - length);
        index.prefixes.sort_by_key(|(length, _)| usize::MAX - length);
        index
    }

    /// An exact domain, then the longest `*.x`, then the longest `x.*`, then `*`.
    pub(super) fn find(&self, authority: &[u8]) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let mut short = [0; SHORT];
        let long;
        let name = if let Some(name) = short.get_mut(..authority.len()) {
            name.copy_from_slice(authority);
            name.make_ascii_lowercase();
            &*name
        } else {
            long = authority.to_ascii_lowercase();
            &*long
        };
        let suffix = |length: usize| &name[name.len() - length..];
        let prefix = |length: usize| &name[..length];
        self.exact
            .get(name)
            .copied()
            .or_else(|| longest(&self.suffixes, name.len(), suffix))
            .or_else(|| longest(&self.prefixes, name.len(), prefix))
            .or(self.any)
    }
}

fn lowercase(text: &str) -> Box<[u8]> {
    text.as_bytes().to_ascii_lowercase().into()
}

fn put(patterns: &mut ByLength, text: &str, at: usize) {
    let of_length = if let Some(found) = patterns.iter_mut().position(|(length, _)| *length == text.len()) {
        &mut patterns[found].1
    } else {
        patterns.push((text.len(), HashMap::new()));
        let last = patterns.len() - 1;
        &mut patterns[last].1
    };
    of_length.insert(lowercase(text), at);
}

/// A wildcard stands for one character at least.
fn longest<'n>(patterns: &ByLength, length: usize, part: impl Fn(usize) -> &'n [u8]) -> Option<usize> {
    let shorter = patterns.iter().filter(|(pattern, _)| *pattern < length);
    shorter.into_iter().find_map(|(pattern, hosts)| hosts.get(part(*pattern)).copied())
}

/// An authority without its port.
pub(super) fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = authority.iter().rposition(|byte| *byte == b':') else { return authority };
    let is_within = authority.iter().rposition(|byte| *byte == b']').is_some_and(|bracket| bracket > colon);
    if is_within { authority } else { &authority[..colon] }
}

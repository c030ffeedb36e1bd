//! Which servers the host uses: resolv.conf(5), read again when it has changed.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use super::Resolvers;
use super::limits::{FILE_BYTES, FILE_LOOK, SERVERS};

const DNS_PORT: u16 = 53;

/// What tells one version of a file from the next.
type Version = (u64, u64, i64, i64, u64);

/// The servers, and the file they come from. It is looked at only when somebody asks: an idle sidecar has no timer.
#[derive(Debug)]
pub(super) struct Followed {
    source: Resolvers,
    servers: Arc<[SocketAddr]>,
    version: Option<Version>,
    looked: Option<Instant>,
}

impl Followed {
    pub(super) fn new(source: Resolvers) -> Self {
        let servers = match &source {
            Resolvers::Fixed(servers) => servers.iter().copied().take(SERVERS).collect(),
            Resolvers::File(_) => Arc::default(),
        };
        Self { source, servers, version: None, looked: None }
    }

    pub(super) fn servers(&self) -> Arc<[SocketAddr]> {
        self.servers.clone()
    }

    /// Where they are said, for people.
    pub(super) fn said_in(&self) -> String {
        match &self.source {
            Resolvers::File(path) => path.display().to_string(),
            Resolvers::Fixed(_) => "the command line".into(),
        }
    }

    /// Reads the file if that is due; says whether the servers are others now.
    pub(super) fn refresh(&mut self, now: Instant) -> bool {
        let Resolvers::File(path) = &self.source else { return false };
        if self.looked.is_some_and(|looked| now < looked + FILE_LOOK) {
            return false;
        }
        let first = self.looked.replace(now).is_none();
        let version = version(path);
        if version == self.version && !first {
            return false;
        }
        self.version = version;
        let servers = parse(&read(path));
        let changed = *servers != *self.servers;
        self.servers = servers.into();
        changed
    }
}

fn version(path: &Path) -> Option<Version> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
}

/// The file's text; empty if there is none, as for every other resolver.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // A part that could be read is better than nothing.
        let _ = file.take(FILE_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The servers of a resolv.conf. Without any the host's own is meant, as resolv.conf(5) says.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next().and_then(server)).flatten()
        })
        .take(SERVERS)
        .collect();
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into()] } else { servers }
}

/// An address, with a scope where it is link-local: `fe80::1%eth0`.
fn server(word: &str) -> Option<SocketAddr> {
    let (address, scope) = word.split_once('%').map_or((word, None), |(a, s)| (a, Some(s)));
    match (address.parse().ok()?, scope) {
        (address, None) => Some(SocketAddr::new(address, DNS_PORT)),
        (IpAddr::V6(address), Some(scope)) => {
            Some(SocketAddrV6::new(address, DNS_PORT, 0, interface(scope)?).into())
        }
        (IpAddr::V4(_), Some(_)) => None,
    }
}

fn interface(scope: &str) -> Option<u32> {
    if let Ok(index) = scope.parse() {
        return Some(index);
    }
    if scope.is_empty() || scope.contains(['/', '.']) {
        return None;
    }
    fs::read_to_string(Path::new("/sys/class/net").join(scope).join("ifindex")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn servers_are_read_as_resolv_conf_says() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("nameserver 10.0.0.2\n", &["10.0.0.2:53"]);
        check("# nameserver 1.1.1.1\n; nameserver 1.1.1.1\nnameserver\t::1 # own\n", &["[::1]:53"]);
        check(
            "search a b\noptions edns0\nnameserver 10.0.0.2\r\nnameserver 10.0.0.3\n",
            &["10.0.0.2:53", "10.0.0.3:53"],
        );
        check("nameserver fe80::1%7\n", &["[fe80::1%7]:53"]);
        check("nameserver fe80::1%lo\n", &["[fe80::1%1]:53"]);
        check("nameserver fe80::1%../lo\nnameserver 10.0.0.2%lo\n", &["127.0.0.1:53"]);
        check("nameserver\nnameserver dns.example\nnameservers 10.0.0.2\n", &["127.0.0.1:53"]);
        check("", &["127.0.0.1:53"]);
        let many = "nameserver 10.0.0.2\n".repeat(10);
        assert_eq!(parse(&many).len(), SERVERS);
    }

    #[test]
    fn a_changed_file_is_noticed_within_a_second_and_an_unchanged_one_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.2\n").unwrap();
        let mut followed = Followed::new(Resolvers::File(path.clone()));
        let start = Instant::now();
        assert!(followed.refresh(start));
        assert!(!followed.refresh(start + FILE_LOOK));
        // A file is replaced by renaming, as those who write it do.
        let next = folder.path().join("next");
        fs::write(&next, "nameserver 10.0.0.3\n").unwrap();
        fs::rename(&next, &path).unwrap();
        assert!(!followed.refresh(start + FILE_LOOK + Duration::from_millis(1)), "not looked at yet");
        assert!(followed.refresh(start + 2 * FILE_LOOK));
        assert_eq!(*followed.servers(), ["10.0.0.3:53".parse().unwrap()]);
        fs::remove_file(&path).unwrap();
        assert!(followed.refresh(start + 3 * FILE_LOOK));
        assert_eq!(*followed.servers(), ["127.0.0.1:53".parse().unwrap()]);
    }
}

//! The files that C libraries look names up by, as the program sees them. Pure.

use meshwork_model::proxy::ZONE;

use crate::addresses::NAMES;

/// Most search domains, and their length in all. Source: resolv.conf(5), what old C libraries take.
const SEARCH_DOMAINS: usize = 6;
const SEARCH_LENGTH: usize = 256;

/// `resolv.conf` for a workload of a namespace: the mesh's domains go before the host's own.
pub(crate) fn resolv_conf(host: &str, namespace: &str) -> String {
    let mesh = [format!("{namespace}.svc.{ZONE}"), format!("svc.{ZONE}"), ZONE.to_owned()];
    let mut search = String::new();
    for domain in mesh.iter().map(String::as_str).chain(search_domains(host)).take(SEARCH_DOMAINS) {
        if search.len() + 1 + domain.len() > SEARCH_LENGTH {
            break;
        }
        search.push(' ');
        search.push_str(domain);
    }
    let [v4, v6] = NAMES.map(|address| address.ip());
    format!("nameserver {v4}\nnameserver {v6}\nsearch{search}\n")
}

/// The host's search domains; the last line that names some counts. Source: resolv.conf(5).
fn search_domains(host: &str) -> impl Iterator<Item = &str> {
    let mut lines = host.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    lines.next_back().into_iter().flatten().filter(|domain| *domain != ".")
}

/// `nsswitch.conf` with hosts looked up in `/etc/hosts` and by DNS alone: other sources know nothing of the mesh, and
/// would answer for the host.
pub(crate) fn nsswitch_conf(host: &str) -> String {
    let mut text: String = host
        .lines()
        .filter(|line| !line.trim_start().starts_with("hosts:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    text.push_str("hosts: files dns\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_is_searched_before_the_hosts_domains() {
        let check = |host: &str, expected: &str| {
            let text = resolv_conf(host, "shop");
            let search = text.lines().find(|line| line.starts_with("search")).expect("search");
            let mesh = "search shop.svc.cluster.local svc.cluster.local cluster.local";
            assert_eq!(search, format!("{mesh}{expected}"), "{host:?}");
            assert!(text.starts_with("nameserver 127.0.0.1\nnameserver ::1\n"));
        };
        check("", "");
        check("nameserver 1.1.1.1\nsearch example.com corp.example\n", " example.com corp.example");
        check("domain example.com\n", " example.com");
        check("search a\nsearch b c\n", " b c");
        check("search .\n", "");
        check("# search x\noptions ndots:5\n", "");
        check("search a b c d e f g\n", " a b c");
        check(&format!("search {}\n", "x".repeat(250)), "");
    }

    #[test]
    fn hosts_come_from_a_file_and_dns_and_other_lines_stay() {
        let check = |host: &str, expected: &str| assert_eq!(nsswitch_conf(host), expected);
        check("", "hosts: files dns\n");
        check(
            "passwd: files systemd\nhosts: files mdns4 resolve [!UNAVAIL=return] dns\n",
            "passwd: files systemd\nhosts: files dns\n",
        );
        check("  hosts:dns\nservices: files", "services: files\nhosts: files dns\n");
    }
}

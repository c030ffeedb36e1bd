use super::*;

/// A connection in few words: `local=… direct=… remote=… tls name=… alpn=a,b`.
fn find(chains: &[ChainMatch], words: &str) -> Option<usize> {
    let mut local = "192.0.2.1:80";
    let (mut direct, mut remote) = (None, "198.51.100.7:4000");
    let (mut transport, mut server_name, mut alpn) = (Transport::Plaintext, "", Vec::new());
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("local", at)) => local = at,
            Some(("direct", at)) => direct = Some(at),
            Some(("remote", at)) => remote = at,
            Some(("name", name)) => server_name = name,
            Some(("alpn", names)) => alpn = names.split(',').map(str::as_bytes).collect(),
            _ => transport = Transport::Tls,
        }
    }
    let at = |text: &str| text.parse().expect("an address");
    ChainIndex::compile(chains).expect("no two overlap").find(&Arrival {
        local: at(local),
        direct: at(direct.unwrap_or(remote)),
        remote: at(remote),
        transport,
        server_name,
        alpn: &alpn,
    })
}

fn check(chains: &[ChainMatch], words: &str, expected: Option<usize>) {
    assert_eq!(find(chains, words), expected, "{words}");
}

fn any() -> ChainMatch {
    ChainMatch::default()
}

fn port(port: u16) -> ChainMatch {
    ChainMatch { destination_port: Some(port), ..any() }
}

fn cidrs(list: &[&str]) -> Vec<Cidr> {
    let cidr = |text: &&str| {
        let (address, length) = text.split_once('/').expect("a range");
        Cidr::new(address.parse().expect("an address"), length.parse().expect("a length"))
    };
    list.iter().map(cidr).collect()
}

fn to(list: &[&str]) -> ChainMatch {
    ChainMatch { destinations: cidrs(list), ..any() }
}

fn names(list: &[&str]) -> ChainMatch {
    ChainMatch { server_names: list.iter().map(|&name| name.into()).collect(), ..any() }
}

fn alpn(list: &[&str]) -> ChainMatch {
    ChainMatch { alpn: list.iter().map(|&name| name.into()).collect(), ..any() }
}

fn direct(list: &[&str]) -> ChainMatch {
    ChainMatch { direct_sources: cidrs(list), ..any() }
}

fn from(list: &[&str]) -> ChainMatch {
    ChainMatch { sources: cidrs(list), ..any() }
}

fn of(source_type: SourceType) -> ChainMatch {
    ChainMatch { source_type, ..any() }
}

const TLS: Option<Transport> = Some(Transport::Tls);

#[test]
fn a_named_port_comes_first_and_has_no_way_back() {
    let chains = [port(80), any()];
    check(&chains, "local=192.0.2.1:80", Some(0));
    check(&chains, "local=192.0.2.1:81", Some(1));
    let strict = [ChainMatch { destinations: cidrs(&["10.0.0.0/8"]), ..port(80) }, any()];
    check(&strict, "local=10.0.0.1:80", Some(0));
    check(&strict, "local=192.0.2.1:80", None);
}

#[test]
fn the_longest_destination_comes_next() {
    let chains = [to(&["10.0.0.0/8"]), to(&["10.1.0.0/16", "2001:db8::/32"]), to(&["10.1.2.3/32"]), any()];
    check(&chains, "local=10.9.0.1:80", Some(0));
    check(&chains, "local=10.1.0.1:80", Some(1));
    check(&chains, "local=[2001:db8::1]:80", Some(1));
    check(&chains, "local=10.1.2.3:80", Some(2));
    check(&chains, "local=192.0.2.1:80", Some(3));
    let strict = [ChainMatch { transport: TLS, ..to(&["10.1.0.0/16"]) }, to(&["10.0.0.0/8"])];
    check(&strict, "local=10.1.0.1:80 tls", Some(0));
    check(&strict, "local=10.1.0.1:80", None);
}

#[test]
fn the_exact_name_then_the_longest_domain_then_none() {
    let chains = [any(), names(&["*.example.com"]), names(&["api.example.com", "*.com"])];
    check(&chains, "tls name=api.example.com", Some(2));
    check(&chains, "tls name=b.example.com", Some(1));
    check(&chains, "tls name=a.b.example.com", Some(1));
    check(&chains, "tls name=example.com", Some(2));
    check(&chains, "tls name=example.org", Some(0));
    check(&chains, "tls name=badexample.com", Some(2));
    check(&chains, "tls", Some(0));
    check(&chains, "", Some(0));
    for other in ["com", "example.com.", "."] {
        assert!(find(&[names(&["*.example.com"])], &format!("tls name={other}")).is_none(), "{other}");
    }
    // A name that is taken has no way back to its domain, nor to none.
    let strict = [ChainMatch { alpn: alpn(&["h2"]).alpn, ..names(&["api.example.com"]) }, any()];
    check(&strict, "tls name=api.example.com alpn=h2", Some(0));
    check(&strict, "tls name=api.example.com", None);
    check(&strict, "tls name=other.example.com", Some(1));
}

#[test]
fn the_transport_then_the_first_protocol_that_is_offered() {
    let plaintext = ChainMatch { transport: Some(Transport::Plaintext), ..any() };
    let chains = [plaintext, ChainMatch { transport: TLS, ..any() }];
    check(&chains, "tls", Some(1));
    check(&chains, "", Some(0));
    let chains = [alpn(&["h2"]), alpn(&["http/1.1", "x"]), any()];
    check(&chains, "tls alpn=h2,http/1.1", Some(0));
    check(&chains, "tls alpn=http/1.1,h2", Some(1));
    check(&chains, "tls alpn=y,x", Some(1));
    check(&chains, "tls alpn=y", Some(2));
    check(&chains, "alpn=h2", Some(0));
    // TLS that is named has no way back to any transport.
    let strict = [ChainMatch { transport: TLS, ..alpn(&["h2"]) }, any()];
    check(&strict, "tls alpn=x", None);
    check(&strict, "alpn=x", Some(1));
}

#[test]
fn who_opened_it_comes_before_on_whose_behalf() {
    let chains = [direct(&["10.0.0.0/8"]), any()];
    check(&chains, "direct=10.0.0.1:1 remote=203.0.113.9:1", Some(0));
    check(&chains, "direct=192.0.2.9:1 remote=10.0.0.1:1", Some(1));
    let strict = [ChainMatch { sources: cidrs(&["203.0.113.0/24"]), ..direct(&["10.0.0.0/8"]) }, any()];
    check(&strict, "direct=10.0.0.1:1 remote=203.0.113.9:1", Some(0));
    check(&strict, "direct=10.0.0.1:1 remote=198.51.100.9:1", None);
}

#[test]
fn the_kind_of_source_comes_before_its_address_and_port() {
    let chains = [of(SourceType::Local), of(SourceType::External)];
    check(&chains, "remote=127.0.0.1:1", Some(0));
    check(&chains, "remote=[::1]:1", Some(0));
    check(&chains, "remote=192.0.2.1:1 local=192.0.2.1:80", Some(0));
    check(&chains, "remote=127.0.0.2:1", Some(1));
    check(&chains, "remote=198.51.100.7:1", Some(1));
    let chains = [of(SourceType::Local), any()];
    check(&chains, "remote=198.51.100.7:1", Some(1));
    let strict = [ChainMatch { sources: cidrs(&["10.0.0.0/8"]), ..of(SourceType::External) }, any()];
    check(&strict, "remote=127.0.0.1:1", Some(1));
    check(&strict, "remote=10.0.0.1:1", Some(0));
    check(&strict, "remote=198.51.100.7:1", None);
    let chains = [from(&["198.51.100.0/24"]), ChainMatch { source_ports: vec![7, 8], ..any() }];
    check(&chains, "remote=198.51.100.7:7", Some(0));
    check(&chains, "remote=203.0.113.9:8", Some(1));
    check(&chains, "remote=203.0.113.9:9", None);
}

#[test]
fn two_chains_for_the_same_connections_are_refused() {
    let refused = |chains: &[ChainMatch], expected: Option<(usize, usize)>| {
        assert_eq!(ChainIndex::compile(chains).err(), expected, "{chains:?}");
    };
    refused(&[any(), any()], Some((0, 1)));
    refused(&[any(), names(&["a.b"]), names(&["c.d", "a.b"])], Some((1, 2)));
    refused(&[names(&["a.b", "a.b"])], Some((0, 0)));
    refused(&[to(&["10.0.0.1/8"]), to(&["10.0.0.2/8"])], Some((0, 1)));
    refused(&[any(), port(80), of(SourceType::Local), alpn(&["h2"])], None);
}

//! Connections that were meant to go elsewhere: who takes them over, where they are taken, and where nobody is.

use std::net::{IpAddr, SocketAddr};

use meshwork_model::proxy::{Direction, Discovery, HttpFilter, Listener, NetworkFilter, Resource};
use meshwork_model::reason::Reason;

use crate::error::ProxyError;
use crate::testing::config::{self, ORIGIN, SECOND, address};
use crate::testing::{Cut, World, play};

const VIRTUAL: &str = "240.0.0.7:80";

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

/// The listener `web`, to which all is redirected; what nobody takes over it takes where it was meant to go.
fn outbound(filter: NetworkFilter) -> Vec<Resource> {
    let Resource::Listener(web) = config::listener(filter, None) else { unreachable!() };
    let passing =
        meshwork_model::proxy::Cluster { discovery: Discovery::OriginalDestination, ..config::cluster(&[]) };
    vec![
        Resource::Cluster(passing),
        Resource::Listener(Listener { use_original_dst: true, direction: Direction::Outbound, ..web }),
    ]
}

fn passing() -> Vec<Resource> {
    outbound(config::tcp_filter("a"))
}

/// A listener without sockets, to the cluster `b` with this endpoint.
fn taking_over(name: &str, meant: &[&str], endpoint: SocketAddr) -> Vec<Resource> {
    let Resource::Listener(listener) = config::listener(config::tcp_filter("b"), None) else {
        unreachable!()
    };
    let cluster = meshwork_model::proxy::Cluster { name: "b".into(), ..config::cluster(&[endpoint]) };
    vec![
        Resource::Cluster(cluster),
        Resource::Listener(Listener {
            name: name.into(),
            address: Some(at(meant[0])),
            additional_addresses: meant[1..].iter().map(|meant| at(meant)).collect(),
            bind_to_port: false,
            direction: Direction::Outbound,
            ..listener
        }),
    ]
}

fn reason(ended: Result<(), ProxyError>) -> Option<Reason> {
    ended.err().map(|error| error.reason())
}

#[test]
fn a_connection_is_taken_over_by_the_listener_of_the_address_that_it_was_meant_for() {
    let service = taking_over("service", &[VIRTUAL, "[fd6d:6573:6877::7]:80"], ORIGIN);
    play([passing(), service].concat(), async |world| {
        let mut origin = world.origin(ORIGIN);
        for meant in [VIRTUAL, "[fd6d:6573:6877::7]:80"] {
            let mut client = world.connect_meant_for(at(meant));
            client.send("asked").await;
            let mut upstream = origin.accept().await;
            assert_eq!(upstream.take(5).await.as_deref(), Ok(&b"asked"[..]), "{meant}");
        }
    });
}

#[test]
fn a_listener_may_take_over_a_port_wherever_it_is_meant_for() {
    let exact = taking_over("exact", &["192.0.2.9:80"], ORIGIN);
    let mut port = taking_over("port", &["0.0.0.0:80"], SECOND);
    port.remove(0);
    let Resource::Listener(listener) = &mut port[0] else { unreachable!() };
    listener.chains[0].filter = config::tcp_filter("c");
    let second = meshwork_model::proxy::Cluster { name: "c".into(), ..config::cluster(&[SECOND]) };
    let resources = [passing(), exact, vec![Resource::Cluster(second)], port].concat();
    play(resources, async |world| {
        let (mut origin, mut second) = (world.origin(ORIGIN), world.origin(SECOND));
        let _exact = world.connect_meant_for(at("192.0.2.9:80"));
        origin.accept().await;
        let _port = world.connect_meant_for(at("192.0.2.10:80"));
        second.accept().await;
    });
}

#[test]
fn what_nobody_takes_over_goes_where_it_was_meant_to_go() {
    play(passing(), async |world| {
        let mut origin = world.origin(address(9));
        let mut client = world.connect_meant_for(address(9));
        client.send("asked").await;
        let mut upstream = origin.accept().await;
        assert_eq!(upstream.take(5).await.as_deref(), Ok(&b"asked"[..]));
        drop((client, upstream));
        world.ended().await.expect("a clean end");
        let edges = world.edges();
        let service = edges[0].key.service.as_ref().expect("said");
        assert_eq!((&*service.name, &*service.namespace), ("a", ""));
        assert_eq!(edges[0].key.destination, meshwork_model::proxy::Workload::default());
        // One edge for all destinations.
        let mut other = world.origin(address(10));
        let client = world.connect_meant_for(address(10));
        drop((client, other.accept().await));
        world.ended().await.expect("a clean end");
        assert_eq!(world.edges().len(), 1);
    });
}

#[test]
fn requests_go_where_they_were_meant_to_go_on_connections_of_their_own() {
    play(outbound(config::http(None)), async |world| {
        let mut origin = world.origin(address(9));
        let mut client = world.connect_meant_for(address(9));
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut upstream = origin.accept().await;
            upstream.receive().await;
            upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(client.receive().await.status(), Some(204));
        }
    });
}

#[test]
fn nobody_is_taken_to_what_is_near_the_host_whatever_config_says() {
    let own = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // No packet is sent. Where there is no route there is no further address to try.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let own = own.map(|own| own.ip()).ok();
    let near = ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1"];
    let near = near.iter().map(|address| address.parse::<IpAddr>().expect("an address")).chain(own);
    for ip in near {
        let meant = SocketAddr::new(ip, 80);
        let taken_over = taking_over("service", &[&meant.to_string()], ORIGIN);
        play([passing(), taken_over].concat(), async |world| {
            let (origin, there) = (world.origin(ORIGIN), world.origin(meant));
            let mut client = world.connect_meant_for(meant);
            assert_eq!(client.rest().await, Err(Cut::Reset), "{ip}");
            assert_eq!(reason(world.ended().await), Some(Reason::Destination), "{ip}");
            assert!(!origin.is_called().await && !there.is_called().await, "{ip}");
        });
    }
}

#[test]
fn what_was_not_redirected_is_refused() {
    play(passing(), async |world| {
        let mut client = world.connect_meant_for(world.address());
        assert_eq!(client.rest().await, Err(Cut::Reset));
        assert_eq!(reason(world.ended().await), Some(Reason::Destination));
    });
}

#[test]
fn virtual_addresses_without_a_service_lead_nowhere() {
    play(passing(), async |world| {
        for meant in [VIRTUAL, "[fd6d:6573:6877::7]:80"] {
            let there = world.origin(at(meant));
            let mut client = world.connect_meant_for(at(meant));
            assert_eq!(client.rest().await, Err(Cut::Reset));
            assert_eq!(reason(world.ended().await), Some(Reason::Destination));
            assert!(!there.is_called().await);
        }
    });
}

#[test]
fn a_service_whose_routes_have_not_come_is_not_passed_by() {
    let mut service = taking_over("service", &["192.0.2.9:80"], ORIGIN);
    let Resource::Listener(listener) = &mut service[1] else { unreachable!() };
    let mut http = config::http_connection(None);
    http.routes = meshwork_model::proxy::RouteSource::Named("late".into());
    listener.chains[0].filter = NetworkFilter::Http(std::sync::Arc::new(http));
    play([passing(), service].concat(), async |world| {
        let there = world.origin(address(9));
        let mut client = world.connect_meant_for(address(9));
        assert_eq!(client.rest().await, Err(Cut::Reset));
        assert!(!there.is_called().await);
    });
}

#[test]
fn the_inbound_side_passes_nothing_through() {
    let mut resources = passing();
    let Resource::Listener(listener) = &mut resources[1] else { unreachable!() };
    listener.direction = Direction::Inbound;
    play(resources, async |world| {
        let there = world.origin(address(9));
        let mut client = world.connect_meant_for(address(9));
        assert_eq!(client.rest().await, Err(Cut::Reset));
        assert_eq!(reason(world.ended().await), Some(Reason::Destination));
        assert!(!there.is_called().await);
    });
}

#[test]
fn a_connection_follows_the_listener_that_took_it_over() {
    let service = taking_over("service", &[VIRTUAL], ORIGIN);
    play([passing(), service.clone()].concat(), async |world: &World| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect_meant_for(at(VIRTUAL));
        let mut upstream = origin.accept().await;
        // The listener that accepted it changes, and nothing happens.
        world.apply(outbound(config::http(None))).await;
        client.send("x").await;
        assert_eq!(upstream.take(1).await.as_deref(), Ok(&b"x"[..]));
        // The one that took it over goes, and it ends.
        world.remove("service").await;
        assert_eq!(client.rest().await, Err(Cut::Reset));
    });
}

#[test]
fn policy_sees_the_port_that_was_meant() {
    use meshwork_model::proxy::{Action, Permission, Principal, Rbac, Rule};
    let rule = Rule {
        name: "rule".into(),
        permissions: vec![Permission::DestinationPort(80)],
        principals: vec![Principal::Any],
    };
    let rbac = std::sync::Arc::new(Rbac { action: Action::Allow, rules: vec![rule] });
    let mut service = taking_over("service", &[VIRTUAL, "240.0.0.7:81"], ORIGIN);
    let Resource::Listener(listener) = &mut service[1] else { unreachable!() };
    let mut http = config::http_connection(None);
    http.filters = HttpFilter::rules([rbac]);
    listener.chains[0].filter = NetworkFilter::Http(std::sync::Arc::new(http));
    let cluster = Resource::Cluster(config::cluster(&[ORIGIN]));
    play([passing(), service, vec![cluster]].concat(), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut refused = world.connect_meant_for(at("240.0.0.7:81"));
        refused.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(refused.receive().await.status(), Some(403));
        let mut client = world.connect_meant_for(at(VIRTUAL));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        origin.accept().await;
    });
}

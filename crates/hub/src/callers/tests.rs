use super::*;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use meshwork_telemetry::{Caller as From, OpenFrom, Registry, ResourceAttributes, otlp};

use crate::window::Window;

/// A hub, and the proxy of the workload `cart` whose pushes it gets.
struct Lab {
    window: Window,
    zero: Instant,
    /// Seconds since the hub began.
    at: u64,
    registry: Arc<Registry>,
}

impl Lab {
    /// The proxy is so many seconds older than the hub.
    fn new(age: u64) -> Self {
        let zero = Instant::now();
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
        let window = Window::new(Duration::from_mins(1), zero);
        Self { window, zero, at: 0, registry: Registry::new(started) }
    }

    fn now(&self) -> Instant {
        self.zero + Duration::from_secs(self.at)
    }

    fn open(&self, from: From) -> OpenFrom {
        self.registry.shard().taken(8080, from).open()
    }

    fn push_as(&mut self, sender: Option<&str>) {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.at);
        let resource = ResourceAttributes {
            service: "cart".into(),
            namespace: "shop".into(),
            instance: "cart-1".into(),
        };
        for message in otlp::requests(&self.registry, &resource, wall) {
            self.window.ingest(&message, sender, self.now());
        }
    }

    /// A push after so many seconds.
    fn push_after(&mut self, seconds: u64) {
        self.at += seconds;
        self.push_as(None);
    }

    fn ports(&self, within: u64) -> Vec<PortTraffic> {
        self.window.callers.ports(self.now(), Duration::from_secs(within))
    }

    /// What the one port took.
    fn port(&self, within: u64) -> PortTraffic {
        let ports = self.ports(within);
        assert_eq!(ports.len(), 1, "{ports:?}");
        ports[0].clone()
    }
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

#[test]
fn callers_are_told_with_when_they_were_seen() {
    let mut lab = Lab::new(1);
    let mtls = lab.open(From::Mtls);
    let plain = lab.open(From::Plaintext(address(7)));
    mtls.request();
    plain.request();
    plain.request();
    drop(plain);
    lab.push_after(10);
    let port = lab.port(3600);
    assert_eq!((&*port.key.namespace, &*port.key.workload, port.key.port), ("shop", "cart-1", 8080));
    assert_eq!(port.mtls, PortCounts { connections: 1, requests: 1 });
    assert_eq!(port.plaintext, PortCounts { connections: 1, requests: 2 });
    assert_eq!(port.mtls_seen, Some(lab.now()));
    let [caller] = &port.callers[..] else { panic!("{port:?}") };
    assert_eq!(caller.source, CallerSource::Address(address(7)));
    assert_eq!((caller.counts, caller.open), (PortCounts { connections: 1, requests: 2 }, 0));
    assert_eq!((caller.first_seen, caller.last_seen), (lab.now(), lab.now()));
    // Pushes in which nothing grew tell of nothing new.
    let seen = lab.now();
    lab.push_after(1800);
    assert_eq!(lab.port(3600).callers[0].last_seen, seen);
    assert_eq!(lab.port(600).callers, []);
}

#[test]
fn who_has_a_connection_open_is_there() {
    let mut lab = Lab::new(1);
    let plain = lab.open(From::Plaintext(address(7)));
    lab.push_after(10);
    lab.push_after(7200);
    let port = lab.port(60);
    assert_eq!((port.callers[0].open, port.callers[0].last_seen), (1, lab.now()));
    drop(plain);
    lab.push_after(10);
    lab.push_after(120);
    assert_eq!(lab.port(60).callers, []);
}

#[test]
fn what_was_counted_before_the_hub_began_has_no_time() {
    let mut lab = Lab::new(86_400);
    drop(lab.open(From::Plaintext(address(7))));
    lab.push_after(10);
    let port = lab.port(3600);
    // It is not known when that was: it counts as seen, and not as traffic of now.
    assert_eq!(port.callers.len(), 1);
    assert_eq!(port.plaintext, PortCounts::default());
    lab.push_after(7200);
    assert_eq!(lab.port(3600).callers, []);
}

#[test]
fn a_proxy_that_begins_anew_counts_on() {
    let mut lab = Lab::new(1);
    drop(lab.open(From::Plaintext(address(7))));
    lab.push_after(10);
    lab.registry = Registry::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_030));
    drop(lab.open(From::Plaintext(address(7))));
    lab.push_after(60);
    assert_eq!(lab.port(3600).callers[0].counts.connections, 2);
}

#[test]
fn nobody_tells_of_another_namespace() {
    let mut lab = Lab::new(1);
    drop(lab.open(From::Plaintext(address(7))));
    lab.at = 10;
    lab.push_as(Some("other"));
    assert_eq!(lab.ports(3600), []);
    lab.push_as(Some("shop"));
    assert_eq!(lab.ports(3600).len(), 1);
}

#[test]
fn traffic_of_a_day_ago_is_not_counted() {
    let mut lab = Lab::new(1);
    for _ in 0..200 {
        drop(lab.open(From::Mtls));
        lab.push_after(600);
    }
    let counted = |within| lab.port(within).mtls.connections;
    assert!((1..=2).contains(&counted(600)), "{}", counted(600));
    assert_eq!(counted(7 * 86_400), 144);
}

#[test]
fn callers_are_bounded_and_forgotten() {
    let now = Instant::now();
    let mut callers = Callers::new(now);
    let (namespace, workload) = ("shop".into(), "cart".into());
    let point = |number: usize| PortPoint {
        port: 80,
        source: Some(CallerSource::Address(
            Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).expect("few")).into(),
        )),
        start: 1,
        cumulative: true,
        value: PortValue::Connections(1),
    };
    for number in 0..MAX_CALLERS + 10 {
        let now = now + Duration::from_millis(number as u64);
        callers.take((&namespace, &workload), &[point(number)], true, now);
    }
    assert_eq!(callers.known.len(), MAX_CALLERS + 10 - FORGOTTEN_AT_ONCE);
    let ports = callers.ports(now + Duration::from_mins(1), Duration::from_hours(1));
    let is_told =
        |number: usize| ports[0].callers.iter().any(|caller| Some(caller.source) == point(number).source);
    assert!(!is_told(0) && is_told(FORGOTTEN_AT_ONCE) && is_told(MAX_CALLERS + 9), "the oldest made room");
    // Who tells of many pushes out none of those of others.
    let (other, later) = ("other".into(), now + Duration::from_mins(1));
    callers.take((&other, &workload), &[point(0)], true, now);
    for number in 0..2 * MAX_CALLERS {
        callers.take((&namespace, &workload), &[point(number)], true, later);
    }
    let is_others = |(key, _): &&Called| key.namespace == other;
    assert_eq!(callers.known.keys().filter(is_others).count(), 1);
    callers.forget(now + FORGET_CALLERS_AFTER * 2);
    assert!(callers.known.is_empty() && callers.ports.is_empty());
}

use std::fmt::Write as _;

use bytes::Bytes;

use super::*;

/// A resource by kind, name and version: `c:a@1`.
fn resource(text: &str) -> Arc<Encoded> {
    let (kind, name, version) = parts(text);
    Arc::new(Encoded { kind, name: name.into(), version: version.into(), bytes: Bytes::new() })
}

fn parts(text: &str) -> (Kind, &str, &str) {
    let (kind, rest) = text.split_once(':').unwrap();
    let (name, version) = rest.split_once('@').unwrap_or((rest, ""));
    (kind_of(kind), name, version)
}

fn kind_of(text: &str) -> Kind {
    match text {
        "c" => Kind::Cluster,
        "e" => Kind::Endpoints,
        "l" => Kind::Listener,
        "r" => Kind::Routes,
        _ => panic!("no kind {text}"),
    }
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::Cluster => 'c',
        Kind::Endpoints => 'e',
        Kind::Listener => 'l',
        Kind::Routes => 'r',
        Kind::Secret => 's',
    }
}

fn snapshot(texts: &str) -> Snapshot {
    Snapshot::new(texts.split_whitespace().map(resource))
}

/// A response as `c a@1 b@1 -gone`.
fn show(responses: &[Response]) -> Vec<String> {
    let one = |response: &Response| {
        let mut text = letter(response.kind).to_string();
        for resource in &response.resources {
            write!(text, " {}@{}", resource.name, resource.version).unwrap();
        }
        for name in &response.removed {
            write!(text, " -{name}").unwrap();
        }
        text
    };
    responses.iter().map(one).collect()
}

/// Drives a session by short commands.
struct Driver {
    session: Session,
    snapshot: Snapshot,
    last: BTreeMap<Kind, String>,
    names: BTreeMap<Kind, Vec<String>>,
}

impl Driver {
    fn new(protocol: Protocol, texts: &str) -> Self {
        let (last, names) = (BTreeMap::new(), BTreeMap::new());
        Self { session: Session::new(protocol), snapshot: snapshot(texts), last, names }
    }

    fn publish(&mut self, texts: &str) -> Vec<String> {
        self.snapshot = snapshot(texts);
        self.pushed()
    }

    fn pushed(&mut self) -> Vec<String> {
        let responses = self.session.push(&self.snapshot);
        for response in &responses {
            self.last.insert(response.kind, response.nonce.clone());
        }
        show(&responses)
    }

    fn send(&mut self, kind: &str, nonce: &str, refusal: Option<Refusal>, names: Names) -> Received {
        let request = Request { kind: kind_of(kind), nonce: nonce.to_owned(), refusal, names };
        self.session.receive(request).unwrap()
    }

    /// Subscribes to names: adds with delta, replaces with state of the world.
    fn want(&mut self, kind: &str, names: &str) -> Vec<String> {
        let list: Vec<String> = names.split_whitespace().map(ToOwned::to_owned).collect();
        let nonce = self.last.get(&kind_of(kind)).cloned().unwrap_or_default();
        let names = match self.session.protocol {
            Protocol::Delta => change(&list, &[]),
            Protocol::StateOfTheWorld => Names::All(list.clone()),
        };
        let nonce = if self.session.protocol == Protocol::Delta { String::new() } else { nonce };
        self.names.insert(kind_of(kind), list);
        self.send(kind, &nonce, None, names);
        self.pushed()
    }

    fn answer(&mut self, kind: &str, refusal: Option<Refusal>) -> (Vec<Event>, Vec<String>) {
        let nonce = self.last[&kind_of(kind)].clone();
        let names = match self.session.protocol {
            Protocol::Delta => change(&[], &[]),
            Protocol::StateOfTheWorld => {
                Names::All(self.names.get(&kind_of(kind)).cloned().unwrap_or_default())
            }
        };
        let events = self.send(kind, &nonce, refusal, names).events;
        (events, self.pushed())
    }

    fn ack(&mut self, kind: &str) -> Vec<String> {
        self.answer(kind, None).1
    }
}

fn change(subscribe: &[String], unsubscribe: &[String]) -> Names {
    Names::Change { subscribe: subscribe.to_vec(), unsubscribe: unsubscribe.to_vec(), have: BTreeMap::new() }
}

fn refusal(message: &str) -> Refusal {
    Refusal { message: message.to_owned(), rejections: Vec::new() }
}

const BOTH: [Protocol; 2] = [Protocol::Delta, Protocol::StateOfTheWorld];

#[test]
fn an_empty_first_request_means_everything() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "c:a@1 c:b@1 l:x@1");
        assert_eq!(driver.want("c", ""), ["c a@1 b@1"]);
    }
}

#[test]
fn an_empty_first_request_is_answered_when_there_is_nothing() {
    for protocol in BOTH {
        assert_eq!(Driver::new(protocol, "").want("c", ""), ["c"]);
    }
}

#[test]
fn names_are_all_that_a_named_subscription_gets() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "e:a@1 e:b@1 e:c@1");
        assert_eq!(driver.want("e", "a c"), ["e a@1 c@1"]);
    }
}

#[test]
fn delta_tells_only_what_changed_and_what_is_gone() {
    let mut driver = Driver::new(Protocol::Delta, "c:a@1 c:b@1");
    driver.want("c", "");
    assert_eq!(driver.ack("c"), [""; 0]);
    assert_eq!(driver.publish("c:a@2 c:d@1"), ["c a@2 d@1 -b"]);
}

#[test]
fn state_of_the_world_always_tells_everything() {
    let mut driver = Driver::new(Protocol::StateOfTheWorld, "c:a@1 c:b@1");
    driver.want("c", "");
    assert_eq!(driver.ack("c"), [""; 0]);
    assert_eq!(driver.publish("c:a@2 c:b@1"), ["c a@2 b@1"]);
    driver.ack("c");
    assert_eq!(driver.publish("c:b@1"), ["c b@1"]);
}

#[test]
fn one_response_at_a_time_and_then_the_newest() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "c:a@1");
        driver.want("c", "");
        assert_eq!(driver.publish("c:a@2"), [""; 0]);
        assert_eq!(driver.publish("c:a@3"), [""; 0]);
        assert_eq!(driver.ack("c"), ["c a@3"]);
    }
}

#[test]
fn a_stale_nonce_answers_nothing() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "c:a@1");
        driver.want("c", "");
        let names = match protocol {
            Protocol::Delta => change(&[], &[]),
            Protocol::StateOfTheWorld => Names::All(Vec::new()),
        };
        let received = driver.send("c", "999", None, names);
        assert_eq!(received, Received::default());
        assert_eq!(driver.publish("c:a@2"), [""; 0], "the response is still unanswered");
    }
}

#[test]
fn a_refused_version_is_not_sent_again() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "c:a@1");
        driver.want("c", "");
        let (_, sent) = driver.answer("c", Some(refusal("no")));
        assert_eq!(sent, [""; 0]);
        assert_eq!(driver.publish("c:a@1"), [""; 0]);
        assert_eq!(driver.publish("c:a@2"), ["c a@2"]);
    }
}

#[test]
fn a_nack_is_told_resource_by_resource() {
    let rejection =
        |name: &str, why: &str| Rejection { kind: Kind::Cluster, name: name.to_owned(), why: why.to_owned() };
    let ours = Refusal { message: "b: bad".into(), rejections: vec![rejection("b", "bad")] };
    for (answer, expected) in [
        (ours, vec![rejection("b", "bad")]),
        (
            refusal("Error adding cluster(s) beta: bad"),
            vec![rejection("beta", "Error adding cluster(s) beta: bad")],
        ),
        (refusal("all is bad"), vec![rejection("beta", "all is bad"), rejection("other", "all is bad")]),
    ] {
        let mut driver = Driver::new(Protocol::Delta, "c:beta@1 c:other@1");
        driver.want("c", "");
        let (events, _) = driver.answer("c", Some(answer));
        let Some(Event::Refused { rejections, .. }) = events.first() else { panic!("{events:?}") };
        assert_eq!(*rejections, expected);
    }
}

#[test]
fn what_was_good_beside_the_bad_counts_as_accepted_if_the_client_names_the_bad() {
    let mut driver = Driver::new(Protocol::Delta, "c:beta@1 c:other@1");
    driver.want("c", "");
    let rejections = vec![Rejection { kind: Kind::Cluster, name: "beta".to_owned(), why: "bad".to_owned() }];
    let (events, sent) = driver.answer("c", Some(Refusal { message: "beta is bad".to_owned(), rejections }));
    let accepted = Event::Accepted {
        kind: Kind::Cluster,
        versions: vec![("other".into(), "1".into())],
        removed: Vec::new(),
    };
    assert_eq!(events.last(), Some(&accepted));
    assert_eq!(sent, [""; 0]);
}

#[test]
fn what_was_good_beside_the_bad_is_sent_again_to_who_may_have_dropped_it() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "c:beta@1 c:other@1");
        driver.want("c", "");
        let (events, sent) = driver.answer("c", Some(refusal("beta is bad")));
        assert!(matches!(events.as_slice(), [Event::Refused { .. }]), "{events:?}");
        assert_eq!(sent, ["c other@1"]);
        assert_eq!(driver.ack("c"), [""; 0]);
    }
}

#[test]
fn a_removal_beside_the_bad_is_told_again_to_who_may_have_dropped_it() {
    let mut driver = Driver::new(Protocol::Delta, "c:old@1");
    driver.want("c", "");
    driver.ack("c");
    assert_eq!(driver.publish("c:beta@1"), ["c beta@1 -old"]);
    let (_, sent) = driver.answer("c", Some(refusal("beta is bad")));
    assert_eq!(sent, ["c -old"]);
    let (_, sent) = driver.answer("c", Some(refusal("I refuse everything")));
    assert_eq!(sent, [""; 0], "and not for ever");
}

#[test]
fn in_the_whole_state_the_last_good_version_stands_for_a_refused_one() {
    let mut driver = Driver::new(Protocol::StateOfTheWorld, "c:beta@1 c:other@1");
    driver.want("c", "");
    driver.ack("c");
    assert_eq!(driver.publish("c:beta@2 c:other@2"), ["c beta@2 other@2"]);
    let (_, sent) = driver.answer("c", Some(refusal("beta is bad")));
    assert_eq!(sent, ["c beta@1 other@2"]);
    driver.ack("c");
    assert_eq!(driver.publish("c:beta@2 c:other@3"), ["c beta@1 other@3"]);
    driver.ack("c");
    assert_eq!(driver.publish("c:beta@3 c:other@3"), ["c beta@3 other@3"]);
}

#[test]
fn delta_says_that_a_name_does_not_exist_and_when_it_comes_to_be() {
    let mut driver = Driver::new(Protocol::Delta, "");
    assert_eq!(driver.want("r", "x"), ["r -x"]);
    assert_eq!(driver.ack("r"), [""; 0]);
    assert_eq!(driver.publish("r:x@1"), ["r x@1"]);
}

#[test]
fn subscribing_again_is_answered_again() {
    let mut driver = Driver::new(Protocol::Delta, "e:a@1");
    driver.want("e", "a");
    driver.ack("e");
    assert_eq!(driver.want("e", "a"), ["e a@1"]);
}

#[test]
fn what_is_unsubscribed_is_forgotten_in_silence() {
    let mut driver = Driver::new(Protocol::Delta, "e:a@1 e:b@1");
    driver.want("e", "a b");
    driver.ack("e");
    driver.send("e", "", None, change(&[], &["a".to_owned()]));
    assert_eq!(driver.publish("e:b@2"), ["e b@2"]);
}

#[test]
fn a_reconnecting_client_gets_the_difference() {
    let mut driver = Driver::new(Protocol::Delta, "c:same@1 c:new@1 c:changed@2");
    let have = [("same", "1"), ("changed", "1"), ("gone", "1")];
    let have = have.into_iter().map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
    let names = Names::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), have };
    driver.send("c", "", None, names);
    assert_eq!(driver.pushed(), ["c changed@2 new@1 -gone"]);
}

#[test]
fn state_of_the_world_changes_its_subscription_by_replacing_it() {
    let mut driver = Driver::new(Protocol::StateOfTheWorld, "l:a@1 l:b@1");
    assert_eq!(driver.want("l", "a"), ["l a@1"]);
    driver.ack("l");
    assert_eq!(driver.want("l", "a b"), ["l a@1 b@1"]);
    driver.ack("l");
    assert_eq!(driver.want("l", "b"), [""; 0]);
    assert_eq!(driver.publish("l:a@2 l:b@1"), [""; 0]);
    assert_eq!(driver.publish("l:a@2 l:b@2"), ["l b@2"]);
}

#[test]
fn a_listener_waits_for_clusters_that_are_new_and_for_their_endpoints() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "");
        for kind in ["c", "l"] {
            driver.want(kind, "");
            driver.ack(kind);
        }
        assert_eq!(driver.publish("c:a@1 e:a@1 l:x@1"), ["c a@1"]);
        assert_eq!(driver.want("e", "a"), ["e a@1"]);
        assert_eq!(driver.ack("c"), [""; 0]);
        assert_eq!(driver.ack("e"), ["l x@1"]);
    }
}

#[test]
fn known_clusters_hold_nothing_up() {
    for protocol in BOTH {
        let mut driver = Driver::new(protocol, "c:a@1");
        driver.want("l", "");
        driver.want("c", "");
        driver.ack("c");
        driver.ack("l");
        assert_eq!(driver.publish("c:a@2 l:x@1"), ["c a@2", "l x@1"]);
    }
}

#[test]
fn a_cluster_goes_after_the_listener_that_led_to_it() {
    for (protocol, first, last) in [(Protocol::Delta, "l -x", "c -a"), (Protocol::StateOfTheWorld, "l", "c")]
    {
        let mut driver = Driver::new(protocol, "c:a@1 l:x@1");
        driver.want("c", "");
        driver.ack("c");
        driver.want("l", "");
        driver.ack("l");
        assert_eq!(driver.publish(""), [first]);
        assert_eq!(driver.ack("l"), [last]);
    }
}

#[test]
fn names_that_are_new_are_told_to_the_control_plane() {
    let mut driver = Driver::new(Protocol::StateOfTheWorld, "");
    let all = |names: &[&str]| Names::All(names.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(driver.send("l", "", None, all(&["a:80"])).wanted, ["a:80"]);
    driver.pushed();
    let nonce = driver.last[&Kind::Listener].clone();
    assert_eq!(driver.send("l", &nonce, None, all(&["a:80", "b:80"])).wanted, ["b:80"]);
}

#[test]
fn a_client_cannot_want_without_end() {
    let mut session = Session::new(Protocol::Delta);
    let names: Vec<String> = (0..=MAX_NAMES).map(|number| number.to_string()).collect();
    let request =
        Request { kind: Kind::Endpoints, nonce: String::new(), refusal: None, names: change(&names, &[]) };
    assert_eq!(session.receive(request), Err(TooManyNames));
}

#[test]
fn a_snapshot_made_of_another_says_what_one_made_anew_says() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let protocol = BOTH[rng.usize(0..2)];
        let mut anew = Driver::new(protocol, "");
        let mut made_of = Driver::new(protocol, "");
        let mut have: BTreeMap<String, u8> = BTreeMap::new();
        for step in 0..40 {
            let kind = ["c", "e", "l", "r"][rng.usize(0..4)];
            let name = ["a", "b", "c"][rng.usize(0..3)];
            let (one, other) = match rng.u8(0..4) {
                0 => {
                    // Some of these are no change.
                    let version = rng.u8(0..3);
                    let at = format!("{kind}:{name}");
                    let (upserts, removed) = if version == 0 {
                        have.remove(&at);
                        (Vec::new(), vec![(kind_of(kind), Arc::from(name))])
                    } else {
                        have.insert(at.clone(), version);
                        (vec![resource(&format!("{at}@{version}"))], Vec::new())
                    };
                    made_of.snapshot = made_of.snapshot.with(upserts, removed);
                    let all: Vec<String> =
                        have.iter().map(|(at, version)| format!("{at}@{version}")).collect();
                    anew.snapshot = snapshot(&all.join(" "));
                    // Who is slow sees some of the snapshots only.
                    if rng.bool() { (anew.pushed(), made_of.pushed()) } else { continue }
                }
                1 => (anew.want(kind, name), made_of.want(kind, name)),
                2 => (anew.want(kind, ""), made_of.want(kind, "")),
                _ if anew.last.contains_key(&kind_of(kind)) => {
                    let refused = rng.bool().then(|| refusal(name));
                    (anew.answer(kind, refused.clone()).1, made_of.answer(kind, refused).1)
                }
                _ => continue,
            };
            assert_eq!(one, other, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn a_snapshot_that_changes_nothing_shares_all_of_the_one_before() {
    let before = snapshot("c:a@1 e:a@1 e:b@1");
    let same = before.with([resource("e:a@1")], [(Kind::Listener, Arc::from("none"))]);
    assert!(same.shares_all(&before));
    let changed = before.with([resource("e:a@2")], []);
    assert!(!changed.shares_all(&before));
    assert_eq!(changed.set(Kind::Cluster).generation(), before.set(Kind::Cluster).generation());
    let seen = before.set(Kind::Endpoints).generation();
    assert_eq!(changed.set(Kind::Endpoints).changed_since(seen), Some(&["a".into()][..]));
}

#[test]
fn what_a_client_brings_it_has_accepted() {
    let mut session = Session::new(Protocol::Delta);
    let have = [("a".to_owned(), "1".to_owned())].into();
    let names = Names::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), have };
    let request = Request { kind: Kind::Cluster, nonce: String::new(), refusal: None, names };
    let received = session.receive(request).expect("few names");
    let versions = vec![("a".into(), "1".into())];
    assert_eq!(received.events, [Event::Accepted { kind: Kind::Cluster, versions, removed: Vec::new() }]);
}

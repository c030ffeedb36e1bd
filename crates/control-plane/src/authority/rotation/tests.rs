use super::*;

const NOW: i64 = 1_000;

fn roots(active: &str, next: Option<&str>, previous: Option<&str>) -> Roots {
    Roots {
        active: active.to_owned(),
        next: next.into_iter().map(str::to_owned).collect(),
        previous: previous.map(str::to_owned),
    }
}

fn forward() -> Rotation {
    Rotation {
        to: Some("b".to_owned()),
        ..Rotation::begin(1, &roots("a", None, None), "ann".to_owned(), NOW)
    }
}

fn back() -> Rotation {
    Rotation { course: Course::Back, ..forward() }
}

fn holder(name: &str, presence: Presence, trusts: &[&str], root: &str, ends: i64) -> Holder {
    let trusts = trusts.iter().map(|&root| root.to_owned()).collect();
    Holder { name: name.to_owned(), presence, trusts, root: Some(root.to_owned()), ends }
}

const FOLLOWS: Presence = Presence::Follows { refusal: None };
const OFFLINE: Presence = Presence::Offline { since: Some(900) };

fn facts(holders: Vec<Holder>) -> Facts {
    let said = Said { trusts: ["a", "b"].map(str::to_owned).into(), issuer: "a".to_owned() };
    let replicas = vec![Replica { name: "r".to_owned(), said: Some(said) }];
    Facts { replicas, holders, tokens: BTreeMap::new(), now: NOW }
}

fn signing(issuer: &str, mut facts: Facts) -> Facts {
    for said in facts.replicas.iter_mut().filter_map(|replica| replica.said.as_mut()) {
        issuer.clone_into(&mut said.issuer);
    }
    facts
}

#[test]
fn each_step_follows_from_the_roots_and_what_is_shown() {
    let check = |rotation: &Rotation, roots: Roots, facts: &Facts, expected: Action| {
        assert_eq!(rotation.next(&roots, facts), Next::Do(expected), "{roots:?}");
    };
    let nobody = facts(Vec::new());
    let b = || "b".to_owned();
    let new = Rotation::begin(1, &roots("a", None, None), "ann".to_owned(), NOW);
    check(&new, roots("a", None, None), &nobody, Action::Add);
    check(&new, roots("a", Some("b"), None), &nobody, Action::Note(b()));
    check(&forward(), roots("a", Some("b"), None), &nobody, Action::NoteSwitch);
    let switched = || Rotation { is_switched: true, ..forward() };
    check(&switched(), roots("a", Some("b"), None), &nobody, Action::Switch(b()));
    let signs = signing("b", nobody.clone());
    check(&switched(), roots("b", None, Some("a")), &signs, Action::Remove("a".to_owned()));
    check(&switched(), roots("b", None, None), &nobody, Action::End(End::Removed));
    // Back, before and after the switch.
    check(&back(), roots("a", None, None), &nobody, Action::End(End::Aborted));
    check(&back(), roots("a", Some("b"), None), &nobody, Action::Withdraw(b()));
    let late = || Rotation { is_switched: true, ..back() };
    check(&late(), roots("b", None, Some("a")), &nobody, Action::SwitchBack("a".to_owned()));
    check(&late(), roots("a", Some("b"), None), &nobody, Action::Withdraw(b()));
    check(&late(), roots("b", None, None), &nobody, Action::End(End::Removed));
    // Made, and the crash came before it was noted.
    check(&Rotation { course: Course::Back, ..new }, roots("a", Some("b"), None), &nobody, Action::Note(b()));
    // Withdrawn, and then wanted after all: nobody has a certificate under it.
    check(&forward(), roots("a", None, None), &nobody, Action::Add);
    check(&forward(), roots("a", Some("c"), None), &nobody, Action::Note("c".to_owned()));
    // Other roots than those of the rotation.
    for (active, next, previous) in
        [("c", None, None), ("a", Some("c"), None), ("a", None, None), ("b", None, Some("c"))]
    {
        check(&switched(), roots(active, next, previous), &nobody, Action::End(End::Lost));
    }
    let over = Rotation { end: Some(End::Removed), ..forward() };
    assert_eq!(over.next(&roots("b", None, None), &nobody), Next::Rest);
}

#[test]
fn a_rotation_whose_record_is_lost_goes_on_from_the_roots() {
    let begun = |roots: Roots| Rotation::begin(2, &roots, "ann".to_owned(), NOW);
    let made = begun(roots("a", Some("b"), None));
    assert_eq!((made.from.as_str(), made.to.as_deref(), made.is_switched), ("a", Some("b"), false));
    let switched = begun(roots("b", None, Some("a")));
    assert_eq!(
        (switched.from.as_str(), switched.to.as_deref(), switched.is_switched),
        ("a", Some("b"), true)
    );
    assert_eq!(switched.step(&roots("b", None, Some("a"))), Step::Switched);
}

#[test]
fn how_far_it_is_follows_from_the_roots() {
    let check = |rotation: &Rotation, roots: Roots, expected: Step| {
        assert_eq!(rotation.step(&roots), expected, "{roots:?}");
    };
    check(&Rotation { to: None, ..forward() }, roots("a", None, None), Step::Starting);
    check(&forward(), roots("a", Some("b"), None), Step::Added);
    check(&back(), roots("a", Some("b"), None), Step::Added);
    check(&forward(), roots("b", None, Some("a")), Step::Switched);
    check(&Rotation { is_switched: true, ..back() }, roots("a", Some("b"), None), Step::SwitchedBack);
    check(&Rotation { end: Some(End::Removed), ..forward() }, roots("b", None, None), Step::Removed);
    check(&Rotation { end: Some(End::Aborted), ..back() }, roots("a", None, None), Step::Aborted);
    check(&Rotation { end: Some(End::Lost), ..back() }, roots("a", Some("b"), None), Step::Lost);
}

#[test]
fn who_lacks_what_is_to_be_shown_is_named_with_the_reason() {
    let check = |proof: &Proof, holder: &Holder, expected: Option<Why>| {
        assert_eq!(holder.lacks(proof, NOW).map(|lack| lack.why), expected, "{proof:?} {holder:?}");
    };
    let (trusts, holds) = (Proof::Trusts("b".to_owned()), Proof::Holds("b".to_owned()));
    let refuses = || Presence::Follows { refusal: Some("no".to_owned()) };
    check(&trusts, &holder("x", FOLLOWS, &["a", "b"], "a", 0), None);
    check(&trusts, &holder("x", FOLLOWS, &["a"], "a", 0), Some(Why::NotAcknowledged));
    check(&trusts, &holder("x", refuses(), &["a"], "a", 0), Some(Why::Refuses("no".to_owned())));
    check(&trusts, &holder("x", Presence::Unfollowing, &["b"], "b", 0), Some(Why::Unfollowing));
    check(&trusts, &holder("x", Presence::Delegated, &[], "a", 2_000), None);
    let until = |until| Some(Why::Offline { since: Some(900), until });
    check(&trusts, &holder("x", OFFLINE, &["a"], "a", 2_000), until(2_000));
    check(&trusts, &holder("x", OFFLINE, &["a"], "a", NOW), None);
    check(&trusts, &holder("x", OFFLINE, &["a", "b"], "a", 2_000), None);
    check(&trusts, &holder("x", OFFLINE, &[], "b", 2_000), None);
    check(&holds, &holder("x", FOLLOWS, &["a", "b"], "b", 0), None);
    check(&holds, &holder("x", FOLLOWS, &["a", "b"], "a", 0), Some(Why::OtherRoot));
    check(&holds, &holder("x", refuses(), &["a", "b"], "a", 0), Some(Why::OtherRoot));
    check(&holds, &holder("x", Presence::Unfollowing, &[], "b", 2_000), Some(Why::Unfollowing));
    check(&holds, &holder("x", Presence::Delegated, &[], "a", 2_000), Some(Why::OtherRoot));
    check(&holds, &holder("x", Presence::Delegated, &[], "a", NOW), None);
    check(&holds, &holder("x", OFFLINE, &["a", "b"], "a", 2_000), until(2_000));
}

#[test]
fn people_may_go_on_without_some_but_not_without_a_control_plane() {
    let on = roots("a", Some("b"), None);
    let lacking = |rotation: &Rotation, facts: &Facts| match rotation.next(&on, facts) {
        Next::Wait(lacks) => lacks.into_iter().map(|lack| lack.name).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let mut facts = facts(vec![
        holder("shop/web", FOLLOWS, &["a"], "a", 0),
        holder("shop/cart", OFFLINE, &["a"], "a", 2_000),
    ]);
    assert_eq!(lacking(&forward(), &facts), ["shop/web", "shop/cart"]);
    let without = |names: &[&str], without_offline| Rotation {
        without: names.iter().map(|&name| name.to_owned()).collect(),
        without_offline,
        ..forward()
    };
    assert_eq!(lacking(&without(&["shop/web"], false), &facts), ["shop/cart"]);
    assert_eq!(lacking(&without(&[], true), &facts), ["shop/web"]);
    assert!(lacking(&without(&["shop/web"], true), &facts).is_empty());
    facts.replicas[0].said = None;
    assert_eq!(lacking(&without(&["control plane r", "shop/web"], true), &facts), ["control plane r"]);
    facts.replicas[0].said = Some(Said { trusts: ["a".to_owned()].into(), issuer: "a".to_owned() });
    assert_eq!(lacking(&without(&["shop/web"], true), &facts), ["control plane r"]);
}

#[test]
fn a_root_stays_while_tokens_are_good_that_the_key_beside_it_signed() {
    let switched = Rotation { is_switched: true, ..forward() };
    let tokens = |root: &str, ends| BTreeMap::from([(root.to_owned(), ends)]);
    let next = |root, ends| {
        let facts = Facts { tokens: tokens(root, ends), ..signing("b", facts(Vec::new())) };
        switched.next(&roots("b", None, Some("a")), &facts)
    };
    let lack = Lack { name: "tokens".to_owned(), why: Why::Tokens { until: NOW + 1 } };
    assert_eq!(next("a", NOW + 1), Next::Wait(vec![lack]));
    for (root, ends) in [("a", NOW), ("b", NOW + 1)] {
        assert_eq!(next(root, ends), Next::Do(Action::Remove("a".to_owned())), "{root} {ends}");
    }
    // Of a key that only begins to be trusted no token is lost.
    let facts = Facts { tokens: tokens("a", NOW + 1), ..facts(Vec::new()) };
    assert_eq!(forward().next(&roots("a", Some("b"), None), &facts), Next::Do(Action::NoteSwitch));
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let rotation = Rotation { end: Some(End::Removed), without: ["shop/web".to_owned()].into(), ..forward() };
    let text = serde_json::to_string(&rotation).expect("JSON");
    assert_eq!(serde_json::from_str::<Rotation>(&text).expect("a rotation"), rotation);
    assert!(text.contains("\"course\":\"forward\"") && text.contains("\"isSwitched\":false"), "{text}");
}

mod random;

//! Roots with their roles, in one process and among several.

use super::*;

fn facts(authority: &CertificateAuthority) -> Vec<(Role, String)> {
    authority.roots().into_iter().map(|root| (root.role, root.fingerprint)).collect()
}

#[test]
fn roots_are_added_switched_and_removed() {
    let (_dir, authority) = authority();
    let first = authority.roots()[0].fingerprint.clone();
    let old = authority.issue(&id(WEB), DAY, &[]).expect("issued");
    let next = authority.add_root().expect("added");
    assert_eq!(authority.add_root().expect("there already"), next);
    assert_eq!(facts(&authority), [(Role::Active, first.clone()), (Role::Next, next.clone())]);
    assert_eq!(authority.bundle().fingerprints(), [first.clone(), next.clone()]);
    // Tokens of the next key are known before there is any.
    assert_eq!(authority.bundle().jwt_keys().matches("kid").count(), 2);
    assert_eq!(authority.issuer().root, first);

    authority.switch(&next).expect("switched");
    authority.switch(&next).expect("done already");
    assert_eq!(facts(&authority), [(Role::Active, next.clone()), (Role::Previous, first.clone())]);
    assert_eq!(authority.issuer().root, next);
    let new = authority.issue(&id(WEB), DAY, &[]).expect("issued");
    let trust = Trust::new(authority.bundle());
    assert_eq!(trust.root_of(old.chain()), Some(first.clone()));
    assert_eq!(trust.root_of(new.chain()), Some(next.clone()));

    authority.switch_back(&first).expect("switched back");
    assert_eq!(facts(&authority), [(Role::Active, first.clone()), (Role::Next, next.clone())]);
    new.check_under(&authority.bundle()).expect("still trusted");
    authority.switch(&next).expect("switched");
    authority.remove_previous(&first).expect("removed");
    authority.remove_previous(&first).expect("done already");
    assert_eq!(facts(&authority), [(Role::Active, next)]);
    assert!(old.check_under(&authority.bundle()).is_err());
    new.check_under(&authority.bundle()).expect("good");
}

#[test]
fn what_is_not_meant_is_refused() {
    let (_dir, authority) = authority();
    let first = authority.roots()[0].fingerprint.clone();
    let check = |outcome: Result<(), IdentityError>, words: &str| {
        let error = outcome.expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    let nobody = "0".repeat(64);
    check(authority.switch(&nobody), "none of the roots");
    check(authority.switch_back(&nobody), "none of the roots");
    check(authority.remove_previous(&first), "the active one, and must be the previous one");
    check(authority.withdraw_next(&first), "the active one, and must be the next one");
    authority.remove_previous(&nobody).expect("gone already");
    authority.withdraw_next(&nobody).expect("gone already");
    let next = authority.add_root().expect("added");
    check(authority.remove_previous(&next), "the next one, and must be the previous one");
    check(authority.switch_back(&next), "the next one, and must be the previous one");
    authority.switch(&next).expect("switched");
    check(authority.withdraw_next(&first), "the previous one, and must be the next one");
    check(authority.switch(&first), "the previous one, and must be the next one");
    let new = authority.add_root().expect("added");
    authority.withdraw_next(&new).expect("withdrawn");
    assert_eq!(facts(&authority), [(Role::Active, next), (Role::Previous, first)]);
}

#[test]
fn another_control_plane_sees_what_one_does() {
    let (dir, first) = authority();
    let second = AuthorityOptions { issuer_dir: dir.path().join("second"), ..options(dir.path()) };
    let second = CertificateAuthority::open(second).expect("opened");
    let old = second.roots()[0].fingerprint.clone();
    let next = first.add_root().expect("added");
    assert_eq!(second.add_root().expect("there already"), next);
    assert_eq!(first.roots(), second.roots());
    first.switch(&next).expect("switched");
    assert!(second.refresh().expect("read"));
    assert!(!second.refresh().expect("nothing new"));
    assert_eq!(second.issuer().root, next);
    assert_ne!(second.issuer().serial, first.issuer().serial);
    second.switch(&next).expect("done already");
    first.remove_previous(&old).expect("removed");
    second.remove_previous(&old).expect("done already");
    assert_eq!(first.roots(), second.roots());
    assert_eq!(first.bundle().jwt_keys(), second.bundle().jwt_keys());
}

#[test]
fn changes_of_several_processes_wait_for_each_other() {
    let (dir, authority) = authority();
    let path = dir.path();
    let added: Vec<String> = std::thread::scope(|scope| {
        let adds: Vec<_> = (0..4)
            .map(|number| {
                let replica =
                    AuthorityOptions { issuer_dir: path.join(format!("{number}")), ..options(path) };
                scope.spawn(move || {
                    CertificateAuthority::open(replica).expect("opened").add_root().expect("added")
                })
            })
            .collect();
        adds.into_iter().map(|add| add.join().expect("ran")).collect()
    });
    assert!(authority.refresh().expect("read"));
    assert_eq!(authority.roots().len(), 2);
    assert!(added.iter().all(|root| *root == authority.roots()[1].fingerprint));
}

#[test]
fn a_shared_directory_that_is_damaged_under_it_changes_nothing() {
    let (dir, authority) = authority();
    let index = dir.path().join("ca/authority.json");
    let good = fs::read_to_string(&index).expect("read");
    let before = authority.roots();
    for bad in ["", "{}", "x"] {
        fs::write(&index, bad).expect("written");
        assert!(authority.refresh().is_err(), "{bad}");
        authority.issue(&id(WEB), DAY, &[]).expect("issued").check_under(&authority.bundle()).expect("good");
    }
    fs::remove_file(&index).expect("removed");
    assert!(authority.refresh().expect_err("refused").to_string().contains("authority.json is missing"));
    fs::write(&index, good).expect("written");
    assert!(!authority.refresh().expect("as before"));
    assert_eq!(authority.roots(), before);
}

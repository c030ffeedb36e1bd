//! A process that is killed between any two of its writes leaves a whole authority: every change is run once for each of
//! its steps, and stopped there.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// An authority whose files fail to change after some steps.
fn with_fuse(
    options: &AuthorityOptions,
    steps: usize,
) -> (Arc<AtomicUsize>, Result<CertificateAuthority, IdentityError>) {
    let fuse = Arc::new(AtomicUsize::new(steps));
    let disk = |dir: &Path| Disk::with_fuse(dir, fuse.clone());
    let directory = Directory { disk: disk(&options.dir) };
    let issuer_disk = disk(&options.issuer_dir);
    (fuse, CertificateAuthority::open_on(options.clone(), directory, issuer_disk))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("set");
    for entry in fs::read_dir(from).expect("listed") {
        let path = entry.expect("an entry").path();
        let name = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &name) } else { fs::copy(&path, &name).map(drop).expect("copied") }
    }
}

/// Runs a change on copies of a directory, stopped after each number of steps. What is opened afterwards must be as
/// `check` wants it, and so must that on which the change is asked for again.
fn check(
    before: &Path,
    change: impl Fn(&CertificateAuthority) -> Result<(), IdentityError>,
    check: impl Fn(&CertificateAuthority),
    after: impl Fn(&CertificateAuthority),
) {
    for steps in 0.. {
        assert!(steps < 60, "it never ends");
        let dir = tempfile::tempdir().expect("a directory");
        copy(before, dir.path());
        let options = options(dir.path());
        let (fuse, opened) = with_fuse(&options, steps);
        let done = opened.and_then(|authority| change(&authority));
        let is_through = fuse.load(Ordering::Relaxed) > 0;
        assert!(done.is_ok() || !is_through, "{:?}", done.err().map(|error| error.to_string()));

        let authority = CertificateAuthority::open(options.clone()).expect("whole");
        check_whole(&authority, dir.path());
        check(&authority);
        change(&authority).expect("done now");
        let authority = CertificateAuthority::open(options).expect("whole");
        check_whole(&authority, dir.path());
        after(&authority);
        if is_through {
            // There were steps to stop at.
            assert!(steps > 0);
            return;
        }
    }
}

/// It signs, what it signs is good, and nothing lies about.
fn check_whole(authority: &CertificateAuthority, dir: &Path) {
    let svid = authority.issue(&id(WEB), DAY, &[]).expect("issued");
    svid.check_under(&authority.bundle()).expect("good");
    let root = Trust::new(authority.bundle()).root_of(svid.chain()).expect("a root");
    assert_eq!(root, authority.issuer().root);
    let roots = authority.roots();
    assert_eq!(roots[0].role, Role::Active);
    assert_eq!(root, roots[0].fingerprint);
    authority.sign_jwt(&id(WEB), &["db".to_owned()], Duration::from_mins(1)).expect("signed");
    let roots: Vec<&str> = roots.iter().map(|root| root.fingerprint.as_str()).collect();
    let mut files = files_in(&dir.join("ca"));
    // Parts of a file that was being written are replaced with it.
    files.retain(|name| name.strip_suffix(".new").is_none());
    assert_eq!(files, expected(&roots));
}

fn roles(authority: &CertificateAuthority) -> Vec<Role> {
    authority.roots().iter().map(|root| root.role).collect()
}

#[test]
fn while_it_is_made() {
    let before = tempfile::tempdir().expect("a directory");
    let one = |authority: &CertificateAuthority| assert_eq!(roles(authority), [Role::Active]);
    check(before.path(), |_| Ok(()), one, one);
}

#[test]
fn while_the_layout_before_is_taken_over() {
    let before = tempfile::tempdir().expect("a directory");
    let ca = before.path().join("ca");
    let root = old_layout(&ca);
    let same = |authority: &CertificateAuthority| assert_eq!(authority.bundle().pem(), root);
    check(before.path(), |_| Ok(()), same, same);
}

#[test]
fn while_a_root_is_added_and_taken_back() {
    let (before, authority) = authority();
    let root = authority.roots()[0].fingerprint.clone();
    let has_root = |authority: &CertificateAuthority| {
        assert_eq!(authority.roots()[0].fingerprint, root);
        assert!([&[Role::Active][..], &[Role::Active, Role::Next]].contains(&&roles(authority)[..]));
    };
    let added = |authority: &CertificateAuthority| assert_eq!(roles(authority), [Role::Active, Role::Next]);
    check(before.path(), |authority| authority.add_root().map(drop), has_root, added);
    let next = authority.add_root().expect("added");
    let gone = |authority: &CertificateAuthority| assert_eq!(roles(authority), [Role::Active]);
    check(before.path(), |authority| authority.withdraw_next(&next), has_root, gone);
}

#[test]
fn while_it_switches_and_removes() {
    let (before, authority) = authority();
    let first = authority.roots()[0].fingerprint.clone();
    let next = authority.add_root().expect("added");
    let both = |authority: &CertificateAuthority| {
        assert_eq!(authority.roots().len(), 2);
        let svid = authority.issue(&id(WEB), DAY, &[]).expect("issued");
        svid.check_under(&self_bundle(authority, &authority.roots()[0].fingerprint))
            .expect("under the active");
    };
    let is_active = |root: String| {
        move |authority: &CertificateAuthority| assert_eq!(authority.roots()[0].fingerprint, root)
    };
    check(before.path(), |authority| authority.switch(&next), both, is_active(next.clone()));
    authority.switch(&next).expect("switched");
    check(before.path(), |authority| authority.switch_back(&first), both, is_active(first.clone()));
    let is_next = |authority: &CertificateAuthority| assert_eq!(authority.roots()[0].fingerprint, next);
    let alone = |authority: &CertificateAuthority| assert_eq!(roles(authority), [Role::Active]);
    check(before.path(), |authority| authority.remove_previous(&first), is_next, alone);
}

/// The bundle of one root alone.
fn self_bundle(authority: &CertificateAuthority, root: &str) -> Bundle {
    let state = authority.state.load();
    let root = state.root(root).expect("a root");
    Bundle::from_pem(&pem::encode("CERTIFICATE", &root.certificate)).expect("a bundle")
}

/// Writes an authority as versions before did; gives its root.
pub(super) fn old_layout(ca: &Path) -> String {
    files::create_private_dir(ca).expect("made");
    let (root_key, key) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
    let validity = Validity::until(SystemTime::now(), ROOT_LIFETIME, None).expect("valid");
    let root = certify::root("mesh.local", &root_key, validity).expect("made");
    let issuer = certify::intermediate("mesh.local", &key, &root, &root_key, validity).expect("made");
    let pem = pem::encode("CERTIFICATE", &root);
    files::write_private(&ca.join("root-key.pem"), root_key.pem().as_bytes()).expect("written");
    files::write_private(&ca.join("intermediate-key.pem"), key.pem().as_bytes()).expect("written");
    files::write_public(&ca.join("intermediate.pem"), pem::encode("CERTIFICATE", &issuer).as_bytes())
        .expect("written");
    files::write_public(&ca.join("root.pem"), pem.as_bytes()).expect("written");
    pem
}

#[test]
fn the_layout_before_is_known_by_its_root_alone() {
    let check = |damage: &dyn Fn(&Path), words: Option<&str>| {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = dir.path().join("ca");
        let root = old_layout(&ca);
        damage(&ca);
        let opened = CertificateAuthority::open(options(dir.path()));
        match (opened, words) {
            (Ok(authority), None) => assert_eq!(authority.bundle().pem(), root),
            (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
            (opened, _) => panic!("{:?}", opened.err().map(|error| error.to_string())),
        }
    };
    check(&|_| {}, None);
    check(&|ca| fs::remove_file(ca.join("intermediate.pem")).expect("removed"), None);
    check(&|ca| fs::remove_file(ca.join("root.pem")).expect("removed"), Some("root.pem is missing"));
    check(&|ca| fs::remove_file(ca.join("root-key.pem")).expect("removed"), Some("root-key.pem is missing"));
    check(&|ca| fs::write(ca.join("root.pem"), "").expect("written"), Some("root.pem is damaged"));
    let key = Key::generate().expect("a key").pem();
    check(&|ca| fs::write(ca.join("root-key.pem"), &*key).expect("written"), Some("not the key of root.pem"));
    let other = |ca: &Path| {
        let other = tempfile::tempdir().expect("a directory");
        old_layout(&other.path().join("ca"));
        let both =
            [ca, &other.path().join("ca")].map(|dir| fs::read_to_string(dir.join("root.pem")).expect("read"));
        fs::write(ca.join("root.pem"), both.concat()).expect("written");
    };
    check(&other, Some("it has several roots"));
    // Somebody puts a backup of before over an authority of now.
    let (dir, _authority) = authority();
    old_layout(&dir.path().join("ca"));
    let error = refusal(options(dir.path()));
    assert!(error.contains("that of another authority than authority.json names"), "{error}");
}

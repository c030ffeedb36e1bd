//! The authority's directories, and what it signs.

mod kill;
mod plugged;
mod requests;
mod rotation;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::UNIX_EPOCH;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;

use super::certify::BACKDATE;
use super::issuer::Own;
use super::*;
use crate::certificate::fingerprint;
use crate::forge::{DAY, id};
use crate::{IdentitySource, Trust, files};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

fn options(dir: &Path) -> AuthorityOptions {
    AuthorityOptions {
        dir: dir.join("ca"),
        issuer_dir: dir.join("issuer"),
        trust_domain: "mesh.local".to_owned(),
        plugged: None,
        intermediate_lifetime: INTERMEDIATE_LIFETIME,
        root_lifetime: ROOT_LIFETIME,
    }
}

fn authority() -> (tempfile::TempDir, CertificateAuthority) {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = CertificateAuthority::open(options(dir.path())).expect("made");
    (dir, authority)
}

fn refusal(options: AuthorityOptions) -> String {
    CertificateAuthority::open(options).err().expect("refused").to_string()
}

fn csr(alter: impl FnOnce(&mut CertificateParams), pair: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    alter(&mut params);
    params.serialize_request(pair).expect("signed").pem().expect("PEM")
}

/// The files of a directory and below, relative, sorted.
fn files_in(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("listed") {
            let path = entry.expect("an entry").path();
            let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                open.push(path);
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
                found.push(path.strip_prefix(dir).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// The files of an authority with these roots.
fn expected(roots: &[&str]) -> Vec<String> {
    let mut files = vec!["authority.json".to_owned(), "lock".to_owned()];
    for root in roots {
        files.extend(
            ["jwt-key.pem", "root-key.pem", "root.pem"].map(|name| format!("roots/{}/{name}", &root[..16])),
        );
    }
    files.sort();
    files
}

#[test]
fn an_authority_that_is_opened_again_is_the_same() {
    let (dir, first) = authority();
    let svid = first.issue(&id(WEB), DEFAULT_LIFETIME, &[]).expect("issued");
    let again = CertificateAuthority::open(options(dir.path())).expect("opened");
    assert_eq!(first.bundle(), again.bundle());
    assert_eq!(first.bundle().jwt_keys(), again.bundle().jwt_keys());
    assert_eq!((first.roots(), first.issuer()), (again.roots(), again.issuer()));
    svid.check_under(&again.bundle()).expect("still good");
    let root = &first.roots()[0];
    assert_eq!((root.role, root.plugged), (Role::Active, false));
    assert_eq!(first.bundle().fingerprints(), std::slice::from_ref(&root.fingerprint));
    assert_eq!(files_in(&dir.path().join("ca")), expected(&[&root.fingerprint]));
    assert_eq!(files_in(&dir.path().join("issuer")), ["certificate.pem", "key.pem"]);
    assert!(!again.refresh().expect("nothing to do"));
}

#[test]
fn an_empty_directory_gets_an_authority_and_another_is_not_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    CertificateAuthority::open_or_create(dir.path(), "mesh.local").expect("made");
    CertificateAuthority::open_or_create(dir.path(), "mesh.local").expect("opened");
    let other = tempfile::tempdir().expect("a directory");
    fs::write(other.path().join("notes.txt"), "mine").expect("written");
    let error = CertificateAuthority::open_or_create(other.path(), "mesh.local").err().expect("refused");
    assert!(error.to_string().contains("missing, though there is notes.txt"), "{error}");
}

#[test]
fn each_control_plane_has_an_intermediate_of_its_own_under_one_root() {
    let (dir, first) = authority();
    let second = AuthorityOptions { issuer_dir: dir.path().join("second"), ..options(dir.path()) };
    let second = CertificateAuthority::open(second).expect("opened");
    assert_eq!(first.bundle(), second.bundle());
    assert_eq!(first.issuer().root, second.issuer().root);
    assert_ne!(first.issuer().serial, second.issuer().serial);
    for authority in [&first, &second] {
        let svid = authority.issue(&id(WEB), DAY, &[]).expect("issued");
        svid.check_under(&first.bundle()).expect("good");
    }
}

#[test]
fn a_damaged_authority_is_refused_with_the_files_name_and_not_replaced() {
    let check = |file: &str, content: Option<&str>, words: &str| {
        let (dir, before) = authority();
        let root = format!("roots/{}", &before.roots()[0].fingerprint[..16]);
        let path = dir.path().join("ca").join(file.replace("ROOT", &root));
        match content {
            Some(content) => fs::write(&path, content).expect("written"),
            None => fs::remove_file(&path).expect("removed"),
        }
        let error = refusal(options(dir.path()));
        assert!(error.contains(&*path.to_string_lossy()) && error.contains(words), "{file}: {error}");
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), content, "left as it is");
    };
    for file in ["ROOT/root.pem", "ROOT/root-key.pem", "ROOT/jwt-key.pem"] {
        check(file, None, "missing");
        check(file, Some(""), "damaged");
        check(file, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "damaged");
    }
    check("authority.json", None, "missing, though there is roots/");
    check("authority.json", Some(""), "damaged");
    check("authority.json", Some("{}"), "another version");
    let two = r#"{"version": 1, "trustDomain": "mesh.local", "roots": []}"#;
    check("authority.json", Some(two), "exactly one of its roots must be active");
    let key = Key::generate().expect("a key").pem();
    check("ROOT/root-key.pem", Some(&key), "not the key of root.pem");
    let (_other_dir, other) = authority();
    check("ROOT/root.pem", Some(&other.bundle().pem()), "another root than authority.json names");
}

#[test]
fn a_damaged_intermediate_is_made_anew() {
    let (dir, before) = authority();
    let issuer = dir.path().join("issuer");
    let check = |damage: &dyn Fn()| {
        let serial = CertificateAuthority::open(options(dir.path())).expect("opened").issuer().serial;
        damage();
        let again = CertificateAuthority::open(options(dir.path())).expect("opened");
        assert_ne!(again.issuer().serial, serial);
        assert_eq!(again.bundle(), before.bundle());
        again.issue(&id(WEB), DAY, &[]).expect("issued").check_under(&before.bundle()).expect("good");
    };
    check(&|| fs::write(issuer.join("key.pem"), "").expect("written"));
    check(&|| fs::write(issuer.join("key.pem"), &*Key::generate().expect("a key").pem()).expect("written"));
    check(&|| fs::remove_file(issuer.join("certificate.pem")).expect("removed"));
    check(&|| fs::remove_dir_all(&issuer).expect("removed"));
    let (other_dir, _other) = authority();
    let other = other_dir.path().join("issuer");
    check(&|| {
        for name in ["key.pem", "certificate.pem"] {
            fs::copy(other.join(name), issuer.join(name)).expect("copied");
        }
    });
}

#[test]
fn an_authority_of_another_trust_domain_is_refused() {
    let (dir, _) = authority();
    let other = AuthorityOptions { trust_domain: "other.local".to_owned(), ..options(dir.path()) };
    let error = refusal(other);
    assert!(error.contains("of the trust domain mesh.local, not other.local"), "{error}");
    assert!(CertificateAuthority::open_or_create(&dir.path().join("new"), "Bad Name").is_err());
}

#[test]
fn a_signed_key_becomes_an_svid_with_its_intermediate() {
    let (_dir, authority) = authority();
    let key = Key::generate().expect("a key");
    let csr = key.csr_pem(&id(WEB)).expect("a request");
    let before = SystemTime::now();
    let chain = authority.sign(&csr, &id(WEB), DAY, &[]).expect("signed");
    let svid = Svid::from_pem(&chain, key).expect("an SVID");
    assert_eq!(svid.id(), &id(WEB));
    assert_eq!(pem::certificates(&chain).expect("a chain").len(), 2);
    let life = svid.not_after().duration_since(svid.not_before()).expect("a life");
    assert_eq!(life, DAY + BACKDATE);
    assert!(svid.not_before() <= before - BACKDATE);
    let root = Trust::new(authority.bundle()).root_of(svid.chain()).expect("a root");
    assert_eq!(root, authority.issuer().root);
    IdentitySource::new(svid, authority.bundle()).expect("good under the root");
}

#[test]
fn no_two_certificates_share_a_serial_number() {
    let (_dir, authority) = authority();
    let key = Key::generate().expect("a key");
    let csr = key.unnamed_csr_pem().expect("a request");
    let serials: std::collections::BTreeSet<String> = (0..5)
        .map(|_| {
            let chain = authority.sign(&csr, &id(WEB), DAY, &[]).expect("signed");
            let key = Key::from_pem(&key.pem()).expect("the key");
            Svid::from_pem(&chain, key).expect("an SVID").serial()
        })
        .collect();
    assert_eq!(serials.len(), 5);
}

#[test]
fn nothing_outlives_what_has_signed_it() {
    let (dir, authority) = authority();
    for lifetime in [ROOT_LIFETIME * 2, Duration::MAX] {
        let svid = authority.issue(&id(WEB), lifetime, &[]).expect("issued");
        assert_eq!(svid.not_after(), authority.issuer().not_after);
    }
    assert!(authority.issue(&id(WEB), Duration::ZERO, &[]).is_err());
    let short = AuthorityOptions {
        dir: dir.path().join("short"),
        issuer_dir: dir.path().join("short-issuer"),
        root_lifetime: DAY,
        ..options(dir.path())
    };
    let short = CertificateAuthority::open(short).expect("made");
    assert_eq!(short.issuer().not_after, short.roots()[0].not_after);
    assert!(!short.refresh().expect("another would not live longer"));
    let eternal = AuthorityOptions {
        dir: dir.path().join("eternal"),
        issuer_dir: dir.path().join("eternal-issuer"),
        root_lifetime: Duration::MAX,
        intermediate_lifetime: Duration::MAX,
        ..options(dir.path())
    };
    CertificateAuthority::open(eternal).expect("made").issue(&id(WEB), DAY, &[]).expect("issued");
    for lifetime in [Duration::ZERO, Duration::from_secs(9)] {
        let none = AuthorityOptions { intermediate_lifetime: lifetime, ..options(dir.path()) };
        assert!(refusal(none).contains("10 seconds at least"));
    }
}

#[test]
fn an_intermediate_is_renewed_at_half_of_its_life() {
    let (dir, authority) = authority();
    let begin = authority.issuer().not_before + BACKDATE;
    let (life, root) = (INTERMEDIATE_LIFETIME, authority.state.load_full());
    let is_due = |after: Duration| {
        let end = root.roots[0].not_after;
        root.issuer.is_due(begin + after, life, end)
    };
    assert!(!is_due(Duration::ZERO) && !is_due((life / 2).checked_sub(Duration::from_mins(1)).unwrap()));
    assert!(is_due(life / 2 + Duration::from_mins(1)) && is_due(life * 2));
    // A clock that is set back makes one that is valid by it.
    assert!(root.issuer.is_due(UNIX_EPOCH, life, UNIX_EPOCH + life));
    assert!(!root.issuer.is_due(
        begin + life / 2 + Duration::from_mins(1),
        life,
        root.issuer.facts().not_after
    ));

    // One that was made 60 days ago is replaced: at the start, by a refresh, and by signing.
    let active = root.active().expect("a root").clone();
    let age = |authority: &CertificateAuthority| {
        let old = Own { now: SystemTime::now() - DAY * 60, ..authority.parts(SystemTime::now()).own() };
        let key = authority.directory.root_key(&active.fingerprint).expect("a key");
        old.make(&active, &key).expect("made")
    };
    let put = |authority: &CertificateAuthority| {
        let issuer = Arc::new(age(authority));
        let serial = issuer.facts().serial.clone();
        authority.state.store(Arc::new(State { issuer, ..State::clone(&authority.state.load()) }));
        serial
    };
    let serial = age(&authority).facts().serial.clone();
    let opened = CertificateAuthority::open(options(dir.path())).expect("opened");
    assert_ne!(opened.issuer().serial, serial);
    let serial = put(&opened);
    assert!(opened.refresh().expect("renewed"));
    assert_ne!(opened.issuer().serial, serial);
    let serial = put(&opened);
    opened.issue(&id(WEB), DAY, &[]).expect("issued").check_under(&opened.bundle()).expect("good");
    assert_ne!(opened.issuer().serial, serial);
    // A failure keeps nobody from signing.
    put(&opened);
    fs::write(dir.path().join("ca/roots").join(&active.fingerprint[..16]).join("root-key.pem"), "")
        .expect("written");
    opened.issue(&id(WEB), DAY, &[]).expect("issued").check_under(&opened.bundle()).expect("good");
    assert!(opened.refresh().is_err());
    // A lifetime that is set to less acts at the next start.
    let (dir, _authority) = self::authority();
    let shorter = AuthorityOptions { intermediate_lifetime: DAY, ..options(dir.path()) };
    let shorter = CertificateAuthority::open(shorter).expect("opened");
    assert!(shorter.issuer().not_after <= SystemTime::now() + DAY);
}

#[test]
fn tokens_are_signed_by_the_key_beside_the_active_root() {
    let (_dir, authority) = authority();
    let audience = ["db".to_owned()];
    let token = authority.sign_jwt(&id(WEB), &audience, Duration::from_mins(5)).expect("signed");
    let trust = Trust::new(authority.bundle());
    let (found, _) = jwt_svid::validate(&token.token, "db", &trust, SystemTime::now()).expect("good");
    assert_eq!(found.id, id(WEB));
    let other = SpiffeId::parse("spiffe://other.local/a").expect("an ID");
    let error = authority.sign_jwt(&other, &audience, Duration::from_mins(5)).expect_err("refused");
    assert!(matches!(error, IdentityError::TrustDomain { .. }), "{error}");
    let error = authority.issue(&other, DAY, &[]).err().expect("refused");
    assert!(matches!(error, IdentityError::TrustDomain { .. }), "{error}");
}

#[test]
fn a_token_does_not_outlive_the_root_beside_its_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = AuthorityOptions { root_lifetime: Duration::from_mins(10), ..options(dir.path()) };
    let authority = CertificateAuthority::open(options).expect("made");
    let end = authority.roots()[0].not_after;
    for (lifetime, is_cut) in [(Duration::from_mins(5), false), (Duration::from_hours(5), true)] {
        let token = authority.sign_jwt(&id(WEB), &["db".to_owned()], lifetime).expect("signed");
        assert!(token.expires_at <= end);
        assert_eq!(token.expires_at + Duration::from_secs(1) >= end, is_cut);
    }
    let error = authority.sign_jwt(&id(WEB), &["db".to_owned()], Duration::ZERO).expect_err("refused");
    assert!(matches!(error, IdentityError::Lifetime(_)), "{error}");
}

#[test]
fn an_intermediate_that_is_revoked_is_replaced_at_once_and_for_good() {
    let (dir, authority) = authority();
    let before = authority.issuer();
    assert!(!authority.replace_intermediate("abc").expect("nothing to do"));
    assert_eq!(authority.issuer(), before);
    assert!(authority.replace_intermediate(&before.serial).expect("another"));
    let after = authority.issuer();
    assert_ne!(after.serial, before.serial);
    assert_eq!(after.root, before.root);
    authority.issue(&id(WEB), DAY, &[]).expect("issued").check_under(&authority.bundle()).expect("good");
    // It was done already.
    assert!(!authority.replace_intermediate(&before.serial).expect("nothing to do"));
    assert_eq!(CertificateAuthority::open(options(dir.path())).expect("opened").issuer(), after);
}

#[test]
fn a_directory_that_others_may_write_to_is_nobodys_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |mode| {
        fs::set_permissions(dir.path().join("ca"), fs::Permissions::from_mode(mode)).expect("set");
        CertificateAuthority::open(options(dir.path()))
    };
    fs::create_dir(dir.path().join("ca")).expect("made");
    let error = open(0o777).err().expect("refused").to_string();
    assert!(error.contains("others may write to"), "{error}");
    open(0o755).expect("made");
    assert!(open(0o770).is_err());
}

#[test]
fn a_backup_has_all_files_and_no_others() {
    let (dir, authority) = authority();
    let ca = dir.path().join("ca");
    fs::write(ca.join("notes.txt"), "mine").expect("written");
    authority.add_root().expect("added");
    let files = CertificateAuthority::files(&ca).expect("read");
    let copy = dir.path().join("copy");
    for (name, content) in &files {
        assert!(CertificateAuthority::is_file(name), "{}", name.display());
        let path = copy.join(name);
        files::create_private_dir(path.parent().expect("a parent")).expect("made");
        files::write_private(&path, content).expect("written");
    }
    assert_eq!(files.len(), 7);
    let copied = AuthorityOptions { dir: copy, ..options(dir.path()) };
    assert_eq!(CertificateAuthority::open(copied).expect("opened").roots(), authority.roots());
    for foreign in
        ["notes.txt", "lock", "../root.pem", "/root.pem", "roots/x/root.pem", "roots/../root.pem", ""]
    {
        assert!(!CertificateAuthority::is_file(Path::new(foreign)), "{foreign}");
    }
}

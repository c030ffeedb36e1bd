//! Enrolment, renewal and trust against a real authority behind real TLS and gRPC, in this process.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicI64, Ordering};

use meshwork_identity::{CertificateAuthority, Revocations, bootstrap_client_config};

use super::*;
use crate::fixture::{Behaviour, ControlPlane, DAY, WEB, id, until};

impl ControlPlane {
    /// Puts an SVID on disk as an earlier process would have.
    fn left_behind(&self, lifetime: Duration) {
        let state = State::open(&self.dir.path().join("web")).expect("opened");
        let svid = self.signer.authority.issue(&id(WEB), lifetime, &[]).expect("issued");
        state.store(&svid).expect("stored");
    }

    /// Trusts another root beside the one that issues; gives both.
    fn add_root(&self) -> (String, String) {
        let issuer = self.signer.authority.issuer().root;
        let next = self.signer.authority.add_root().expect("added");
        self.publish();
        (issuer, next)
    }

    /// Issues under the other root.
    fn switch(&self, to: &str) {
        self.signer.authority.switch(to).expect("switched");
        self.renew();
        self.publish();
    }
}

/// Keeps it fresh beside the test, to its end.
fn keep(enrolled: Enrolled) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { enrolled.keep_fresh("web-1").await })
}

async fn refused(enrolment: &Enrolment) -> String {
    enrol(enrolment).await.err().expect("refused").to_string()
}

#[tokio::test]
async fn a_token_gives_an_identity_that_survives_restarts_without_it() {
    let control_plane = ControlPlane::start().await;
    let first = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    assert_eq!(first.identity.id(), &id(WEB));
    let serial = first.identity.svid().serial();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&control_plane.identity_file()), 0o600);
    assert_eq!(mode(&control_plane.dir.path().join("web")), 0o700);
    drop(first);
    let again = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    assert_eq!(again.identity.svid().serial(), serial);
    drop(again);
    control_plane.task.abort();
    enrol(&control_plane.enrolment(None)).await.expect("also without a control plane");
}

#[tokio::test]
async fn renewal_needs_no_token_and_is_on_disk_before_it_is_used() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let before = (enrolled.identity.svid().serial(), enrolled.identity.svid().key_pem());
    enrolled.renew().await.expect("renewed");
    let after = enrolled.identity.svid();
    assert_ne!(before.0, after.serial());
    assert_ne!(*before.1, *after.key_pem(), "a new key each time");
    drop(enrolled);
    let again = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    assert_eq!(again.identity.svid().serial(), after.serial());
}

#[tokio::test]
async fn a_certificate_past_half_of_its_life_is_renewed_in_the_background() {
    let control_plane = ControlPlane::start().await;
    // It began 60 s ago, as all do, so with 40 s left its half has passed.
    control_plane.left_behind(Duration::from_secs(40));
    let enrolled = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let identity = enrolled.identity.clone();
    let keeper = keep(enrolled);
    let left = || identity.expires_at().duration_since(SystemTime::now()).expect("valid");
    until("it is renewed", || left() > Duration::from_hours(23)).await;
    keeper.abort();
}

#[tokio::test]
async fn renewal_outlasts_an_absent_control_plane() {
    let control_plane = ControlPlane::start().await;
    control_plane.left_behind(Duration::from_secs(40));
    let enrolled = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let serial = enrolled.identity.svid().serial();
    control_plane.behaves(Behaviour::LosesAnswer);
    let error = enrolled.renew().await.expect_err("failed");
    assert!(matches!(error, EnrolError::Unready { .. }), "{error}");
    assert!(error.to_string().ends_with("answers, but does not sign now: killed"), "{error}");
    assert_eq!(enrolled.identity.svid().serial(), serial);
    enrolled.renew().await.expect("later it is back");
    assert_ne!(enrolled.identity.svid().serial(), serial);
}

#[tokio::test]
async fn an_answer_for_somebody_else_changes_nothing() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let before = fs::read(control_plane.identity_file()).expect("there");
    let cart = id("spiffe://mesh.local/ns/shop/sa/cart");
    let key = Key::generate().expect("a key");
    let csr = key.unnamed_csr_pem().expect("a request");
    let chain = control_plane.signer.authority.sign(&csr, &cart, DAY, &[]).expect("signed");
    let error = enrolled.take(&chain, key).expect_err("refused").to_string();
    assert!(error.contains("the certificate is that of spiffe://mesh.local/ns/shop/sa/cart"), "{error}");
    assert_eq!(enrolled.identity.id(), &id(WEB));
    assert_eq!(fs::read(control_plane.identity_file()).expect("there"), before);
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_still_gives_its_certificate() {
    let control_plane = ControlPlane::start().await;
    control_plane.behaves(Behaviour::LosesAnswer);
    let enrolled =
        enrol(&control_plane.enrolment(Some("join"))).await.expect("asked again with the same key");
    assert_eq!(enrolled.identity.id(), &id(WEB));
    assert!(!control_plane.dir.path().join("web/pending-key.pem").exists());
}

#[tokio::test]
async fn a_process_killed_while_asking_asks_again_with_the_same_key() {
    let control_plane = ControlPlane::start().await;
    let state = State::open(&control_plane.dir.path().join("web")).expect("opened");
    let key = state.pending_key().expect("a key").pem();
    let csr = state.pending_key().expect("the same").unnamed_csr_pem().expect("a request");
    control_plane.signer.spend("join", &csr).expect("spent");
    drop(state);
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    assert_eq!(*enrolled.identity.svid().key_pem(), *key);
}

#[tokio::test]
async fn without_a_usable_certificate_the_error_says_what_to_do() {
    let control_plane = ControlPlane::start().await;
    let check = async |words: &str| {
        let error = refused(&control_plane.enrolment(None)).await;
        assert!(error.contains(words) && error.contains("meshwork token create"), "{error}");
    };
    check("there is no identity in").await;
    // Ends within the second in which it is issued.
    control_plane.left_behind(Duration::from_nanos(1));
    check("the certificate of spiffe://mesh.local/ns/shop/sa/web expired at 20").await;
    fs::write(control_plane.identity_file(), "-----BEGIN nothing").expect("written");
    check("identity.pem is damaged").await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("a token heals all of it");
    assert_eq!(enrolled.identity.id(), &id(WEB));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_used() {
    let (here, elsewhere) = (ControlPlane::start().await, ControlPlane::start().await);
    elsewhere.left_behind(DAY);
    let mut enrolment = elsewhere.enrolment(None);
    enrolment.trust_bundle = here.dir.path().join("root.pem");
    let error = refused(&enrolment).await;
    assert!(error.contains("not valid under the trust bundle"), "{error}");
}

#[tokio::test]
async fn refusals_are_final_and_told() {
    let control_plane = ControlPlane::start().await;
    assert_eq!(
        refused(&control_plane.enrolment(Some("wrong"))).await,
        "the control plane refuses the certificate: unknown token"
    );
    let error = refused(&control_plane.enrolment(Some("bad\u{1}token"))).await;
    assert!(error.contains("the token has characters"), "{error}");
}

#[test]
fn that_whoever_answers_is_not_believed_is_no_word_of_the_control_plane() {
    let check = |cause: &str, is_no: bool, is_distrust: bool| {
        let address = "127.0.0.1:1".parse().expect("an address");
        let error = EnrolError::Unreachable { address, cause: cause.to_owned() };
        assert_eq!((error.is_no(), error.is_distrust()), (is_no, is_distrust), "{cause}");
    };
    check("received fatal alert: CertificateUnknown", true, true);
    check("received fatal alert: UnknownCA", true, true);
    check("invalid peer certificate: UnknownIssuer", false, true);
    check("Connection refused (os error 111)", false, false);
}

#[tokio::test]
async fn one_state_directory_serves_one_process() {
    let control_plane = ControlPlane::start().await;
    let first = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let error = refused(&control_plane.enrolment(None)).await;
    assert!(error.contains("another process uses the identity in"), "{error}");
    drop(first);
    enrol(&control_plane.enrolment(None)).await.expect("free again");
}

#[tokio::test]
async fn an_unusable_trust_bundle_is_named() {
    let control_plane = ControlPlane::start().await;
    let mut enrolment = control_plane.enrolment(Some("join"));
    enrolment.trust_bundle = control_plane.dir.path().join("none.pem");
    let error = refused(&enrolment).await;
    assert!(error.contains("none.pem"), "{error}");
}

#[tokio::test]
async fn a_control_plane_that_is_not_the_trusted_one_gets_no_token() {
    let (trusted, other) = (ControlPlane::start().await, ControlPlane::start().await);
    let bundle = trusted.signer.authority.bundle();
    let server = control_plane_id("mesh.local").expect("an ID");
    let channel = channel_over(bootstrap_client_config(&bundle, &server), other.address);
    let asker = Asker { channel, address: other.address, lifetime: None };
    let csr = Key::generate().expect("a key").unnamed_csr_pem().expect("a request");
    let error = asker.ask(&csr, Wish::Token("join")).await.expect_err("refused").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert_eq!(other.signer.tokens.lock().expect("whole")["join"].1, None);
}

#[tokio::test]
async fn trust_is_followed_kept_and_used_at_the_next_start() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let identity = enrolled.identity.clone();
    let keeper = keep(enrolled);
    let (issuer, next) = control_plane.add_root();
    until("both roots are trusted", || identity.bundle().fingerprints() == [&*issuer, &*next]).await;
    let revoked = Revocations::new([id("spiffe://mesh.local/ns/shop/sa/evil")], []);
    let trust = identity.trust().as_ref().clone().with_revoked(revoked.clone());
    control_plane.signer.trust(trust.clone());
    until("the revocation is known", || *identity.trust() == trust).await;
    let kept = control_plane.dir.path().join("web/trust.json");
    assert_eq!(fs::read_to_string(&kept).expect("kept"), trust.to_json());
    assert_eq!(fs::metadata(&kept).expect("kept").permissions().mode() & 0o777, 0o600);
    keeper.abort();
    drop(keeper.await);
    let again = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    assert_eq!(*again.identity.trust(), trust);
}

#[tokio::test]
async fn trust_that_cannot_be_used_is_refused_in_words_and_changes_nothing() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let before = enrolled.identity.trust();
    let check = |text: &str| {
        let refusal = enrolled.take_trust(text.as_bytes(), &mut None).expect_err("refused");
        assert_eq!(*enrolled.identity.trust(), *before, "{refusal}");
        assert!(!control_plane.dir.path().join("web/trust.json").exists(), "{refusal}");
    };
    check("{}");
    check("nothing");
    check(&before.to_json().replace("mesh.local", "other.org"));
    assert!(enrolled.take_trust(b"\xff", &mut None).is_err());
}

#[tokio::test]
async fn trust_that_cannot_be_kept_counts_and_the_control_plane_is_told() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let (issuer, next) = control_plane.add_root();
    // A directory at its place: no user can write a file there.
    fs::create_dir_all(control_plane.dir.path().join("web/trust.json/x")).expect("made");
    let identity = enrolled.identity.clone();
    let keeper = keep(enrolled);
    control_plane.heard("trust", "trust: it counts, but cannot be kept", &issuer).await;
    assert_eq!(identity.bundle().fingerprints(), [issuer, next]);
    keeper.abort();
}

#[tokio::test]
async fn who_is_issued_under_another_root_renews_soon_and_shows_it_on_a_new_stream() {
    let control_plane = ControlPlane::start().await;
    // The pause is an eighth of the life at most.
    *control_plane.signer.lifetime.lock().expect("whole") = Duration::from_secs(20);
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let identity = enrolled.identity.clone();
    let keeper = keep(enrolled);
    let (issuer, next) = control_plane.add_root();
    control_plane.heard("trust", "yes", &issuer).await;
    *control_plane.signer.lifetime.lock().expect("whole") = DAY;
    control_plane.switch(&next);
    control_plane.heard("trust", "yes", &next).await;
    assert_eq!(identity.trust().root_of(identity.svid().chain()), Some(next.clone()));
    control_plane.signer.authority.remove_previous(&issuer).expect("removed");
    control_plane.publish();
    until("one root is left", || identity.bundle().fingerprints() == [&*next]).await;
    keeper.abort();
}

#[tokio::test]
async fn who_slept_through_a_switch_finds_the_control_plane_by_the_newer_bundle_file() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let kept = enrolled.identity.trust().to_json();
    assert_eq!(enrolled.take_trust(kept.as_bytes(), &mut None), Ok(()));
    drop(enrolled);
    // Meanwhile another root was added and switched to; it still trusts the old one, and shows a certificate of the new.
    let (issuer, next) = control_plane.add_root();
    control_plane.switch(&next);
    let back = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let error = back.renew().await.expect_err("neither knows the new root").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    drop(back);
    let bundle = control_plane.signer.authority.bundle().pem();
    fs::write(control_plane.dir.path().join("root.pem"), bundle).expect("written");
    let back = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    assert_eq!(back.identity.bundle().fingerprints(), [&*issuer], "others are judged by what was kept");
    let identity = back.identity.clone();
    let keeper = keep(back);
    control_plane.heard("trust", "yes", &issuer).await;
    until("the new root is trusted", || identity.bundle().fingerprints().contains(&next)).await;
    keeper.abort();
}

#[tokio::test]
async fn a_root_that_was_taken_away_is_not_believed_again_because_an_old_file_has_it() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let server = control_plane_id("mesh.local").expect("an ID");
    let authority = &control_plane.signer.authority;
    let stolen = authority.issue(&server, DAY, &[]).expect("issued");
    let (old, next) = control_plane.add_root();
    let both = Trust::new(authority.bundle()).to_json();
    assert_eq!(enrolled.take_trust(both.as_bytes(), &mut None), Ok(()));
    control_plane.switch(&next);
    enrolled.renew().await.expect("under the new root");
    authority.remove_previous(&old).expect("removed");
    let new = Trust::new(authority.bundle()).to_json();
    assert_eq!(enrolled.take_trust(new.as_bytes(), &mut None), Ok(()));
    drop(enrolled);
    // Whoever has the old root's key is the control plane at the next start, and the bundle's file is as old as the mesh.
    control_plane.source.replace_svid(stolen).expect("it believes both");
    let back = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let error = back.renew().await.expect_err("not believed").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    drop(back);
    let back =
        enrol(&control_plane.enrolment(Some("join"))).await.expect("a token that was used says nothing");
    back.renew().await.expect_err("not believed");
    // It is trusted again by whom is believed.
    assert_eq!(back.take_trust(both.as_bytes(), &mut None), Ok(()));
    back.renew().await.expect("believed");
    let removed = |state: &State| state.removed().len();
    assert_eq!(removed(&back.state), 0);
    assert_eq!(back.take_trust(new.as_bytes(), &mut None), Ok(()));
    assert_eq!(removed(&back.state), 1);
    drop(back);
    // Whoever gives it a new token says with it whom to believe.
    let again = ("again".to_owned(), (id(WEB), None));
    control_plane.signer.tokens.lock().expect("whole").extend([again]);
    let joined = enrol(&control_plane.enrolment(Some("again"))).await.expect("by the old root");
    joined.renew().await.expect("believed");
}

#[tokio::test]
async fn a_control_plane_that_is_revoked_is_not_believed_by_whatever_file() {
    let (control_plane, other) = (ControlPlane::start().await, ControlPlane::start().await);
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let authority = &control_plane.signer.authority;
    let revoked = Revocations::new([], [control_plane.source.svid().serial()]);
    let trust = Trust::new(authority.bundle()).with_revoked(revoked);
    assert_eq!(enrolled.take_trust(trust.to_json().as_bytes(), &mut None), Ok(()));
    drop(enrolled);
    // With a root more, the file's bundle counts beside what was kept.
    let both = format!("{}{}", authority.bundle().pem(), other.signer.authority.bundle().pem());
    fs::write(control_plane.dir.path().join("root.pem"), both).expect("written");
    let back = enrol(&control_plane.enrolment(None)).await.expect("from disk");
    let error = back.renew().await.expect_err("refused").to_string();
    assert!(error.contains("is revoked"), "{error}");
    control_plane.renew();
    back.renew().await.expect("another certificate is good");
}

#[test]
fn of_roots_that_are_gone_the_last_ones_are_remembered() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = State::open(dir.path()).expect("opened");
    let name = |number: usize| format!("{number:064x}");
    for number in 0..100 {
        state.note_removed(&[name(number), name(number + 1)], &[name(number + 1)]).expect("noted");
    }
    let removed = state.removed();
    assert_eq!(removed.len(), 64);
    assert!(removed.contains(&name(99)) && !removed.contains(&name(0)) && !removed.contains(&name(100)));
}

#[tokio::test]
async fn a_state_directory_that_others_may_write_to_is_not_used() {
    let control_plane = ControlPlane::start().await;
    let state = control_plane.dir.path().join("web");
    fs::create_dir(&state).expect("made");
    let allow = |mode| fs::set_permissions(&state, fs::Permissions::from_mode(mode)).expect("set");
    allow(0o777);
    // Somebody waits there with a key that they know.
    let planted = Key::generate().expect("a key").pem();
    fs::write(state.join("pending-key.pem"), planted.as_bytes()).expect("planted");
    let error = refused(&control_plane.enrolment(Some("join"))).await;
    assert!(error.contains("others may write to"), "{error}");
    assert_eq!(control_plane.signer.tokens.lock().expect("whole")["join"].1, None, "nothing was asked");
    allow(0o755);
    enrol(&control_plane.enrolment(Some("join"))).await.expect("its owner's alone");
}

#[test]
fn a_certificate_whose_signer_is_revoked_is_out_of_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = CertificateAuthority::open_or_create(&dir.path().join("ca"), "mesh.local").expect("made");
    let svid = authority.issue(&id(WEB), DAY, &[]).expect("issued");
    let check = |serials: Vec<String>, expected: bool| {
        let trust = Trust::new(authority.bundle()).with_revoked(Revocations::new([], serials));
        assert_eq!(is_out_of_place(&trust, &svid), expected);
    };
    check(Vec::new(), false);
    check(vec!["abc".to_owned()], false);
    check(vec![svid.serial()], true);
    check(vec![authority.issuer().serial], true);
}

#[tokio::test]
async fn a_certificate_of_a_mesh_that_is_no_more_gives_way_to_the_token() {
    let (before, after) = (ControlPlane::start().await, ControlPlane::start().await);
    let enrolled = enrol(&before.enrolment(Some("join"))).await.expect("enrolled");
    let kept = enrolled.identity.trust().to_json();
    assert_eq!(enrolled.take_trust(kept.as_bytes(), &mut None), Ok(()));
    drop(enrolled);
    let enrolment = |token| Enrolment { state: before.dir.path().join("web"), ..after.enrolment(token) };
    let enrolled = enrol(&enrolment(Some("join"))).await.expect("by token");
    assert_eq!(enrolled.identity.bundle().pem(), after.signer.authority.bundle().pem());
    enrolled.renew().await.expect("it is taken");
}

#[tokio::test]
async fn a_certificate_that_only_what_was_kept_vouches_for_is_good_where_the_control_plane_takes_it() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let (issuer, next) = control_plane.add_root();
    let trust = Trust::new(control_plane.signer.authority.bundle());
    assert_eq!(enrolled.take_trust(trust.to_json().as_bytes(), &mut None), Ok(()));
    control_plane.switch(&next);
    enrolled.renew().await.expect("under the new root");
    drop(enrolled);
    control_plane.signer.authority.remove_previous(&issuer).expect("removed");
    control_plane.publish();
    // The bundle's file is as old as the mesh, and the token is spent.
    let back = enrol(&control_plane.enrolment(Some("join"))).await.expect("by its certificate");
    assert_eq!(back.identity.trust().root_of(back.identity.svid().chain()), Some(next));
    control_plane.task.abort();
    drop(back);
    let alone = enrol(&control_plane.enrolment(Some("join"))).await.expect("also when nobody is there");
    assert_eq!(alone.identity.id(), &id(WEB));
}

#[tokio::test]
async fn a_new_token_replaces_a_certificate_that_the_control_plane_refuses() {
    let control_plane = ControlPlane::start().await;
    drop(enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled"));
    let asked = || *control_plane.signer.attempts.lock().expect("whole");
    let before = asked();
    drop(enrol(&control_plane.enrolment(Some("join"))).await.expect("from disk"));
    assert_eq!(asked(), before, "a token that was tried is no reason to ask");
    // Its certificate is revoked, and it has been given a new token.
    let serial = enrol(&control_plane.enrolment(None)).await.expect("from disk").identity.svid().serial();
    let revoked = Revocations::new([], [serial.clone()]);
    let trust = Trust::new(control_plane.signer.authority.bundle()).with_revoked(revoked);
    control_plane.source.replace_trust(trust).expect("ours");
    let again = ("again".to_owned(), (id(WEB), None));
    control_plane.signer.tokens.lock().expect("whole").extend([again]);
    let enrolled = enrol(&control_plane.enrolment(Some("again"))).await.expect("by token");
    assert_ne!(enrolled.identity.svid().serial(), serial);
    drop(enrolled);
    // A new token of one that is still good is kept for later.
    let later = ("later".to_owned(), (id(WEB), None));
    control_plane.signer.tokens.lock().expect("whole").extend([later]);
    drop(enrol(&control_plane.enrolment(Some("later"))).await.expect("by its certificate"));
    assert_eq!(control_plane.signer.tokens.lock().expect("whole")["later"].1, None);
    control_plane.task.abort();
    drop(enrol(&control_plane.enrolment(Some("more"))).await.expect("nobody is there to say no"));
}

#[tokio::test]
async fn a_damaged_file_of_trust_is_not_used() {
    let control_plane = ControlPlane::start().await;
    drop(enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled"));
    for damage in ["", "{}", "{\"trust_domains\": {}}"] {
        fs::write(control_plane.dir.path().join("web/trust.json"), damage).expect("written");
        let back = enrol(&control_plane.enrolment(None)).await.expect("by the bundle's file");
        assert_eq!(back.identity.bundle().pem(), control_plane.signer.authority.bundle().pem());
    }
}

/// A clock that runs, and can be set.
#[derive(Clone, Default)]
struct Watch(Arc<AtomicI64>);

impl Watch {
    fn clock(&self) -> Clock {
        let ahead = self.0.clone();
        Clock::set_by(move || {
            let seconds = ahead.load(Ordering::Relaxed);
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
        })
    }

    fn set(&self, hours: i64) {
        self.0.store(hours * 3600, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_jump_of_the_clock_is_noticed_within_seconds_and_not_by_all_at_once() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let svid = enrolled.identity.svid();
    // From here on nothing waits for a peer.
    tokio::time::pause();
    let mut waited = Vec::new();
    for _ in 0..50 {
        let watch = Watch::default();
        let clock = watch.clock();
        let plan = schedule::Plan::new(clock.now().wall, svid.not_after(), clock.now(), 0.5);
        let due = due(&enrolled.identity, &svid, &plan, &clock, 0);
        tokio::pin!(due);
        let early = tokio::time::timeout(Duration::from_hours(1), &mut due).await;
        assert!(early.is_err(), "half of its life is far away");
        watch.set(48);
        let since = tokio::time::Instant::now();
        due.await;
        waited.push(since.elapsed());
    }
    waited.sort();
    assert!(waited[49] <= Duration::from_secs(40), "{waited:?}");
    assert!(waited[40].checked_sub(waited[10]).unwrap() > Duration::from_secs(5), "{waited:?}");
}

#[tokio::test]
async fn a_clock_that_is_back_before_anybody_looked_changes_nothing() {
    let control_plane = ControlPlane::start().await;
    let enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    let (svid, watch) = (enrolled.identity.svid(), Watch::default());
    tokio::time::pause();
    let clock = watch.clock();
    let plan = schedule::Plan::new(clock.now().wall, svid.not_after(), clock.now(), 0.5);
    let due = due(&enrolled.identity, &svid, &plan, &clock, 0);
    tokio::pin!(due);
    for hours in [-48, 0, 48, 0] {
        watch.set(hours);
        if hours <= 0 {
            assert!(tokio::time::timeout(Duration::from_mins(10), &mut due).await.is_err(), "{hours}");
        }
    }
}

#[tokio::test]
async fn after_days_that_were_none_it_heals_without_a_token_and_there_was_no_storm() {
    let control_plane = ControlPlane::start().await;
    let watch = Watch::default();
    let mut enrolled = enrol(&control_plane.enrolment(Some("join"))).await.expect("enrolled");
    enrolled.clock = watch.clock();
    let (identity, serial) = (enrolled.identity.clone(), enrolled.identity.svid().serial());
    let attempts = || *control_plane.signer.attempts.lock().expect("whole");
    let before = attempts();
    // Past its end by our clock, and by that of the control plane, which refuses us.
    control_plane.behaves(Behaviour::Down);
    watch.set(48);
    let keeper = keep(enrolled);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!((1..=4).contains(&(attempts() - before)), "{}", attempts() - before);
    assert_eq!(identity.svid().serial(), serial, "what it has stays");
    let told = identity.renewal();
    assert!(told.due.is_some() && told.failure.is_some(), "{told:?}");
    control_plane.behaves(Behaviour::Good);
    watch.set(0);
    until("it is renewed", || identity.svid().serial() != serial).await;
    let after = attempts();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(attempts(), after, "once");
    let renewed = identity.renewal();
    assert!(renewed.last > told.last && renewed.failure.is_some(), "{renewed:?}");
    keeper.abort();
}

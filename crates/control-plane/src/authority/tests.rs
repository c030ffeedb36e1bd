//! An authority with peers that are told and answer by hand; two of them on one store.

use std::path::Path;
use std::time::{Duration, Instant};

use meshwork_identity::Svid;
use meshwork_model::mesh::{Config, Labels};
use meshwork_xds::Node;
use meshwork_xds::grpc::PeerIdentity;
use meshwork_xds::sds::SecretSource as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Extensions;

use super::secrets::Asker;
use super::*;
use crate::serve::PeerChain;
use crate::store::kv::{Found, Keys, Operation, Outcome, Revision, Transaction, Watch};
use crate::store::sqlite::Sqlite;
use crate::store::{Enrolment, KvError};

const HOUR: Duration = Duration::from_hours(1);
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn options(dir: &Path) -> Options {
    Options {
        svid_lifetime: HOUR,
        intermediate_lifetime: Duration::from_hours(24),
        root_lifetime: Duration::from_hours(24 * 365),
        ..Options::on_loopback(dir.to_owned())
    }
}

/// A store that others have, too.
#[derive(Debug)]
struct Shared(Sqlite);

impl Kv for Shared {
    fn read(&self, keys: Keys<'_>, at: Option<Revision>) -> Result<Found, KvError> {
        self.0.read(keys, at)
    }
    fn commit(&self, transaction: &Transaction) -> Result<Outcome, KvError> {
        self.0.commit(transaction)
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn max_operations(&self) -> usize {
        self.0.max_operations()
    }
    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn Watch> {
        self.0.watch(prefix, from)
    }
    fn compact(&self, at: Revision) -> Result<(), KvError> {
        self.0.compact(at)
    }
}

/// A control plane, as far as the authority asks.
struct Plane {
    name: &'static str,
    kv: Arc<dyn Kv>,
    authority: Arc<Authority>,
    secrets: Secrets,
    tasks: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Plane {
    fn start(name: &'static str, kv: &Arc<dyn Kv>, ca: &Path, change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = Options { ca: Some(ca.to_owned()), ..options(dir.path()) };
        change(&mut options);
        let names = ["web-1", "web-2", "cart"];
        let enrolments = names.map(|name| Enrolment {
            workload: Key::new("shop", name),
            service_account: name.split('-').next().unwrap_or(name).to_owned(),
            labels: Labels::default(),
        });
        let world = Arc::new(World::new("mesh.local", Config::default(), enrolments.into()));
        let put = Operation::Put { key: format!("/meshwork/replicas/{name}"), value: "1".to_owned() };
        kv.commit(&Transaction { operations: vec![put], ..Transaction::default() }).expect("written");
        let parts = Parts { options: &options, kv: Arc::clone(kv), world, replica: name.to_owned() };
        let authority = Authority::open(parts).expect("opened");
        let tasks = tokio::spawn(Arc::clone(&authority).run());
        let secrets = Secrets(Arc::clone(&authority));
        Self { name, kv: Arc::clone(kv), authority, secrets, tasks, _dir: dir }
    }

    /// Signs for a workload, as enrolment would.
    fn enrol(&self, name: &'static str) -> Svid {
        let account = name.split('-').next().unwrap_or(name);
        let id = SpiffeId::workload("mesh.local", "shop", account).expect("valid");
        let svid = self.authority.signing().issue(&id, HOUR, &[]).expect("signed");
        let workload = Some(Key::new("shop", name));
        let chain_pem = &svid.chain_pem();
        self.authority.issued(Issued { id, workload, shown: None, chain_pem, is_delegated: false });
        svid
    }

    /// Signs for whom shows a certificate.
    fn renew(&self, earlier: &Svid) -> Svid {
        let (id, shown) = (earlier.id().clone(), Some(earlier.serial()));
        let svid = self.authority.signing().issue(&id, HOUR, &[]).expect("signed");
        let chain_pem = &svid.chain_pem();
        self.authority.issued(Issued { id, workload: None, shown, chain_pem, is_delegated: false });
        svid
    }

    fn follow(&self, name: &str, svid: &Svid) -> Result<Asker, String> {
        let mut extensions = Extensions::new();
        extensions.insert(PeerIdentity(svid.id().clone()));
        extensions.insert(PeerChain(svid.chain().into()));
        let node = Node { metadata: json!({"NAME": name}), ..Node::default() };
        self.secrets.admit(&extensions, &node).map_err(|denied| denied.0)
    }

    /// Takes what there is, and says so.
    fn acknowledge(&self, asker: &Asker) -> Trust {
        let names = ["trust".to_owned()];
        let (_, secret) = self.secrets.secrets(asker, &names).pop().expect("trust");
        self.secrets.acknowledged(asker, &names, &secret.version(), None);
        let SecretValue::Generic(json) = secret else { panic!("no trust") };
        Trust::from_json(std::str::from_utf8(&json).expect("text"), "mesh.local").expect("trust")
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.authority.status()).expect("JSON")
    }

    async fn until(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status();
            if test(&status) {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "{}: {what}: {status:#}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_waiting(&self, step: &str, waiting: &[(&str, &str)]) -> Value {
        let is_so = |status: &Value| {
            let rotation = &status["rotation"];
            let all = rotation["waiting"].as_array().map_or(&[][..], Vec::as_slice);
            let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
            let all: Vec<(String, String)> =
                all.iter().map(|one| (text(one, "name"), text(one, "reason"))).collect();
            let all: Vec<(&str, &str)> = all.iter().map(|(name, why)| (&**name, &**why)).collect();
            rotation["step"] == step && all == waiting
        };
        self.until(&format!("{step} {waiting:?}"), is_so).await
    }

    /// Ends as `kill -9` would, and is found to be gone.
    fn kill(&self) {
        self.tasks.abort();
        let delete = Operation::Delete { key: format!("/meshwork/replicas/{}", self.name) };
        self.kv.commit(&Transaction { operations: vec![delete], ..Transaction::default() }).expect("written");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

fn store(dir: &Path) -> Arc<dyn Kv> {
    Arc::new(Sqlite::open(dir).expect("a store"))
}

fn is_over(status: &Value) -> bool {
    status["rotation"]["running"] == false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_for_each_proof_and_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let plane = Plane::start("a", &store(dir.path()), &dir.path().join("ca"), |_| ());
    let svid = plane.enrol("web-1");
    let asker = plane.follow("web-1", &svid).expect("admitted");
    let before = plane.authority.roots().active;
    assert_eq!(plane.acknowledge(&asker).issuer(), Some(&*before));
    let (bound, offline) = (plane.authority.started + plane.authority.lifetime, "offline");

    plane.authority.start(&Wish::default(), "ann").expect("started");
    let waiting = [("shop/cart", offline), ("shop/web-1", "notAcknowledged"), ("shop/web-2", offline)];
    let status = plane.until_waiting("added", &waiting).await;
    let until = status["rotation"]["waiting"][0]["until"].as_str().expect("a time").to_owned();
    assert!(until >= text(bound), "{until}");
    assert_eq!(plane.acknowledge(&asker).own().fingerprints().len(), 2);
    plane.until_waiting("added", &[("shop/cart", offline), ("shop/web-2", offline)]).await;
    let wish = Wish { without: vec!["shop/cart".to_owned()], without_offline: true };
    plane.authority.start(&wish, "ann").expect("goes on");
    plane.until_waiting("switched", &[("shop/web-1", "otherRoot")]).await;
    let is_told = |_: &Value| plane.authority.published.borrow().trust.issuer() != Some(&*before);
    plane.until("told", is_told).await;
    let trust = plane.acknowledge(&asker);
    // The control plane's own certificate was the first under it.
    let own = plane.authority.identity();
    assert_eq!(own.trust().root_of(own.svid().chain()).as_deref(), trust.issuer());
    // The renewal alone proves nothing: it may never have come to the peer.
    let next = plane.renew(&svid);
    tokio::time::sleep(Duration::from_millis(500)).await;
    plane.until_waiting("switched", &[("shop/web-1", "otherRoot")]).await;
    let again = plane.follow("web-1", &next).expect("admitted");
    plane.secrets.ended(&asker);
    let status = plane.until("the end", is_over).await;
    assert_eq!(status["rotation"]["step"], "removed");
    assert_eq!(plane.acknowledge(&again).own().fingerprints().len(), 1);
    let bundle = std::fs::read_to_string(plane.authority.trust_bundle()).expect("the bundle");
    assert_eq!(bundle, plane.authority.signing().bundle().pem());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_control_planes_one_drives_and_the_other_takes_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let kv: Arc<dyn Kv> = Arc::new(Shared(Sqlite::open(dir.path()).expect("a store")));
    let ca = dir.path().join("ca");
    let (a, b) = (Plane::start("a", &kv, &ca, |_| ()), Plane::start("b", &kv, &ca, |_| ()));
    let (web, cart) = (a.enrol("web-1"), b.enrol("cart"));
    let of_web = a.follow("web-1", &web).expect("admitted");
    let of_cart = b.follow("cart", &cart).expect("admitted");
    let wish = Wish { without: Vec::new(), without_offline: true };
    b.authority.start(&wish, "ann").expect("started");
    // Each tells of the other's peer.
    let waiting = [("shop/cart", "notAcknowledged"), ("shop/web-1", "notAcknowledged")];
    a.until_waiting("added", &waiting).await;
    b.until_waiting("added", &waiting).await;
    a.acknowledge(&of_web);
    b.acknowledge(&of_cart);
    let waiting = [("shop/cart", "otherRoot"), ("shop/web-1", "otherRoot")];
    a.until_waiting("switched", &waiting).await;
    b.until_waiting("switched", &waiting).await;
    assert_eq!(a.authority.roots(), b.authority.roots());
    for plane in [&a, &b] {
        assert_eq!(plane.authority.signing().issuer().root, a.authority.roots().active, "{}", plane.name);
    }
    assert_eq!(b.status()["intermediates"].as_array().map(Vec::len), Some(2));

    // The one that drives is killed; its peer comes to the other.
    let driver = a.authority.lock().read.driver.clone().expect("somebody drives").value.replica;
    let (dead, alive) = if driver == "a" { (&a, &b) } else { (&b, &a) };
    dead.kill();
    let web = alive.renew(&web);
    alive.follow("web-1", &web).expect("admitted");
    let cart = alive.renew(&cart);
    alive.follow("cart", &cart).expect("admitted");
    let status = alive.until("the end", is_over).await;
    assert_eq!(status["rotation"]["step"], "removed");
    let read = Read::all(&*kv).expect("read");
    assert!(read.replicas.is_empty() && read.driver.is_none(), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_let_go_and_not_let_in_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let plane = Plane::start("a", &store(dir.path()), &dir.path().join("ca"), |_| ());
    let (web, other) = (plane.enrol("web-1"), plane.enrol("web-2"));
    let asker = plane.follow("web-1", &web).expect("admitted");
    let mut changes = plane.secrets.changes(&asker);
    let ends = tokio::spawn(plane.authority.revoked(web.chain().into()));
    let subject = plane.authority.subject(None, Some(&web.serial())).expect("valid");
    let revoked = plane.authority.revoke(subject.clone(), "lost", "ann").expect("revoked");
    assert_eq!(revoked.ends, Some(seconds(web.not_after())));
    tokio::time::timeout(DEADLINE, ends).await.expect("told").expect("no panic");
    while changes.changed().await.is_ok() {}
    assert!(plane.follow("web-1", &web).expect_err("refused").contains("is revoked: lost"));
    assert_eq!(plane.authority.refuses(other.id(), Some(&other.serial())), None);
    let asker = plane.follow("web-2", &other).expect("its sibling is well");
    assert!(plane.acknowledge(&asker).revoked().revokes(web.id(), &web.serial()));
    plane.authority.unrevoke(&subject).expect("taken back");
    plane.follow("web-1", &web).expect("admitted again");
    // With the name of another one's workload nobody is told anything.
    assert!(plane.follow("cart", &web).expect_err("refused").contains("is enrolled with"));
    for own in [plane.authority.identity().svid().serial(), plane.authority.signing().issuer().serial] {
        let subject = plane.authority.subject(None, Some(&own)).expect("valid");
        let error = plane.authority.revoke(subject, "", "ann").expect_err("refused");
        assert!(matches!(error, RevokeError::Invalid(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_of_nobody_is_told_from_one_of_somebody() {
    let dir = tempfile::tempdir().expect("a directory");
    let plane = Plane::start("a", &store(dir.path()), &dir.path().join("ca"), |_| ());
    let web = plane.enrol("web-1");
    let known = |identity: Option<&str>, serial: Option<&str>| {
        plane.authority.known(&plane.authority.subject(identity, serial).expect("valid"))
    };
    let check = |known: Known, holders: &[&str], near: &[&str], note: Option<&str>| {
        assert_eq!(known.holders, holders, "{known:?}");
        assert_eq!(known.near, near, "{known:?}");
        assert_eq!(known.note.is_some(), note.is_some(), "{known:?}");
        assert!(known.note.unwrap_or_default().contains(note.unwrap_or_default()));
    };
    let (of_web, of_cart) = (web.id().as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
    check(known(Some("shop/web"), None), &["shop/web-1", "shop/web-2"], &[], None);
    check(known(Some("shop/wbe"), None), &[], &[of_web], Some("nobody is enrolled as"));
    // A workload's name is not that of its account.
    check(known(Some("shop/web-1"), None), &[], &[of_web], Some("nobody is enrolled as"));
    check(known(Some("default/cart"), None), &[], &[of_cart], Some("nobody is enrolled as"));
    check(known(Some("spiffe://partner.example/x"), None), &[], &[], Some("is not federated"));
    let serial = web.serial();
    check(known(None, Some(&serial)), &["shop/web-1"], &[], None);
    check(known(None, Some(&serial[..10])), &[], &[&serial], Some("knows nobody who has the certificate"));
    check(known(None, Some("2")), &[], &[], Some("since its start at"));
    // Who is revoked is known still.
    let subject = plane.authority.subject(Some("shop/web"), None).expect("valid");
    plane.authority.revoke(subject, "", "ann").expect("revoked");
    check(known(Some("shop/web"), None), &["shop/web-1", "shop/web-2"], &[], None);
    let other = plane.authority.subject(Some("shop/wbe"), None).expect("valid");
    let error = plane.authority.unrevoke(&other).expect_err("there is none").to_string();
    assert!(error.contains("is not revoked"), "{error}");
    assert!(error.ends_with(&format!("did you mean {of_web}?")), "{error}");
    for root in plane.authority.signing().roots() {
        let subject = plane.authority.subject(None, Some(&root.serial)).expect("valid");
        let error = plane.authority.revoke(subject, "", "ann").expect_err("refused").to_string();
        assert!(error.contains("that is a root"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_whose_intermediate_is_revoked_signs_by_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let kv: Arc<dyn Kv> = Arc::new(Shared(Sqlite::open(dir.path()).expect("a store")));
    let ca = dir.path().join("ca");
    let (a, b) = (Plane::start("a", &kv, &ca, |_| ()), Plane::start("b", &kv, &ca, |_| ()));
    let (web, before) = (b.enrol("web-1"), b.authority.signing().issuer().serial);
    let ends = tokio::spawn(a.authority.revoked(web.chain().into()));
    let subject = a.authority.subject(None, Some(&before)).expect("valid");
    a.authority.revoke(subject, "its host was taken over", "ann").expect("revoked");
    // Who came with what it signed is let go.
    tokio::time::timeout(DEADLINE, ends).await.expect("told").expect("no panic");
    b.until("another intermediate", |_| b.authority.signing().issuer().serial != before).await;
    let is_good = |_: &Value| {
        let trust = Arc::clone(&b.authority.published.borrow().trust);
        trust.judge(b.authority.identity().svid().chain(), SystemTime::now()).is_ok()
            && trust.revoked().revokes_serial(&before)
    };
    b.until("a certificate of its own under it", is_good).await;
    let trust = Arc::clone(&a.authority.published.borrow().trust);
    assert!(trust.judge(web.chain(), SystemTime::now()).is_err());
    trust.judge(b.enrol("cart").chain(), SystemTime::now()).expect("good");
}

#[test]
fn a_control_plane_that_was_away_when_its_intermediate_was_revoked_signs_by_another_from_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let kv = store(dir.path());
    let open = || {
        let world = Arc::new(World::new("mesh.local", Config::default(), Vec::new()));
        in_test(dir.path(), Arc::clone(&kv), world)
    };
    let serial = open().signing().issuer().serial;
    assert_eq!(open().signing().issuer().serial, serial, "it is kept");
    let subject = Subject::Serial(serial.clone());
    let (reason, by) = ("its host was taken over".to_owned(), "ann".to_owned());
    record::put_revoked(&*kv, &Revoked { subject, reason, by, at: 1, ends: None }).expect("kept");
    let again = open();
    assert_ne!(again.signing().issuer().serial, serial);
    let shown = again.identity().svid();
    again.identity().trust().judge(shown.chain(), SystemTime::now()).expect("good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_soon_is_a_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let plane = Plane::start("a", &store(dir.path()), &dir.path().join("ca"), |options| {
        options.root_lifetime = Duration::from_hours(24 * 10);
    });
    let problems: Vec<String> = plane.authority.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("the active root") && problems[0].contains("meshwork ca rotate"),
        "{problems:?}"
    );
}

#[test]
fn rotations_are_known_by_their_names() {
    assert_eq!(short("0123456789abcdef0123"), "0123456789abcdef");
    assert_eq!(short("01"), "01");
    assert_eq!(text(0), "1970-01-01T00:00:00Z");
}

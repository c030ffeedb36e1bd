use super::*;
use crate::ingest::documents;
use crate::store::sqlite::Sqlite;
use meshwork_model::mesh::Config;

struct All;

impl Rights for All {
    fn may_write(&self, _: &ResourceId) -> bool {
        true
    }

    fn may_speak_for(&self, _: Option<&str>) -> bool {
        true
    }
}

/// A control plane's config, in a state directory and a folder that it may share with others.
struct Fixture {
    register: Register,
    world: Arc<World>,
}

impl Fixture {
    fn open(state: &Path, folder: Option<&Path>) -> Result<Self, OpenError> {
        let world = Arc::new(World::new("mesh.local", Config::default(), Vec::new()));
        let parts = Parts {
            kv: Arc::new(Sqlite::open(state).expect("a store")),
            world: Arc::clone(&world),
            store: Arc::new(Store::open(state).expect("a store")),
            last_good: LastGood::new(state),
        };
        Ok(Self { register: Register::open(parts, folder)?, world })
    }

    fn propose(&self, edits: Edits, dry_run: bool) -> Result<Answer, Refusal> {
        let (by, note) = ("tester".to_owned(), "a note".to_owned());
        self.register.propose(&Proposal { edits, by, note, rights: Arc::new(All), dry_run })
    }

    fn apply(&self, text: &str) -> Result<Answer, Refusal> {
        self.propose(apply(text), false)
    }

    fn services(&self) -> Vec<String> {
        self.world.mesh().config.services.keys().map(ToString::to_string).collect()
    }
}

fn apply(text: &str) -> Edits {
    Edits::Apply(vec![Source { name: "shop.yaml".to_owned(), text: text.into() }])
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{app: {name}}}, \
         ports: [{{name: http, port: {port}}}]}}\n"
    )
}

fn id(name: &str) -> ResourceId {
    ResourceId::new("Service", "shop", name)
}

/// Changes as `created Service/shop/cart`.
fn told(answer: &Answer) -> Vec<String> {
    answer.changes.iter().map(|change| format!("{:?} {}", change.action, change.id())).collect()
}

fn problems(refusal: Refusal) -> String {
    match refusal {
        Refusal::Invalid(problems) | Refusal::Owned(problems) => crate::run::lines(&problems),
        other => panic!("{other:?}"),
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn what_is_applied_is_there_with_its_history_and_again_behind_a_restart() {
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    let answer = mesh.apply(&format!("{}---\n{}", service("cart", 80), service("web", 80))).expect("applied");
    assert_eq!(
        (answer.revision, told(&answer)),
        (1, vec!["Created Service/shop/cart".to_owned(), "Created Service/shop/web".to_owned()])
    );
    let answer = mesh.apply(&format!("{}---\n{}", service("cart", 81), service("web", 80))).expect("applied");
    assert_eq!(told(&answer), ["Changed Service/shop/cart", "Unchanged Service/shop/web"]);
    assert_eq!((answer.revision, mesh.services()), (2, vec!["shop/cart".to_owned(), "shop/web".to_owned()]));
    let nothing = mesh.apply(&service("web", 80)).expect("applied");
    assert_eq!((nothing.revision, mesh.register.revision()), (2, 2));
    drop(mesh);
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    assert_eq!((mesh.register.revision(), mesh.services().len()), (2, 2));
    let object = mesh.register.object(&id("cart")).expect("there");
    assert_eq!(
        (&object["metadata"]["resourceVersion"], &object["spec"]["ports"][0]["port"]),
        (&"2".into(), &81.into())
    );
    let [newest, first] = &mesh.register.records(10, |record| record).expect("read")[..] else {
        panic!("two")
    };
    assert_eq!(
        (newest.revision, &*newest.by, &*newest.note, newest.changes.len()),
        (2, "tester", "a note", 1)
    );
    assert_eq!(first.changes[0].before, None);
    assert_eq!(newest.changes[0].before, first.changes[0].after);
}

#[test]
fn a_dry_run_changes_nothing_and_tells_all() {
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    let answer = mesh.propose(apply(&service("cart", 80)), true).expect("well");
    assert_eq!((answer.revision, told(&answer)), (0, vec!["Created Service/shop/cart".to_owned()]));
    assert_eq!((mesh.register.revision(), mesh.services()), (0, vec![]));
}

#[test]
fn an_error_anywhere_changes_nothing_and_is_told_with_its_file_and_line() {
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    let text = format!("{}---\n{}", service("cart", 80), service("web", 80).replace("selector", "selectr"));
    let refusal = mesh.apply(&text).expect_err("refused");
    let problems = problems(refusal);
    assert!(problems.contains("shop.yaml:9:8"), "{problems}");
    assert_eq!((mesh.register.revision(), mesh.services()), (0, vec![]));
    for text in ["a: [", "kind: Service", "- x", "apiVersion: v1\nkind: Servce\nmetadata: {name: a}"] {
        assert!(matches!(mesh.apply(text), Err(Refusal::Invalid(_))), "{text}");
    }
}

#[test]
fn what_others_refer_to_is_not_deleted() {
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
        spec: {parentRefs: [{kind: Service, group: '', name: cart}], rules: [{backendRefs: [{name: cart, port: 80}]}]}\n";
    mesh.apply(&format!("{}---\n{route}", service("cart", 80))).expect("applied");
    let refused = mesh.propose(Edits::Delete(vec![id("none")]), false).expect_err("not there");
    assert!(matches!(refused, Refusal::NotFound(_)), "{refused:?}");
    let refused = mesh.propose(Edits::Delete(vec![id("cart")]), false).expect_err("a route leads there");
    let refused = problems(refused);
    assert!(refused.contains("HTTPRoute shop/r"), "{refused}");
    let both = vec![id("cart"), ResourceId::new("HTTPRoute", "shop", "r")];
    let answer = mesh.propose(Edits::Delete(both), false).expect("deleted");
    assert_eq!(told(&answer), ["Deleted HTTPRoute/shop/r", "Deleted Service/shop/cart"]);
    assert_eq!((answer.revision, mesh.services()), (2, vec![]));
}

#[test]
fn a_rollback_is_a_new_revision_with_what_was_there() {
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    mesh.apply(&service("cart", 80)).expect("applied");
    mesh.apply(&service("web", 80)).expect("applied");
    mesh.apply(&service("cart", 81)).expect("applied");
    mesh.propose(Edits::Delete(vec![id("web")]), false).expect("deleted");
    let answer = mesh.propose(Edits::Rollback(2), false).expect("rolled back");
    assert_eq!(
        (answer.revision, told(&answer)),
        (5, vec!["Changed Service/shop/cart".to_owned(), "Created Service/shop/web".to_owned()])
    );
    let object = mesh.register.object(&id("cart")).expect("there");
    assert_eq!(object["spec"]["ports"][0]["port"], 80);
    let answer = mesh.propose(Edits::Rollback(0), false).expect("rolled back");
    assert_eq!((answer.revision, mesh.services()), (6, vec![]));
    let answer = mesh.propose(Edits::Rollback(5), false).expect("rolled back");
    assert_eq!((answer.revision, mesh.services().len()), (7, 2));
    assert!(matches!(mesh.propose(Edits::Rollback(8), false), Err(Refusal::NotFound(_))));
}

#[test]
fn files_own_what_they_say() {
    let (dir, folder) = (dir(), dir());
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, service("cart", 80)).expect("written");
    let mesh = Fixture::open(dir.path(), Some(folder.path())).expect("opened");
    assert_eq!(mesh.services(), ["shop/cart"]);
    let refused = mesh.apply(&service("cart", 81)).expect_err("owned");
    assert!(matches!(refused, Refusal::Owned(_)), "{refused:?}");
    let refused = problems(refused);
    assert!(refused.contains("a.yaml:1"), "{refused}");
    let refused = mesh.propose(Edits::Delete(vec![id("cart")]), false).expect_err("owned");
    assert!(matches!(refused, Refusal::Owned(_)), "{refused:?}");
    mesh.apply(&service("web", 80)).expect("applied");
    // A file that says what the store has is refused, naming both.
    std::fs::write(&file, service("web", 80)).expect("written");
    mesh.register.read_folder(folder.path());
    assert_eq!(mesh.services(), ["shop/cart", "shop/web"]);
    let told = crate::run::lines(&mesh.world.problems());
    assert!(told.contains("a.yaml:") && told.contains("Service/shop/web"), "{told}");
    // As is a broken one; a restart then begins with the last that was good, and the store's.
    std::fs::write(&file, "kind: [").expect("written");
    mesh.register.read_folder(folder.path());
    drop(mesh);
    let mesh = Fixture::open(dir.path(), Some(folder.path())).expect("opened");
    assert_eq!(mesh.services(), ["shop/cart", "shop/web"]);
    std::fs::write(&file, service("cart", 82)).expect("written");
    mesh.register.read_folder(folder.path());
    assert_eq!((mesh.services().len(), mesh.world.problems().len()), (2, 0));
    let object = mesh.register.object(&id("cart")).expect("there");
    let place = object["metadata"]["annotations"]["meshwork.dev/file"].as_str().expect("told");
    assert!(place.ends_with("a.yaml:1"), "{place}");
}

#[test]
fn who_saw_an_older_revision_does_not_overwrite_a_newer_one() {
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    mesh.apply(&service("cart", 80)).expect("applied");
    let seen = |port: u16, revision: &str| {
        service("cart", port)
            .replace("namespace: shop}", &format!("namespace: shop, resourceVersion: '{revision}'}}"))
    };
    assert_eq!(mesh.apply(&seen(81, "1")).expect("applied").revision, 2);
    assert!(matches!(mesh.apply(&seen(82, "1")), Err(Refusal::Raced(_))));
    assert_eq!(mesh.apply(&seen(82, "2")).expect("applied").revision, 3);
}

#[test]
fn of_writers_at_once_nobody_loses_anything() {
    let dir = dir();
    // Two control planes on one store.
    let meshes = [(); 2].map(|()| Fixture::open(dir.path(), None).expect("opened"));
    let write = |mesh: &Fixture, writer: usize| {
        let one = |i: usize| {
            let text = service(&format!("s{writer}-{i}"), 80);
            (0..100).find_map(|_| match mesh.apply(&text) {
                Ok(answer) => Some(answer.revision),
                Err(Refusal::Raced(_)) => None,
                Err(other) => panic!("{other:?}"),
            })
        };
        (0..8).map(|i| one(i).expect("in turn")).collect::<Vec<u64>>()
    };
    let mut revisions: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|w| (w, &meshes[w % 2]))
            .map(|(w, mesh)| scope.spawn(move || write(mesh, w)))
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().expect("ended")).collect()
    });
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=32).collect::<Vec<_>>());
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    assert_eq!((mesh.register.revision(), mesh.services().len()), (32, 32));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_control_plane_writes_is_applied_here() {
    let dir = dir();
    let here = Fixture::open(dir.path(), None).expect("opened");
    let there = Fixture::open(dir.path(), None).expect("opened");
    let register = Arc::new(here.register);
    let mut revisions = register.revisions();
    let follower = tokio::spawn(Arc::clone(&register).follow());
    there.apply(&service("cart", 80)).expect("applied");
    there.apply(&service("web", 80)).expect("applied");
    revisions.wait_for(|revision| *revision == 2).await.expect("told");
    follower.abort();
    assert_eq!(here.world.mesh().config.services.len(), 2);
}

#[test]
fn a_store_with_what_is_no_resource_is_refused() {
    let dir = dir();
    let kv = Sqlite::open(dir.path()).expect("a store");
    let put = Operation::Put { key: format!("{CONFIG}Service/shop/cart"), value: "{".to_owned() };
    kv.commit(&Transaction { operations: vec![put], ..Transaction::default() }).expect("written");
    assert!(matches!(Fixture::open(dir.path(), None), Err(OpenError::Failed(_))));
}

#[test]
fn documents_are_kept_as_they_were_written() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  namespace: shop\n  annotations: {a: 'true'}\n\
        spec: {selector: {app: cart}, ports: [{name: http, port: 80}]}\n";
    let dir = dir();
    let mesh = Fixture::open(dir.path(), None).expect("opened");
    mesh.apply(text).expect("applied");
    let kept = mesh.register.object(&id("cart")).expect("there");
    let again = documents(&kept.to_string()).pop().expect("a document");
    assert_eq!(again.json, documents(text)[0].json);
    assert!(matches!(mesh.apply(&kept.to_string()), Ok(Answer { revision: 1, .. })));
}

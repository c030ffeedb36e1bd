use super::file::{APPLICATION_ID, FILE, MIGRATIONS, VERSION};
use super::*;
use meshwork_model::mesh::{Capture, Inbound, Outbound, Protocol};
use rusqlite::Connection;

fn request(workload: &str) -> TokenRequest {
    TokenRequest {
        namespace: "shop".to_owned(),
        service_account: "cart".to_owned(),
        workload: workload.to_owned(),
        labels: Labels::from([("app".to_owned(), "cart".to_owned())]),
        ttl: Duration::from_mins(10),
    }
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("state")).expect("a new store");
    (dir, store)
}

fn redeem(store: &Store, token: &str, key: &str) -> Result<String, RedeemError<&'static str>> {
    store.redeem(token, key.as_bytes(), |e| Ok(format!("{} for {key}", e.service_account)))
}

#[test]
fn a_token_buys_one_certificate() {
    let (_dir, store) = open();
    let token = store.create_token(&request("cart-1")).expect("a token");
    assert!(matches!(redeem(&store, "mwt_0", "k1"), Err(RedeemError::Token(TokenError::Unknown))));
    assert_eq!(redeem(&store, &token, "k1").expect("a certificate"), "cart for k1");
    assert_eq!(redeem(&store, &token, "k1").expect("the same again"), "cart for k1");
    assert!(matches!(redeem(&store, &token, "k2"), Err(RedeemError::Token(TokenError::Used))));
    let [enrolment] = &store.enrolments().expect("read")[..] else { panic!("one enrolment") };
    assert_eq!((&enrolment.workload, &enrolment.labels), (&Key::new("shop", "cart-1"), &request("x").labels));
    let identity = enrolment.identity("mesh.local").expect("an identity");
    assert_eq!(identity.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
}

#[test]
fn a_token_survives_a_failed_signature_and_is_not_kept_in_clear() {
    let (dir, store) = open();
    let token = store.create_token(&request("cart-1")).expect("a token");
    let failed = store.redeem(&token, b"k", |_| Err("no"));
    assert!(matches!(failed, Err(RedeemError::Sign("no"))));
    assert_eq!(store.enrolments().expect("read"), []);
    for file in ["meshwork.db", "meshwork.db-wal"] {
        let bytes = std::fs::read(dir.path().join("state").join(file)).expect("a file");
        assert!(!bytes.windows(token.len()).any(|w| w == token.as_bytes()), "{file}");
    }
    assert_eq!(redeem(&store, &token, "k1").expect("a certificate"), "cart for k1");
}

/// Makes all tokens end at a time.
fn age(store: &Store, expires_at: i64) {
    for entry in store.kv.read(Keys::Under(TOKENS), None).expect("read").entries {
        let mut token = Token::from_text(&entry.value).expect("a token");
        token.expires_at = expires_at;
        put(store, &entry.key, &token.to_text());
    }
}

fn put(store: &Store, key: &str, value: &str) {
    let operations = vec![Operation::Put { key: key.to_owned(), value: value.to_owned() }];
    store.kv.commit(&Transaction { operations, ..Transaction::default() }).expect("written");
}

#[test]
fn a_token_ends() {
    let (_dir, store) = open();
    let token = store.create_token(&request("cart-1")).expect("a token");
    age(&store, unix_now() - 1);
    assert!(matches!(redeem(&store, &token, "k"), Err(RedeemError::Token(TokenError::Expired))));
    age(&store, 1);
    store.create_token(&request("cart-2")).expect("a token");
    assert!(matches!(redeem(&store, &token, "k"), Err(RedeemError::Token(TokenError::Unknown))));
}

#[test]
fn of_two_that_redeem_a_token_at_once_one_has_it() {
    let (dir, store) = open();
    let other = Store::open(&dir.path().join("state")).expect("the same store");
    let token = store.create_token(&request("cart-1")).expect("a token");
    // The other one comes while the first signs.
    let outcome = store.redeem(&token, b"k1", |_| {
        redeem(&other, &token, "k2").map_err(|_| "the other comes first").map(|_| "ours".to_owned())
    });
    assert!(matches!(outcome, Err(RedeemError::Token(TokenError::Used))));
    assert_eq!(redeem(&store, &token, "k2").expect("the same again"), "cart for k2");
}

#[test]
fn tokens_are_made_for_workloads_only() {
    let (_dir, store) = open();
    let check = |change: fn(&mut TokenRequest), expected: &str| {
        let mut request = request("cart-1");
        change(&mut request);
        let error = store.create_token(&request).expect_err("refused");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(|r| r.namespace = "a/b".to_owned(), "namespace");
    check(|r| r.service_account = String::new(), "service account");
    check(|r| r.workload = "Cart".to_owned(), "workload");
    check(|r| r.namespace = "meshwork-system".to_owned(), "control plane");
    check(|r| r.ttl = Duration::ZERO, "30 days");
}

#[test]
fn leases_survive() {
    let (dir, store) = open();
    let workload = Workload {
        key: Key::new("shop", "cart-1"),
        identity: SpiffeId::workload("mesh.local", "shop", "cart").expect("valid"),
        labels: request("x").labels,
        inbound: vec![Inbound {
            port: 8080,
            bind: "127.0.0.1:41000".parse().expect("valid"),
            application: "127.0.0.1:9000".parse().expect("valid"),
            protocol: Some(Protocol::Grpc),
        }],
        outbound: vec![Outbound {
            service: Key::new("shop", "web"),
            port: 80,
            bind: "[::1]:42000".parse().expect("valid"),
        }],
        capture: Some(Capture {
            outbound: vec!["127.0.0.1:15001".parse().expect("valid"), "[::1]:15001".parse().expect("valid")],
            names: "127.0.0.1:15053".parse().expect("valid"),
        }),
        gateway: None,
        unready: Some("no answer".into()),
        locality: meshwork_model::proxy::Locality { zone: "eu-1a".into(), ..Default::default() },
    };
    store.move_leases(&[], &[Arc::new(workload.clone())]).expect("kept");
    drop(store);
    let store = Store::open(&dir.path().join("state")).expect("the store");
    assert_eq!(store.own_leases().expect("read"), std::slice::from_ref(&workload));
    // Another control plane has it for a while: it is not ours to end.
    let theirs = Store::on(Arc::clone(&store.kv), &dir.path().join("other")).expect("another");
    theirs.move_leases(&[], &[Arc::new(workload.clone())]).expect("kept");
    store.move_leases(std::slice::from_ref(&workload.key), &[]).expect("asked for");
    assert_eq!(store.lease_count().expect("read"), 1);
    store.move_leases(&[], &[Arc::new(workload.clone())]).expect("kept");
    theirs.move_leases(std::slice::from_ref(&workload.key), &[]).expect("asked for");
    store.move_leases(std::slice::from_ref(&workload.key), &[]).expect("ended");
    assert_eq!(store.lease_count().expect("read"), 0);
}

#[test]
fn a_store_of_the_first_version_is_taken_over_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let connection = Connection::open(dir.path().join(FILE)).expect("made");
    connection.execute_batch(MIGRATIONS[0]).expect("the first schema");
    connection.pragma_update(None, "application_id", APPLICATION_ID).expect("written");
    connection.pragma_update(None, "user_version", 1).expect("written");
    let lease = r#"{"namespace":"shop","name":"cart-1","identity":"spiffe://mesh.local/ns/shop/sa/cart",
        "labels":{"app":"cart"},"outbound":[],
        "inbound":[{"port":8080,"bind":"127.0.0.1:41000","application":"127.0.0.1:9000"}]}"#;
    let insert = |table: &str, values: &[&dyn rusqlite::ToSql]| {
        let marks = vec!["?"; values.len()].join(", ");
        connection.execute(&format!("INSERT INTO {table} VALUES ({marks})"), values).expect("written");
    };
    insert("leases", &[&"shop", &"cart-1", &lease]);
    insert("enrolments", &[&"shop", &"cart-1", &"cart", &"{}", &1]);
    let (token, forever) = (hash(b"mwt_old"), i64::MAX);
    insert(
        "tokens",
        &[&token, &"shop", &"cart", &"cart-2", &"{}", &forever, &None::<Vec<u8>>, &None::<String>],
    );
    insert(
        "tokens",
        &[&hash(b"mwt_used"), &"shop", &"cart", &"cart-3", &"{}", &forever, &hash(b"k"), &"a chain"],
    );
    drop(connection);
    let store = Store::open(dir.path()).expect("taken over");
    assert_eq!(redeem(&store, "mwt_used", "k").expect("bought before"), "a chain");
    assert!(matches!(redeem(&store, "mwt_used", "other"), Err(RedeemError::Token(TokenError::Used))));
    let [workload] = &store.own_leases().expect("read")[..] else { panic!("one lease") };
    assert_eq!((workload.inbound[0].port, workload.inbound[0].protocol), (8080, None));
    assert_eq!((&workload.capture, &workload.unready), (&None, &None));
    assert_eq!(store.enrolments().expect("read").len(), 1);
    assert_eq!(redeem(&store, "mwt_old", "k").expect("a certificate"), "cart for k");
    assert_eq!(store.addresses(&[service("cart")]).expect("given").len(), 1);
    drop(store);
    Store::open(dir.path()).expect("once");
    assert_eq!(i64::try_from(MIGRATIONS.len()), Ok(VERSION));
}

fn service(name: &str) -> Addressee {
    Addressee::Service(Key::new("shop", name))
}

#[test]
fn an_address_stays_with_its_name() {
    let (dir, store) = open();
    let number = |store: &Store, of: Addressee| {
        let given = store.addresses(std::slice::from_ref(&of)).expect("given");
        given.get(&of).expect("room").number()
    };
    assert_eq!(number(&store, service("cart")), 1);
    assert_eq!(number(&store, Addressee::Workload(Key::new("shop", "cart"))), 2);
    assert_eq!(number(&store, Addressee::Host("example.com".into())), 3);
    assert_eq!(number(&store, service("cart")), 1);
    drop(store);
    let store = Store::open(&dir.path().join("state")).expect("the store");
    assert_eq!(number(&store, service("web")), 4);
    assert_eq!(number(&store, service("cart")), 1);
    // Another control plane of the same store gives the same, and goes on where this one is.
    let other = Store::open(&dir.path().join("state")).expect("the same store");
    assert_eq!((number(&other, service("web")), number(&other, service("new"))), (4, 5));
    assert_eq!((number(&store, service("newer")), number(&store, service("new"))), (6, 5));
    // Not even a key that is lost gives its number to another.
    let operations = vec![Operation::Delete { key: address_key(&service("newer")) }];
    store.kv.commit(&Transaction { operations, ..Transaction::default() }).expect("lost");
    drop(store);
    let store = Store::open(&dir.path().join("state")).expect("the store");
    assert_eq!(number(&store, service("newer")), 7);
}

#[test]
fn who_came_first_keeps_an_address_when_there_are_no_more() {
    let (_dir, store) = open();
    store.addresses(&[service("cart")]).expect("given");
    put(&store, LAST_ADDRESS, &(MAX_ADDRESSES - 1).to_string());
    let given = store.addresses(&[service("cart"), service("last"), service("late")]).expect("given");
    assert_eq!(given.keys().cloned().collect::<Vec<_>>(), [service("cart"), service("last")]);
}

#[test]
fn two_processes_share_a_store() {
    let (dir, store) = open();
    let other = Store::open(&dir.path().join("state")).expect("the same store");
    let token = other.create_token(&request("cart-1")).expect("a token");
    assert_eq!(redeem(&store, &token, "k").expect("a certificate"), "cart for k");
}

#[test]
fn commands_find_the_etcd_that_a_control_plane_runs_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let urls = ["http://a:2379".to_owned(), "http://b:2379".to_owned()];
    remember_etcd(dir.path(), &urls).expect("noted");
    assert_eq!(remembered_etcd(dir.path()), urls);
    remember_etcd(dir.path(), &[]).expect("noted");
    remember_etcd(dir.path(), &[]).expect("nothing to forget");
    assert_eq!(remembered_etcd(dir.path()), Vec::<String>::new());
}

#[test]
fn the_store_belongs_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, _store) = open();
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let state = dir.path().join("state");
    assert_eq!(mode(&state), 0o700);
    for file in ["meshwork.db", "meshwork.db-wal", "meshwork.db-shm"] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_store_that_is_not_ours_is_refused() {
    let check = |spoil: fn(&Path), expected: &str| {
        let (dir, store) = open();
        drop(store);
        let state = dir.path().join("state");
        spoil(&state.join(FILE));
        let error = Store::open(&state).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|file| std::fs::write(file, [b'x'; 8192]).expect("written"), "damaged");
    check(
        |file| {
            let mut bytes = std::fs::read(file).expect("read");
            bytes[4096..].fill(0xff);
            std::fs::write(file, bytes).expect("written");
        },
        "damaged",
    );
    check(
        |file| {
            let connection = Connection::open(file).expect("open");
            connection.pragma_update(None, "user_version", 7).expect("written");
        },
        "has version 7",
    );
    check(
        |file| {
            std::fs::remove_file(file).expect("removed");
            let connection = Connection::open(file).expect("open");
            connection.execute("CREATE TABLE other (x)", []).expect("made");
        },
        "not a store of this program",
    );
}

//! The whole shop in one process, wired without a mesh.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;

/// Deadline for what takes milliseconds on an idle machine.
const LIVENESS: Duration = Duration::from_mins(1);

struct Shop {
    programs: JoinSet<Result<(), ShopError>>,
    stop: watch::Sender<bool>,
    targets: load::Targets,
    checkout: Authority,
}

/// Starts a program on a free port and gives its address.
fn start(
    programs: &mut JoinSet<Result<(), ShopError>>,
    role: Role,
    calls: &[(&str, SocketAddr)],
    stop: &Stop,
) -> SocketAddr {
    let mut ports = crate::ports::Reservations::default();
    let address = ports.reserve().expect("port");
    let calls = calls
        .iter()
        .map(|(service, address)| Call { service: (*service).to_owned(), address: authority(*address) });
    let options = Options {
        role,
        listen: Some(address),
        release: catalog::Release::V1,
        calls: calls.collect(),
        rate: 0,
    };
    let stop = stop.clone();
    programs.spawn(async move {
        let _ports = ports;
        serve(options, stop).await
    });
    address
}

fn authority(address: SocketAddr) -> Authority {
    address.to_string().parse().expect("an authority")
}

fn open() -> Shop {
    let (stop, stopped) = Stop::new();
    let mut programs = JoinSet::new();
    let mut start = |role, calls: &[(&str, SocketAddr)]| start(&mut programs, role, calls, &stopped);
    let (catalog, cart) = (start(Role::Catalog, &[]), start(Role::Cart, &[]));
    let (payments, ledger) = (start(Role::Payments, &[]), start(Role::Ledger, &[]));
    let checkout = start(Role::Checkout, &[("payments", payments), ("ledger", ledger)]);
    let web = start(Role::Web, &[("catalog", catalog), ("cart", cart), ("checkout", checkout)]);
    let targets = load::Targets { web: authority(web), cart: authority(cart), payments: authority(payments) };
    Shop { programs, stop, targets, checkout: authority(checkout) }
}

/// Waits until all programs listen: they start in the order in which they are polled.
async fn opened(shop: &Shop) {
    for address in [&shop.targets.web, &shop.targets.cart, &shop.targets.payments, &shop.checkout] {
        while tokio::net::TcpStream::connect(address.as_str()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}

async fn close(mut shop: Shop) {
    shop.stop.send(true).expect("programs");
    let closed = async {
        while let Some(ended) = shop.programs.join_next().await {
            ended.expect("no panic").expect("a clean end");
        }
    };
    tokio::time::timeout(LIVENESS, closed).await.expect("all programs end");
}

async fn ask(method: Method, address: &Authority, path: &str, body: &'static str) -> (StatusCode, String) {
    let request =
        client::request(method, address, path, &HeaderMap::new(), Bytes::from_static(body.as_bytes()));
    let answer = client::Client::new().send(request).await.expect("an answer");
    (answer.status(), String::from_utf8(answer.body().to_vec()).expect("text"))
}

#[tokio::test]
async fn the_load_sees_pages_orders_wrong_releases_and_missing_policy() {
    let shop = open();
    opened(&shop).await;
    let (stop_load, stopped) = Stop::new();
    let (counts, mut last) = watch::channel(load::Tally::default());
    let targets = shop.targets.clone();
    let load = tokio::spawn(async move {
        load::run(&targets, 400, |tally| counts.send_replace(tally.clone()).finished = false, stopped).await;
    });
    // Without a mesh nothing is refused and nobody gets a preview: the load must say so.
    let seen = |tally: &load::Tally| tally.wrongly_allowed > 1 && tally.failures > 0 && tally.served > 50;
    tokio::time::timeout(LIVENESS, last.wait_for(seen)).await.expect("counts").expect("the load");
    stop_load.send(true).expect("the load");
    load.await.expect("no panic");
    let tally = last.borrow().clone();
    assert!(tally.finished);
    assert_eq!(tally.requests, tally.served + tally.failures + tally.denied + tally.wrongly_allowed);
    assert_eq!((tally.denied, tally.skipped), (0, 0));
    assert_eq!(tally.versions.keys().collect::<Vec<_>>(), ["v1"]);
    let known =
        ["asked for the catalog's v2", "GET /admin of the cart: 200", "a charge by a customer: went through"];
    assert!(
        tally.reasons.iter().all(|reason| known.iter().any(|known| reason.contains(known))),
        "{:?}",
        tally.reasons
    );
    close(shop).await;
}

#[tokio::test]
async fn programs_answer_what_they_have_and_refuse_the_rest() {
    let shop = open();
    opened(&shop).await;
    let (web, cart) = (&shop.targets.web, &shop.targets.cart);
    let (status, page) = ask(Method::GET, web, "/", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("\"version\":\"v1\"") && page.contains("Storm lamp"), "{page}");
    let (status, receipt) = ask(Method::POST, web, "/checkout", r#"{"id":"order-1","cents":250}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{receipt}");
    assert!(receipt.contains("\"entry\":1") && receipt.contains("\"cents\":250"), "{receipt}");
    let (status, refused) = ask(Method::POST, web, "/checkout", r#"{"id":"order-1","cents":0}"#).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(refused.contains("InvalidArgument"), "{refused}");
    let (status, _) = ask(Method::POST, &shop.checkout, "/orders", r#"{"id":"two words","cents":1}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, lines) = ask(Method::POST, cart, "/items", r#"{"id":"lamp"}"#).await;
    assert_eq!((status, lines.as_str()), (StatusCode::CREATED, r#"{"lines":["lamp"]}"#));
    assert_eq!(ask(Method::GET, cart, "/nothing", "").await.0, StatusCode::NOT_FOUND);
    close(shop).await;
}

#[tokio::test]
async fn a_front_whose_catalog_is_gone_says_so() {
    let (stop, stopped) = Stop::new();
    let mut programs = JoinSet::new();
    let nobody = crate::ports::Reservations::default().reserve().expect("port");
    let calls = [("catalog", nobody), ("cart", nobody), ("checkout", nobody)];
    let web = start(&mut programs, Role::Web, &calls, &stopped);
    while tokio::net::TcpStream::connect(web).await.is_err() {
        tokio::task::yield_now().await;
    }
    let (status, why) = ask(Method::GET, &authority(web), "/", "").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(why.contains("catalog: "), "{why}");
    stop.send(true).expect("the front");
    programs.join_next().await.expect("the front").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_program_without_its_addresses_does_not_start() {
    let (_keep, stopped) = Stop::new();
    let options =
        Options { role: Role::Web, listen: None, release: catalog::Release::V1, calls: Vec::new(), rate: 0 };
    let error = serve(options, stopped.clone()).await.expect_err("no address");
    assert_eq!(error.to_string(), "web needs --listen ADDRESS:PORT");
    let address = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let options = Options {
        role: Role::Checkout,
        listen: address,
        release: catalog::Release::V1,
        calls: Vec::new(),
        rate: 0,
    };
    let error = serve(options, stopped).await.expect_err("no payments");
    assert_eq!(error.to_string(), "checkout calls payments: it needs --call payments=ADDRESS:PORT");
}

fn check_call(text: &str, expected: Option<&str>) {
    assert_eq!(text.parse::<Call>().ok().map(|call| call.to_string()).as_deref(), expected, "{text}");
}

#[test]
fn roles_and_calls_are_read_back_as_written() {
    for role in Role::ALL {
        assert_eq!(role.name().parse(), Ok(role));
    }
    assert!("mesh".parse::<Role>().is_err());
    check_call("catalog=127.0.0.1:42000", Some("catalog=127.0.0.1:42000"));
    check_call("catalog", None);
    check_call("catalog=localhost", None);
}

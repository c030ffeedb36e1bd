//! Istio's words for traffic and security, on a shop of books in the manner of Istio's sample: `e2e/testdata/bookshop`.

use std::collections::BTreeMap;

use e2e::captured::{Mesh, NAMESPACE};
use e2e::echo::{Echo, is_share};
use serde_json::{Value, json};

/// How many requests tell a distribution.
const TRIES: u64 = 400;

struct Shop {
    mesh: Mesh,
    page: Echo,
    reviews: BTreeMap<&'static str, Echo>,
    ratings: Echo,
}

impl Shop {
    fn open() -> Self {
        let mesh = Mesh::start(&text("services"));
        let echo = |name: &str, app: &str, version: &str| {
            let labels = [format!("app={app}"), format!("version={version}")];
            let run = mesh.workload(name).options(&["--label", &labels[0], "--label", &labels[1]]).port(9080);
            Echo::start(&mesh, NAMESPACE, name, &run, &[9080])
        };
        let page = echo("page", "page", "v1");
        let reviews = [("v1", "reviews-v1"), ("v2", "reviews-v2"), ("v3", "reviews-v3")];
        let reviews = reviews.map(|(version, name)| (version, echo(name, "reviews", version)));
        let ratings = echo("ratings", "ratings", "v1");
        let mut shop = Self { mesh, page, reviews: reviews.into(), ratings };
        e2e::eventually("all reviews answer", || shop.versions(60, &json!({})).len() == 3);
        for reviews in shop.reviews.values_mut() {
            reviews.eventually(&json!({ "host": "ratings:9080" }), 200);
        }
        shop
    }

    fn apply(&self, name: &str) {
        self.mesh.configure(&format!("{name}.yaml"), &text(name));
    }

    /// How often each version of the reviews answers the page.
    fn versions(&mut self, count: u64, headers: &Value) -> BTreeMap<String, u64> {
        let said = self.page.ask(&json!({ "host": "reviews:9080", "headers": headers, "count": count }));
        let pods = said["pods"].as_object().cloned().unwrap_or_default();
        pods.into_iter().filter_map(|(pod, count)| Some((pod, count.as_u64()?))).collect()
    }

    /// Waits until the reviews' answers are as `holds` says; what the control plane refuses ends the wait.
    fn until(
        &mut self,
        what: &str,
        count: u64,
        headers: &Value,
        holds: impl Fn(&BTreeMap<String, u64>) -> bool,
    ) {
        e2e::eventually(what, || {
            let errors = self.mesh.errors();
            assert!(errors.is_empty(), "{what}: the config is refused: {errors:#?}");
            holds(&self.versions(count, headers))
        });
    }

    /// The first answer of the ratings to the first reviews.
    fn rated(&mut self, task: &Value) -> Value {
        let reviews = self.reviews.get_mut("v1").expect("the first");
        reviews.ask(task)["answers"][0].take()
    }
}

fn text(name: &str) -> String {
    let path = e2e::root().join("e2e/testdata/bookshop").join(format!("{name}.yaml"));
    std::fs::read_to_string(path).expect("the file")
}

fn only(pod: &str) -> impl Fn(&BTreeMap<String, u64>) -> bool {
    move |pods| pods.len() == 1 && pods.contains_key(pod)
}

#[test]
fn versions_are_chosen_by_header_and_weight() {
    let mut shop = Shop::open();
    shop.apply("all-v1");
    shop.until("all read the first version", 60, &json!({}), only("reviews-v1"));
    shop.mesh.unconfigure("all-v1.yaml");
    shop.apply("by-user");
    let jason = json!({ "end-user": "jason" });
    shop.until("one reader has the second", 20, &jason, only("reviews-v2"));
    let versions = shop.versions(TRIES, &json!({}));
    let count = |pod: &str| versions.get(pod).copied().unwrap_or_default();
    assert_eq!(count("reviews-v1") + count("reviews-v3"), TRIES, "{versions:?}");
    assert!(is_share(count("reviews-v3"), TRIES, 0.3), "{versions:?}");
    assert_eq!(shop.versions(TRIES, &jason), BTreeMap::from([("reviews-v2".to_owned(), TRIES)]));
}

#[test]
fn ratings_fail_and_are_late_as_they_are_told_to() {
    let mut shop = Shop::open();
    shop.apply("faults");
    let ask = |user: &str| json!({ "host": "ratings:9080", "headers": { "end-user": user } });
    e2e::eventually("one reader gets errors", || {
        let errors = shop.mesh.errors();
        assert!(errors.is_empty(), "the config is refused: {errors:#?}");
        shop.rated(&ask("murphy"))["status"] == 555
    });
    let slow = shop.rated(&ask("jason"));
    assert_eq!(slow["status"], 200, "{slow:#}");
    // Two seconds, as timers count them.
    assert!(slow["took_ms"].as_u64() >= Some(1_900), "{slow:#}");
    // Who is not to wait is delayed by the machine at most, and not always.
    e2e::eventually("the usual reader does not wait", || {
        let usual = shop.rated(&ask("anybody"));
        assert_eq!(usual["status"], 200, "{usual:#}");
        usual["took_ms"].as_u64() < Some(1_500)
    });
    let changed = shop.rated(&json!({ "host": "ratings:9080", "path": "/old/7" }));
    assert_eq!(
        (&changed["echo"]["path"], &changed["echo"]["headers"]["x-through"][0]),
        (&json!("/new/7"), &json!("mesh"))
    );
    let moved = shop.rated(&json!({ "host": "ratings:9080", "path": "/moved" }));
    assert_eq!(moved["status"], 308, "{moved:#}");
    assert!(moved["headers"]["location"][0].as_str().is_some_and(|l| l.ends_with("/ratings")), "{moved:#}");

    // The first of two tries fails there, the second does not; without the rule's retries the failure comes through.
    let flaky = json!({ "x-echo-status": "503", "x-echo-every": "2" });
    let said = shop
        .reviews
        .get_mut("v1")
        .expect("the first")
        .ask(&json!({ "host": "ratings:9080", "path": "/old/7", "headers": flaky, "count": 40 }));
    assert_eq!(said["statuses"], json!({ "200": 40 }), "{said:#}");
    let late = shop
        .rated(&json!({ "host": "ratings:9080", "path": "/old/7", "headers": { "x-echo-delay": "3000" } }));
    assert_eq!(late["status"], 504, "{late:#}");
    drop(shop.ratings);
}

#[test]
fn nobody_calls_what_policy_does_not_allow() {
    let mut shop = Shop::open();
    shop.apply("access");
    e2e::eventually("the page may not ask for ratings", || {
        shop.page.get("ratings:9080", "/", &json!({}))["status"] == 403
    });
    e2e::eventually("nor change reviews", || {
        let answer = shop.page.ask(&json!({ "host": "reviews:9080", "method": "POST", "count": 12 }));
        answer["statuses"] == json!({ "403": 12 })
    });
    assert_eq!(shop.versions(60, &json!({})).values().sum::<u64>(), 60);
    assert_eq!(shop.rated(&json!({ "host": "ratings:9080" }))["status"], 200);
    let reviews = shop.reviews.get_mut("v1").expect("the first");
    assert_eq!(reviews.get("reviews:9080", "/", &json!({}))["status"], 403);
}

#[test]
fn a_workload_takes_as_many_requests_as_its_policy_says() {
    let mut shop = Shop::open();
    shop.apply("limits");
    let ask = json!({ "host": "ratings:9080", "path": "/limited", "count": 60 });
    e2e::eventually("ratings are limited", || {
        let errors = shop.mesh.errors();
        assert!(errors.is_empty(), "the config is refused: {errors:#?}");
        let reviews = shop.reviews.get_mut("v1").expect("the first");
        reviews.ask(&ask)["statuses"]["429"].as_u64() > Some(0)
    });
    // Twenty in an hour: what is left when the first is refused is none.
    let reviews = shop.reviews.get_mut("v2").expect("the second");
    assert_eq!(reviews.ask(&ask)["statuses"], json!({ "429": 60 }));
    // Not everybody's: the page's reviews are not limited.
    assert_eq!(shop.versions(60, &json!({})).values().sum::<u64>(), 60);
}

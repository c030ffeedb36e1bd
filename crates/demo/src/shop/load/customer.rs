//! One request and the judgement of its answer.

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tonic::Code;

use super::Targets;
use super::tally::Outcome;
use crate::shop::catalog::{self, Release};
use crate::shop::checkout::{Order, Receipt};
use crate::shop::client::{Client, PREVIEW, describe, request};
use crate::shop::payments;
use crate::shop::web::Page;

/// What a customer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// The page.
    Page,
    /// The page with the catalog's next release.
    Preview,
    /// To buy.
    Order,
    /// To empty the cart, which policy refuses.
    CartAdmin,
    /// To charge somebody, which policy refuses.
    DirectCharge,
}

/// Of a hundred requests, so many are of each kind.
const MIX: [(Errand, u32); 5] = [
    (Errand::Page, 74),
    (Errand::Preview, 8),
    (Errand::Order, 12),
    (Errand::CartAdmin, 3),
    (Errand::DirectCharge, 3),
];

impl Errand {
    /// One of the mix, by chance.
    pub(super) fn any() -> Self {
        let mut left = fastrand::u32(..MIX.iter().map(|(_, share)| share).sum::<u32>());
        for (errand, share) in MIX {
            if left < share {
                return errand;
            }
            left -= share;
        }
        Self::Page
    }
}

/// Sends requests and judges answers.
pub(super) struct Customer {
    targets: Targets,
    client: Client,
    payments: payments::Client,
}

impl Customer {
    pub(super) fn new(targets: &Targets) -> Self {
        Self {
            targets: targets.clone(),
            client: Client::new(),
            payments: payments::Client::new(&targets.payments),
        }
    }

    /// Runs an errand; nothing is tried twice.
    pub(super) async fn run(&self, errand: Errand) -> Outcome {
        match errand {
            Errand::Page => self.page(None).await,
            Errand::Preview => self.page(Some(Release::V2)).await,
            Errand::Order => self.order().await,
            Errand::CartAdmin => self.cart_admin().await,
            Errand::DirectCharge => self.direct_charge().await,
        }
    }

    async fn page(&self, asked: Option<Release>) -> Outcome {
        let mut page = request_of_its_own(Method::GET, &self.targets.web, "/", Bytes::new());
        if asked.is_some() {
            page.headers_mut().insert(PREVIEW, HeaderValue::from_static("yes"));
        }
        let what = if asked.is_some() { "GET / (x-preview: yes)" } else { "GET /" };
        let judged = self.client.send(page).await.map_err(|error| error.to_string());
        match judged.and_then(|answer| judge_page(&answer, asked)) {
            Ok(version) => Outcome::Served(asked.is_none().then_some(version)),
            Err(why) => Outcome::Failed(format!("{what}: {why}")),
        }
    }

    async fn order(&self) -> Outcome {
        let order =
            Order { id: format!("order-{:016x}", fastrand::u64(..)), cents: fastrand::u64(100..100_000) };
        let body = match serde_json::to_vec(&order) {
            Ok(body) => Bytes::from(body),
            Err(error) => return Outcome::Failed(format!("an order has no JSON form: {error}")),
        };
        let sent =
            self.client.send(request_of_its_own(Method::POST, &self.targets.web, "/checkout", body)).await;
        let judged =
            sent.map_err(|error| error.to_string()).and_then(|answer| judge_receipt(&answer, &order));
        match judged {
            Ok(()) => Outcome::Served(None),
            Err(why) => Outcome::Failed(format!("POST /checkout: {why}")),
        }
    }

    async fn cart_admin(&self) -> Outcome {
        let request = request_of_its_own(Method::GET, &self.targets.cart, "/admin", Bytes::new());
        match self.client.send(request).await {
            Ok(answer) => judge_refusal("GET /admin of the cart", &answer),
            Err(error) => Outcome::Failed(format!("GET /admin of the cart: {error}")),
        }
    }

    async fn direct_charge(&self) -> Outcome {
        let what = "a charge by a customer";
        match self.payments.charge("stolen", 1, &tracing_fields()).await {
            Ok(_) => Outcome::WronglyAllowed(format!("{what}: went through")),
            Err(status) if status.code() == Code::PermissionDenied => Outcome::Denied,
            Err(status) => Outcome::Failed(format!(
                "{what}: expected PermissionDenied, got {}",
                payments::describe(&status)
            )),
        }
    }
}

/// Whether a page is complete and right, and which release of the catalog it shows.
fn judge_page(answer: &Response<Bytes>, asked: Option<Release>) -> Result<Release, String> {
    if answer.status() != StatusCode::OK {
        return Err(describe(answer));
    }
    let page: Page = serde_json::from_slice(answer.body()).map_err(|error| format!("not a page: {error}"))?;
    let version = page.catalog.version;
    if page.catalog != catalog::items(version) {
        return Err("the page does not show what the catalog has".to_owned());
    }
    let header = answer.headers().get(catalog::VERSION);
    if header.is_none_or(|header| header.as_bytes() != version.name().as_bytes()) {
        return Err(format!("the page shows the catalog's {version}, {} says {header:?}", catalog::VERSION));
    }
    match asked {
        Some(asked) if asked != version => Err(format!("asked for the catalog's {asked}, got {version}")),
        _ => Ok(version),
    }
}

/// Whether a receipt is the order's.
fn judge_receipt(answer: &Response<Bytes>, order: &Order) -> Result<(), String> {
    if answer.status() != StatusCode::CREATED {
        return Err(describe(answer));
    }
    let receipt: Receipt =
        serde_json::from_slice(answer.body()).map_err(|error| format!("not a receipt: {error}"))?;
    let right = receipt.order == order.id
        && receipt.cents == order.cents
        && receipt.authorization == payments::authorization(&order.id, order.cents)
        && receipt.entry > 0;
    if right { Ok(()) } else { Err(format!("the receipt {receipt:?} is not of {order:?}")) }
}

/// Whether a request that policy must refuse was refused.
fn judge_refusal(what: &str, answer: &Response<Bytes>) -> Outcome {
    match answer.status() {
        StatusCode::FORBIDDEN => Outcome::Denied,
        status if status.is_success() => Outcome::WronglyAllowed(format!("{what}: {}", describe(answer))),
        _ => Outcome::Failed(format!("{what}: expected 403, got {}", describe(answer))),
    }
}

fn request_of_its_own(method: Method, address: &Authority, path: &str, body: Bytes) -> Request<Bytes> {
    let mut request = request(method, address, path, &tracing_fields(), body);
    request.headers_mut().insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// A request's name and the start of its trace. Source: W3C Trace Context §3.2.
fn tracing_fields() -> HeaderMap {
    let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
    let fields = [
        ("x-request-id", format!("{trace:032x}")),
        ("traceparent", format!("00-{trace:032x}-{span:016x}-01")),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop::cart::Lines;

    fn page(version: Release) -> Page {
        Page { catalog: catalog::items(version), cart: Lines { lines: Vec::new() } }
    }

    fn check_page(
        page: &Page,
        header: &'static str,
        asked: Option<Release>,
        expected: Result<Release, &str>,
    ) {
        let body = Bytes::from(serde_json::to_vec(page).expect("JSON"));
        let mut answer = Response::new(body);
        answer.headers_mut().insert(catalog::VERSION, HeaderValue::from_static(header));
        let got = judge_page(&answer, asked);
        match expected {
            Ok(version) => assert_eq!(got, Ok(version)),
            Err(part) => assert!(got.as_ref().is_err_and(|why| why.contains(part)), "{got:?} lacks {part:?}"),
        }
    }

    #[test]
    fn a_page_must_be_whole_and_of_the_release_that_was_asked_for() {
        check_page(&page(Release::V1), "v1", None, Ok(Release::V1));
        check_page(&page(Release::V2), "v2", Some(Release::V2), Ok(Release::V2));
        check_page(&page(Release::V1), "v1", Some(Release::V2), Err("asked for"));
        check_page(&page(Release::V1), "v2", None, Err("says"));
        let mut short = page(Release::V1);
        short.catalog.items.pop();
        check_page(&short, "v1", None, Err("does not show"));
    }

    #[test]
    fn only_403_is_a_refusal() {
        let answer = |status| {
            let mut answer = Response::new(Bytes::from_static(b"why"));
            *answer.status_mut() = status;
            judge_refusal("x", &answer)
        };
        assert_eq!(answer(StatusCode::FORBIDDEN), Outcome::Denied);
        assert_eq!(answer(StatusCode::OK), Outcome::WronglyAllowed("x: 200 OK: why".to_owned()));
        let unavailable = "x: expected 403, got 503 Service Unavailable: why".to_owned();
        assert_eq!(answer(StatusCode::SERVICE_UNAVAILABLE), Outcome::Failed(unavailable));
    }

    #[test]
    fn the_mix_is_a_hundred_and_has_every_errand() {
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<u32>(), 100);
        assert!((0..10_000).map(|_| Errand::any()).any(|errand| errand == Errand::DirectCharge));
    }
}

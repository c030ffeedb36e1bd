//! The shop's front: a page of what is for sale and what is in the cart, and the way to buy.
//!
//! A page is whole or it is an error: what a call to catalog, cart or checkout did not give is answered by 502,
//! with their words.

use std::fmt::Write as _;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cart::Lines;
use super::catalog::{Items, VERSION};
use super::checkout::Receipt;
use super::client::{Client, PREVIEW, copy, describe, request};
use super::server::{Answer, Handle, answer, failure, json, not_found};

/// Where the programs behind the front are reached.
pub(crate) struct Targets {
    /// What is for sale.
    pub(crate) catalog: Authority,
    /// What is about to be bought.
    pub(crate) cart: Authority,
    /// Takes orders.
    pub(crate) checkout: Authority,
}

/// `GET /` for programs (`accept: application/json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// What is for sale.
    pub(crate) catalog: Items,
    /// What is in the cart.
    pub(crate) cart: Lines,
}

/// The front's program.
pub(super) struct Web {
    targets: Targets,
    client: Client,
}

impl Web {
    pub(super) fn new(targets: Targets) -> Self {
        Self { targets, client: Client::new() }
    }

    async fn page(&self, cause: &HeaderMap) -> Result<(Page, HeaderMap), String> {
        let mut items = request(Method::GET, &self.targets.catalog, "/items", cause, Bytes::new());
        copy(&[PREVIEW], cause, items.headers_mut());
        let lines = request(Method::GET, &self.targets.cart, "/items", cause, Bytes::new());
        let (items, lines) = tokio::join!(self.call("catalog", items), self.call("cart", lines));
        let (catalog, headers) = items?;
        let (cart, _) = lines?;
        Ok((Page { catalog, cart }, headers))
    }

    /// Calls a program and reads its JSON.
    async fn call<T: DeserializeOwned>(
        &self,
        service: &str,
        request: Request<Bytes>,
    ) -> Result<(T, HeaderMap), String> {
        let response = self.client.send(request).await.map_err(|error| format!("{service}: {error}"))?;
        if !response.status().is_success() {
            return Err(format!("{service} answered {}", describe(&response)));
        }
        let (parts, body): (_, Bytes) = Response::into_parts(response);
        let body =
            serde_json::from_slice(&body).map_err(|error| format!("{service} answered nonsense: {error}"))?;
        Ok((body, parts.headers))
    }

    async fn show(&self, request: &Request<Bytes>) -> Answer {
        let (page, headers) = match self.page(request.headers()).await {
            Ok(page) => page,
            Err(why) => return failure(StatusCode::BAD_GATEWAY, &why),
        };
        let accept = request.headers().get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
        let mut shown = if accept.is_some_and(|accept| accept.contains("text/html")) {
            answer(StatusCode::OK, "text/html; charset=utf-8", html(&page))
        } else {
            json(StatusCode::OK, &page)
        };
        copy(&[VERSION], &headers, shown.headers_mut());
        shown
    }

    async fn buy(&self, order: &Request<Bytes>) -> Answer {
        let forward =
            request(Method::POST, &self.targets.checkout, "/orders", order.headers(), order.body().clone());
        match self.call::<Receipt>("checkout", forward).await {
            Ok((receipt, _)) => json(StatusCode::CREATED, &receipt),
            Err(why) => failure(StatusCode::BAD_GATEWAY, &why),
        }
    }
}

impl Handle for Web {
    async fn handle(&self, request: Request<Bytes>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => self.show(&request).await,
            (&Method::POST, "/checkout") => self.buy(&request).await,
            _ => not_found(&request),
        }
    }
}

/// The page for people. All texts are the catalog's own or item names without markup.
fn html(page: &Page) -> String {
    let mut rows = String::new();
    for item in &page.catalog.items {
        let stars = "★".repeat(usize::from(item.stars.unwrap_or(0)));
        let (name, euros, cents) = (escape(&item.name), item.cents / 100, item.cents % 100);
        // Writing to a string cannot fail.
        let _ = writeln!(rows, "<tr><td>{name}<td>{euros}.{cents:02}<td>{stars}");
    }
    let cart = page.cart.lines.iter().map(|line| escape(line)).collect::<Vec<_>>().join(", ");
    let version = page.catalog.version;
    format!(
        "<!doctype html><title>The shop</title><h1>The shop</h1>\n<table>\n{rows}</table>\n\
         <p>In the cart: {cart}</p>\n<p>Catalog {version}</p>\n"
    )
}

/// A text without meaning to HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! Turns an order into a charge and a line in the ledger: calls payments by gRPC and the ledger by TCP.
//!
//! An order that one of the two refuses is answered by 502, with their words.

use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::payments;
use super::server::{Answer, Handle, failure, json, not_found};

/// How long the ledger may take to acknowledge a line.
const LEDGER_DEADLINE: Duration = Duration::from_secs(10);
/// Longest acknowledgement that is read.
const MAX_ACKNOWLEDGEMENT_BYTES: u64 = 1024;

/// The body of `POST /orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Unique name; a word.
    pub(crate) id: String,
    /// What it costs, in cents; more than 0.
    pub(crate) cents: u64,
}

/// The answer to an order that was charged and booked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The order's name.
    pub(crate) order: String,
    /// What was charged, in cents.
    pub(crate) cents: u64,
    /// The proof of the charge.
    pub(crate) authorization: String,
    /// The entry in the ledger.
    pub(crate) entry: u64,
}

/// The checkout's program.
pub(super) struct Checkout {
    payments: payments::Client,
    ledger: Authority,
}

impl Checkout {
    pub(super) fn new(payments: &Authority, ledger: Authority) -> Self {
        Self { payments: payments::Client::new(payments), ledger }
    }

    async fn order(&self, order: Order, cause: &HeaderMap) -> Result<Receipt, String> {
        let charge = self.payments.charge(&order.id, order.cents, cause).await;
        let charge = charge.map_err(|status| format!("payments: {}", payments::describe(&status)))?;
        let append = append(&self.ledger, &order.id, charge.cents);
        let entry = tokio::time::timeout(LEDGER_DEADLINE, append).await;
        let entry = entry.unwrap_or_else(|_| Err("no acknowledgement in time".to_owned()));
        let entry = entry.map_err(|why| format!("ledger: {why}"))?;
        Ok(Receipt { order: order.id, cents: charge.cents, authorization: charge.authorization, entry })
    }
}

impl Handle for Checkout {
    async fn handle(&self, request: Request<Bytes>) -> Answer {
        if (request.method(), request.uri().path()) != (&Method::POST, "/orders") {
            return not_found(&request);
        }
        let order = match serde_json::from_slice::<Order>(request.body()) {
            Ok(order) if is_word(&order.id) => order,
            Ok(_) => {
                return failure(
                    StatusCode::BAD_REQUEST,
                    "an order's name is one word of letters, digits and -",
                );
            }
            Err(error) => return failure(StatusCode::BAD_REQUEST, &format!("not an order: {error}")),
        };
        match self.order(order, request.headers()).await {
            Ok(receipt) => json(StatusCode::CREATED, &receipt),
            Err(why) => failure(StatusCode::BAD_GATEWAY, &why),
        }
    }
}

/// Whether a name fits into the ledger's line.
fn is_word(id: &str) -> bool {
    !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Appends a line to the ledger, on a connection of its own, and gives the entry's number.
async fn append(ledger: &Authority, id: &str, cents: u64) -> Result<u64, String> {
    let stream = TcpStream::connect(ledger.as_str()).await.map_err(|error| error.to_string())?;
    let mut stream = BufReader::new(stream);
    let line = format!("append {id} {cents}\n");
    stream.write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    let read = (&mut stream).take(MAX_ACKNOWLEDGEMENT_BYTES).read_line(&mut answer).await;
    read.map_err(|error| error.to_string())?;
    let entry = answer.strip_suffix('\n').and_then(|line| line.strip_prefix("ok ")).map(str::parse);
    match entry {
        Some(Ok(entry)) => Ok(entry),
        _ if answer.is_empty() => Err("closed the connection without an answer".to_owned()),
        _ => Err(format!("answered {answer:?}")),
    }
}

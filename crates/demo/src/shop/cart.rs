//! What is about to be bought. `/admin` empties the cart for whoever asks: the program trusts the mesh's policy to
//! let nobody ask.

use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::server::{Answer, Handle, failure, json, not_found};

/// Lines in the cart; nobody needs more, and memory ends somewhere.
const MAX_LINES: usize = 100;

/// The answer to `GET /items` and `POST /items`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lines {
    /// Names of items, in the order in which they came.
    pub(crate) lines: Vec<String>,
}

/// The cart's program.
#[derive(Default)]
pub(super) struct Cart {
    lines: Mutex<Vec<String>>,
}

/// The body of `POST /items`.
#[derive(Deserialize)]
struct NewLine {
    id: String,
}

impl Handle for Cart {
    async fn handle(&self, request: Request<Bytes>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/items") => self.show(),
            (&Method::POST, "/items") => self.add(request.body()),
            (_, "/admin") => self.clear(),
            _ => not_found(&request),
        }
    }
}

impl Cart {
    fn show(&self) -> Answer {
        json(StatusCode::OK, &Lines { lines: self.lines().clone() })
    }

    fn add(&self, body: &[u8]) -> Answer {
        let line = match serde_json::from_slice::<NewLine>(body) {
            Ok(line) => line,
            Err(error) => return failure(StatusCode::BAD_REQUEST, &format!("not a line of a cart: {error}")),
        };
        let mut lines = self.lines();
        if lines.len() == MAX_LINES {
            return failure(StatusCode::CONFLICT, "the cart is full");
        }
        lines.push(line.id);
        json(StatusCode::CREATED, &Lines { lines: lines.clone() })
    }

    fn clear(&self) -> Answer {
        self.lines().clear();
        self.show()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        // A line is pushed or not: a panic elsewhere leaves nothing half done.
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

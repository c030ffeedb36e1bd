//! What is for sale. Release v2 has ratings; both say which one they are in the body and in `x-catalog-version`.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::server::{Answer, Handle, json, not_found};

/// The field that says which release answered.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-catalog-version");

/// A release of the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Without ratings.
    #[default]
    V1,
    /// With ratings.
    V2,
}

/// The answer to `GET /items`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Items {
    /// The release that answers.
    pub(crate) version: Release,
    /// All that is for sale.
    pub(crate) items: Vec<Item>,
}

/// Something for sale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// Unique name, for orders.
    pub(crate) id: String,
    /// Name, for people.
    pub(crate) name: String,
    /// Price in cents.
    pub(crate) cents: u64,
    /// Stars out of five; from v2 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stars: Option<u8>,
}

/// The catalog's program.
pub(super) struct Catalog {
    release: Release,
    items: Items,
}

impl Catalog {
    pub(super) fn new(release: Release) -> Self {
        Self { release, items: items(release) }
    }
}

impl Handle for Catalog {
    async fn handle(&self, request: Request<Bytes>) -> Answer {
        if (request.method(), request.uri().path()) != (&Method::GET, "/items") {
            return not_found(&request);
        }
        let mut answer = json(StatusCode::OK, &self.items);
        answer.headers_mut().insert(VERSION, HeaderValue::from_static(self.release.name()));
        answer
    }
}

/// All that a release sells; who reads the shop's page can tell from it whether anything is missing.
pub(crate) fn items(version: Release) -> Items {
    /// Id, name, cents, stars.
    const SOLD: [(&str, &str, u64, u8); 6] = [
        ("rope", "Rope, 20 m", 2490, 4),
        ("lamp", "Storm lamp", 3950, 5),
        ("kettle", "Kettle, enamelled", 1875, 4),
        ("knife", "Folding knife", 2200, 5),
        ("map", "Map of the coast", 950, 3),
        ("tin", "Biscuit tin", 640, 5),
    ];
    let item = |(id, name, cents, stars): (&str, &str, u64, u8)| Item {
        id: id.to_owned(),
        name: name.to_owned(),
        cents,
        stars: (version == Release::V2).then_some(stars),
    };
    Items { version, items: SOLD.into_iter().map(item).collect() }
}

// === impl Release ===

impl Release {
    /// `v1` or `v2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::V1, Self::V2]
            .into_iter()
            .find(|release| release.name() == text)
            .ok_or_else(|| format!("{text:?} is no release of the catalog: v1, v2"))
    }
}

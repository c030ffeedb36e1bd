//! Tokens for others: made and ended by who may everything.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::access::{ALL, Caller, Grant};
use super::changes::{blocking, read};
use super::failure::Failure;
use super::{Api, audit};
use crate::config::Refusal;
use crate::ingest::is_label;
use crate::store::KvError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// Who it is for, as the history and the audit log name them.
    name: String,
    grants: Vec<Grant>,
}

/// A token, told once.
#[derive(Serialize)]
pub(super) struct TokenAnswer {
    name: String,
    token: String,
}

#[derive(Serialize)]
pub(super) struct EndedAnswer {
    ended: usize,
}

/// The longest name of a token.
const MAX_NAME_BYTES: usize = 253;
/// The most grants of a token, and namespaces of a grant.
const MAX_GRANTS: usize = 100;

pub(super) async fn make(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<TokenAnswer>, Failure> {
    let TokenBody { name, grants } = read(body)?;
    check_name(&name)?;
    check_grants(&grants)?;
    blocking(move || {
        let made = demand_admin(&caller).and_then(|()| api.access.make_token(&name, grants).map_err(failed));
        write_down(&api, &caller, "make a token", &name, made.as_ref().err());
        Ok(Json(TokenAnswer { name, token: made? }))
    })
    .await
}

pub(super) async fn end(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<EndedAnswer>, Failure> {
    blocking(move || {
        let ended = demand_admin(&caller).and_then(|()| api.access.end_tokens(&name).map_err(failed));
        write_down(&api, &caller, "end tokens", &name, ended.as_ref().err());
        match ended? {
            0 => Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no token {name}"))),
            ended => Ok(Json(EndedAnswer { ended })),
        }
    })
    .await
}

/// A name stands in the audit log: it is to be taken for no other words there.
fn check_name(name: &str) -> Result<(), Failure> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Failure::bad(format!(
        "the name of a token has 1 to {MAX_NAME_BYTES} letters, digits and signs of ASCII, without spaces"
    )))
}

fn check_grants(grants: &[Grant]) -> Result<(), Failure> {
    let within = |count: usize| (1..=MAX_GRANTS).contains(&count);
    if !within(grants.len()) || !grants.iter().all(|grant| within(grant.namespaces.len())) {
        return Err(Failure::bad(format!(
            "a token needs 1 to {MAX_GRANTS} grants, of as many namespaces each"
        )));
    }
    let mut all = grants.iter().flat_map(|grant| &grant.namespaces);
    match all.find(|name| *name != ALL && !is_label(name)) {
        Some(other) => Err(Failure::bad(format!("{other:?} is no namespace, and not {ALL:?} for all"))),
        None => Ok(()),
    }
}

fn write_down(api: &Api, caller: &Caller, action: &str, name: &str, failure: Option<&Failure>) {
    let result = failure.map_or_else(|| "done".to_owned(), |failure| format!("refused: {failure}"));
    let resources = vec![name.to_owned()];
    let line = audit::Line { at: audit::now(), by: &caller.name, action, note: "", resources, result };
    match failure {
        None => api.audit.write(&line),
        Some(_) => api.audit.write_refused(line),
    }
}

fn demand_admin(caller: &Caller) -> Result<(), Failure> {
    caller.demand_name()?;
    if caller.is_admin() {
        return Ok(());
    }
    Err(Failure::new(StatusCode::FORBIDDEN, format!("{} may not make or end tokens", caller.name)))
}

fn failed(error: KvError) -> Failure {
    Refusal::Failed(error).into()
}

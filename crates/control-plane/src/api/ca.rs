//! The certificate authority: what it is, rotations of its root, and revocations. Who changes something here needs the role
//! admin for the whole mesh, and is written down.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use meshwork_identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::access::Caller;
use super::changes::{blocking, read};
use super::failure::Failure;
use super::{Api, audit};
use crate::authority::{Known, RevokeError, Revoked, RotateError, Status, Subject, Wish, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RotationBody {
    action: RotationAction,
    /// Who is not to be waited for, as `NAMESPACE/NAME`.
    #[serde(default)]
    without: Vec<String>,
    #[serde(default, alias = "without_offline")]
    without_offline: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RotationAction {
    /// Start one, or go on with the one that runs.
    Start,
    /// Turn it back.
    Abort,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationBody {
    identity: Option<String>,
    serial: Option<String>,
    #[serde(default)]
    reason: String,
}

/// Which revocation is to be taken back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    identity: Option<String>,
    serial: Option<String>,
}

#[derive(Serialize)]
pub(super) struct RevocationsAnswer {
    items: Vec<RevocationAnswer>,
}

/// What is revoked, why and by whom.
#[derive(Serialize)]
pub(super) struct RevocationAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    reason: String,
    by: String,
    at: String,
    /// When the certificate ends, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<String>,
}

/// A revocation that was just made, and whom it is about.
#[derive(Serialize)]
pub(super) struct RevokedAnswer {
    #[serde(flatten)]
    revocation: RevocationAnswer,
    /// Whether anybody is known to have it.
    known: bool,
    /// Who: workloads, registrations, agents that hold it for somebody.
    holders: Vec<String>,
    /// What may have been meant, where nobody is known to have it.
    near: Vec<String>,
    /// What there is to say then.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What has no namespace, and what is in all of them.
const ALL: &str = "*";

pub(super) async fn status(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Status>, Failure> {
    blocking(move || Ok(Json(shown(api.authority.status(), &caller)))).await
}

/// Our own bundle, as other trust domains get it: it is public.
pub(super) async fn bundle(State(api): State<Api>) -> Result<Json<serde_json::Value>, Failure> {
    blocking(move || {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        let text = api.authority.own_document().map_err(|error| failed(&error))?;
        Ok(Json(serde_json::from_str(&text).map_err(|error| failed(&error))?))
    })
    .await
}

pub(super) async fn rotation(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Status>, Failure> {
    demand_admin(&caller)?;
    let RotationBody { action, without, without_offline } = read(body)?;
    let wish = Wish { without, without_offline };
    blocking(move || {
        let (name, done) = match action {
            RotationAction::Start => ("rotate the root", api.authority.start(&wish, &caller.name)),
            RotationAction::Abort => ("abort the rotation", api.authority.abort(&wish)),
        };
        let done = done.map_err(Failure::from);
        write_down(&api, &caller, name, "", wish.words(), done.as_ref().err());
        done?;
        Ok(Json(shown(api.authority.status(), &caller)))
    })
    .await
}

pub(super) async fn revocations(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Json<RevocationsAnswer> {
    let all = api.authority.revocations().into_iter().filter(|revoked| may_see(&caller, revoked));
    Json(RevocationsAnswer { items: all.map(RevocationAnswer::of).collect() })
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RevokedAnswer>, Failure> {
    demand_admin(&caller)?;
    let RevocationBody { identity, serial, reason } = read(body)?;
    let subject = api.authority.subject(identity.as_deref(), serial.as_deref())?;
    blocking(move || {
        let (words, known) = (subject.words(), api.authority.known(&subject));
        let revoked = api.authority.revoke(subject, &reason, &caller.name).map_err(Failure::from);
        write_down(&api, &caller, "revoke", &reason, vec![words], revoked.as_ref().err());
        Ok(Json(RevokedAnswer::of(revoked?, known)))
    })
    .await
}

pub(super) async fn unrevoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Revocation>, QueryRejection>,
) -> Result<Json<RevocationsAnswer>, Failure> {
    demand_admin(&caller)?;
    let Query(Revocation { identity, serial }) = asked.map_err(|error| Failure::bad(error.body_text()))?;
    let subject = api.authority.subject(identity.as_deref(), serial.as_deref())?;
    blocking(move || {
        let done = api.authority.unrevoke(&subject).map_err(Failure::from);
        write_down(&api, &caller, "unrevoke", "", vec![subject.words()], done.as_ref().err());
        done?;
        let all = api.authority.revocations();
        Ok(Json(RevocationsAnswer { items: all.into_iter().map(RevocationAnswer::of).collect() }))
    })
    .await
}

fn demand_admin(caller: &Caller) -> Result<(), Failure> {
    caller.demand_name()?;
    if caller.is_admin() {
        return Ok(());
    }
    let message = format!(
        "{} may not change the certificate authority: that takes the role admin everywhere",
        caller.name
    );
    Err(Failure::new(StatusCode::FORBIDDEN, message))
}

/// Names are for those who may read their namespace; how many there are is for everybody.
fn shown(mut status: Status, caller: &Caller) -> Status {
    status.name_only(|name| {
        let namespace = name.split_once('/').map(|(namespace, _)| namespace);
        namespace.is_none_or(|namespace| caller.may_read(namespace))
    });
    status
}

fn may_see(caller: &Caller, revoked: &Revoked) -> bool {
    let id = match &revoked.subject {
        Subject::Identity(id) => SpiffeId::parse(id).ok(),
        Subject::Serial(_) => None,
    };
    let namespace = id.as_ref().and_then(SpiffeId::namespace_and_account).map(|(namespace, _)| namespace);
    caller.may_read(namespace.unwrap_or(ALL))
}

fn write_down(
    api: &Api,
    caller: &Caller,
    action: &str,
    note: &str,
    resources: Vec<String>,
    failure: Option<&Failure>,
) {
    let result = failure.map_or_else(|| "done".to_owned(), |failure| format!("refused: {failure}"));
    api.audit.write(&audit::Line { at: audit::now(), by: &caller.name, action, note, resources, result });
}

impl RevocationAnswer {
    fn of(revoked: Revoked) -> Self {
        let (identity, serial) = match revoked.subject {
            Subject::Identity(id) => (Some(id), None),
            Subject::Serial(serial) => (None, Some(serial)),
        };
        Self {
            identity,
            serial,
            reason: revoked.reason,
            by: revoked.by,
            at: text(revoked.at),
            ends: revoked.ends.map(text),
        }
    }
}

impl RevokedAnswer {
    fn of(revoked: Revoked, known: Known) -> Self {
        let Known { holders, near, note } = known;
        let revocation = RevocationAnswer::of(revoked);
        Self { revocation, known: !holders.is_empty(), holders, near, note }
    }
}

impl From<RotateError> for Failure {
    fn from(error: RotateError) -> Self {
        let status = match &error {
            RotateError::None(_) => StatusCode::CONFLICT,
            RotateError::Invalid(_) => StatusCode::BAD_REQUEST,
            RotateError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<RevokeError> for Failure {
    fn from(error: RevokeError) -> Self {
        let status = match &error {
            RevokeError::Invalid(_) => StatusCode::BAD_REQUEST,
            RevokeError::Unknown { .. } => StatusCode::NOT_FOUND,
            RevokeError::Store(_) | RevokeError::Publish(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

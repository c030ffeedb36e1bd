//! What becomes of one request, and why.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use meshwork_model::mesh::Key;
use meshwork_xds::Dialect;

use super::Api;
use super::access::Caller;
use super::changes::blocking;
use super::failure::Failure;
use crate::explain::{self, Explanation, Question};

/// By POST, with all that can be asked.
pub(super) async fn post(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Explanation>, Failure> {
    let Json(question) = question.map_err(|error| Failure::bad(error.body_text()))?;
    explain(api, caller, question).await
}

/// By GET, of a request without header fields.
pub(super) async fn get(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<BTreeMap<String, String>>, QueryRejection>,
) -> Result<Json<Explanation>, Failure> {
    let Query(mut asked) = asked.map_err(|error| Failure::bad(error.body_text()))?;
    let (Some(from), Some(to)) = (asked.remove("from"), asked.remove("to")) else {
        let example =
            "/api/v1/explain?from=web.shop&to=cart.shop:80&method=GET&path=/items; POST takes headers, too";
        return Err(Failure::bad(format!("who asks what? ask as {example}")));
    };
    let mut question = Question::new(from, to);
    for (name, value) in asked {
        match name.as_str() {
            "method" => question.method = value,
            "path" => question.path = value,
            "sni" => question.sni = Some(value),
            "sourceIp" => {
                let ip = value.parse().map_err(|_| Failure::bad(format!("{value:?} is no IP address")))?;
                question.source_ip = Some(ip);
            }
            other => return Err(Failure::bad(format!("there is no parameter {other}"))),
        }
    }
    explain(api, caller, question).await
}

async fn explain(api: Api, caller: Caller, question: Question) -> Result<Json<Explanation>, Failure> {
    let mesh = api.world.mesh();
    let dialects: BTreeMap<Key, Dialect> =
        api.world.proxies(|key, proxy| (key.clone(), proxy.dialect)).into_iter().collect();
    // What is wrong is told with names of what there is.
    let sees_all = caller.may_read("*");
    let explanation = blocking(move || {
        let dialect = |key: &Key| dialects.get(key).copied().unwrap_or(Dialect::Meshwork);
        let explained = explain::explain(&mesh, &question, &dialect, SystemTime::now());
        let wrong =
            |why: String| if sees_all { why } else { "there is nothing such that you may read".to_owned() };
        explained.map_err(|why| Failure::bad(wrong(why)))
    });
    let explanation = explanation.await?;
    // It tells config of both sides.
    let parties = [&explanation.from].into_iter().chain(explanation.inbound.iter().map(|one| &one.to));
    let namespaces = parties.filter_map(|party| party.workload.rsplit_once('.'));
    for (_, namespace) in namespaces {
        if !caller.may_read(namespace) {
            let message =
                format!("{} may not read the namespace {namespace}, which this would tell of", caller.name);
            return Err(Failure::new(StatusCode::FORBIDDEN, message));
        }
    }
    Ok(Json(explanation))
}

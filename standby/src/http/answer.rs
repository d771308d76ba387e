//! What is answered to which question.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};

use super::lookout::Lookout;
use super::metrics;
use crate::status::{ProtectionState, Role, Status};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const PATHS: &str = "GET /healthz, /readyz, /metrics or /v1/status\n";

/// Answers one request.
pub(super) async fn answer(method: &Method, uri: &Uri, lookout: &Lookout) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, PATHS.to_owned());
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    match uri.path() {
        // That this process answers is all that it says.
        "/healthz" => text(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let asked = match Asked::parse(uri.query().unwrap_or_default()) {
                Ok(asked) => asked,
                Err(why) => return text(StatusCode::BAD_REQUEST, TEXT, why + "\n"),
            };
            let why_not = match lookout.look().await {
                Ok(look) => why_not_ready(&look.status, &asked),
                Err(why) => vec![why],
            };
            if why_not.is_empty() {
                text(StatusCode::OK, TEXT, "ready\n".to_owned())
            } else {
                let why = why_not.join("\n") + "\n";
                text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
            }
        }
        "/metrics" => {
            let look = lookout.look().await.ok();
            text(StatusCode::OK, METRICS, metrics::text(look.as_deref()))
        }
        "/v1/status" => match lookout.look().await {
            Ok(look) => match serde_json::to_string(&look.status) {
                Ok(status) => text(StatusCode::OK, JSON, status + "\n"),
                Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            },
            Err(why) => failed(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        _ => text(StatusCode::NOT_FOUND, TEXT, PATHS.to_owned()),
    }
}

fn failed(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let value = serde_json::json!({ "schema": 1, "error": why });
    text(status, JSON, format!("{value}\n"))
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What `/readyz` is asked for: `role=primary|standby`, `max_lag_ms=N`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Asked {
    standby: Option<bool>,
    lag_ms_max: Option<u64>,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("role", "primary")) => asked.standby = Some(false),
                Some(("role", "standby")) => asked.standby = Some(true),
                Some(("max_lag_ms", ms)) => {
                    let ms = ms.parse();
                    let ms = ms.map_err(|_| "max_lag_ms is a number of milliseconds".to_owned())?;
                    asked.lag_ms_max = Some(ms);
                }
                _ => {
                    let what = "readyz takes role=primary or role=standby, and max_lag_ms=N";
                    return Err(what.to_owned());
                }
            }
        }
        Ok(asked)
    }
}

/// What speaks against sending anybody to this node now.
pub(super) fn why_not_ready(status: &Status, asked: &Asked) -> Vec<String> {
    let mut why_not = Vec::new();
    match &status.role {
        Role::Primary | Role::Standby => {}
        Role::WaitingForPeer => {
            why_not.push("it waits to hear from its standby: it may have been replaced".to_owned());
        }
        Role::NotFollowing { reason } => why_not.push(format!("it follows no longer: {reason}")),
        Role::Fenced { term } => why_not.push(format!("it is fenced by term {term}")),
        Role::Conflict { what } => why_not.push(format!("two histories contradict: {what}")),
        Role::Poisoned { reason } => why_not.push(format!("its disk failed: {reason}")),
    }
    let is_standby = matches!(status.role, Role::Standby | Role::NotFollowing { .. });
    match asked.standby {
        Some(true) if !is_standby => why_not.push("it is no standby".to_owned()),
        Some(false) if status.role != Role::Primary => {
            why_not.push("it is no primary".to_owned());
        }
        _ => {}
    }
    let in_force = status.protection.as_ref().filter(|it| {
        matches!(
            it.state,
            ProtectionState::Protected | ProtectionState::Stalled | ProtectionState::Shut
        )
    });
    if in_force.is_some_and(|it| it.lease_out) {
        let what = "its standby was not heard for as long as the lease: it may have been replaced";
        why_not.push(what.to_owned());
    }
    if let Some(most) = asked.lag_ms_max {
        let behind = if is_standby {
            // What it cannot hear of, it lacks.
            let heard = status.peer.as_ref().and_then(|peer| peer.contact_age_ms);
            status.lag.map(|lag| lag.ms.max(heard.unwrap_or(u64::MAX)))
        } else {
            status.lag.map(|lag| lag.ms)
        };
        match behind {
            Some(ms) if ms <= most => {}
            Some(u64::MAX) | None => why_not.push("its lag is not known".to_owned()),
            Some(ms) => why_not.push(format!("it lags by {ms} ms")),
        }
    }
    why_not
}

//! What the HTTP surface takes and answers, for those who write clients: an OpenAPI 3.1 document, `GET /api/openapi.json`.
//!
//! It is made of the code. The methods and addresses are [`ADDRESSES`], each read by the very [`routes::parse`] that reads requests; what
//! each of them does is told by [`operations::operation`], which names every [`Route`]; bodies are the types that are read and written
//! (their schemas are derived from their serde attributes), problems are the [`Problem`]s that are answered. Tests see to it that no
//! route is left out, and schemathesis holds the servers to what is written here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use http::{HeaderMap, Method, header};
use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, transform::RecursiveTransform,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    guard,
    routes::{self, Kind, PROBLEM_TYPE, Problem, ProblemBody, Route},
};

mod operations;
#[cfg(test)]
mod tests;

use operations::operation;

/// `Content-Type` of the document.
pub const CONTENT_TYPE: &str = "application/json";

/// What is told of all of it.
const INTRODUCTION: &str = "Self-hosted live streaming: streams and who may watch them, playlists and media, and what a box of the \
     same installation asks. Every answer that is no success is a problem (RFC 9457) with a stable `type`. `HEAD` is answered wherever \
     `GET` is, without the body. Every public address answers `OPTIONS` as `/api/streams` does, without the CORS headers \
     where scripts of other sites may not ask. Where certificates are got by ACME, its challenges are answered under \
     `/.well-known/acme-challenge/` (RFC 8555).";

/// Every method of every address, in the order of the document. A part in braces is a parameter of [`parameter`].
const ADDRESSES: &[(Method, &str)] = &[
    (Method::GET, "/api/streams"),
    (Method::POST, "/api/streams"),
    (Method::OPTIONS, "/api/streams"),
    (Method::GET, "/api/streams/{stream}"),
    (Method::PATCH, "/api/streams/{stream}"),
    (Method::DELETE, "/api/streams/{stream}"),
    (Method::POST, "/api/streams/{stream}/keys"),
    (Method::GET, "/api/streams/{stream}/sessions"),
    (Method::DELETE, "/api/streams/{stream}/sessions/{id}"),
    (Method::GET, "/api/streams/{stream}/links"),
    (Method::POST, "/api/streams/{stream}/links"),
    (Method::DELETE, "/api/streams/{stream}/links/{jti}"),
    (Method::POST, "/api/streams/{stream}/beacon"),
    (Method::GET, "/api/studio/{stream}"),
    (Method::POST, "/api/studio/{stream}/rotate-key"),
    (Method::POST, "/api/studio/{stream}/log-out"),
    (Method::POST, "/api/tokens"),
    (Method::POST, "/api/revocations"),
    (Method::GET, "/api/webhooks/dead"),
    (Method::POST, "/api/webhooks/dead/resend"),
    (Method::POST, "/api/webhooks/dead/{event}/resend"),
    (Method::GET, "/api/time"),
    (Method::GET, "/api/openapi.json"),
    (Method::GET, "/.well-known/jwks.json"),
    (Method::GET, "/live/{stream}/index.m3u8"),
    (Method::GET, "/live/{stream}/manifest.mpd"),
    (
        Method::GET,
        "/live/{stream}/{broadcast}/{session}/{track}/index.m3u8",
    ),
    (
        Method::GET,
        "/live/{stream}/{broadcast}/{session}/{track}/{msn}.m4s",
    ),
    (Method::GET, "/media/{stream}/{broadcast}/{track}/{object}"),
    (Method::POST, "/whep/{stream}"),
    (Method::PATCH, "/whep/{stream}/{broadcast}/{session}"),
    (Method::DELETE, "/whep/{stream}/{broadcast}/{session}"),
    (Method::GET, "/"),
    (Method::GET, "/watch/{stream}"),
    (Method::GET, "/embed/{stream}"),
    (Method::GET, "/studio/{stream}"),
    (Method::GET, "/assets/{file}"),
    (Method::GET, "/healthz"),
    (Method::GET, "/readyz"),
    (Method::POST, "/internal/admit"),
    (Method::POST, "/internal/broadcasts"),
    (Method::GET, "/internal/link/{broadcast}"),
    (Method::PUT, "/internal/streams/{stream}"),
    (Method::PUT, "/internal/streams/{stream}/settings"),
    (
        Method::PUT,
        "/internal/media/{stream}/{broadcast}/{track}/{object}",
    ),
    (
        Method::DELETE,
        "/internal/media/{stream}/{broadcast}/{track}/{object}",
    ),
];

/// What lets somebody in, of which one is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    /// Nothing is asked for.
    Open,
    /// A token, where the stream needs one: as a header or in the query, or the session that it began.
    Watch,
    /// Nothing, but who brings a token is told more.
    Told,
    /// As [`Self::Told`], by a studio link too.
    ToldOfOne,
    /// A token that manages.
    Token,
    /// A token that manages the stream, or its studio link.
    Owner,
    /// The studio link.
    Studio,
    /// The secret that box and edge share.
    Box,
}

impl Security {
    fn schemes(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Open => &[],
            Self::Watch => &[&[], &["token"], &["tokenInQuery"], &["sessionInQuery"]],
            Self::Told => &[&[], &["token"]],
            Self::ToldOfOne => &[&[], &["token"], &["studio"]],
            Self::Token => &[&["token"]],
            Self::Owner => &[&["token"], &["studio"]],
            Self::Studio => &[&["studio"]],
            Self::Box => &[&["box"]],
        }
    }
}

/// What comes after the question mark, or as a header.
#[derive(Debug)]
struct Parameter {
    place: &'static str,
    name: &'static str,
    description: &'static str,
    schema: Value,
}

/// What a request brings.
#[derive(Debug)]
struct Body {
    content_type: &'static str,
    required: bool,
    schema: Value,
}

/// A success, or what is none and no problem either.
#[derive(Debug)]
struct Answer {
    status: u16,
    description: &'static str,
    /// By content type; none where it has no body.
    content: Vec<(&'static str, Value)>,
    headers: &'static [&'static str],
}

/// One method of one address.
#[derive(Debug)]
struct Operation {
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    security: Security,
    parameters: Vec<Parameter>,
    body: Option<Body>,
    answers: Vec<Answer>,
    /// Those of its own: what any of them may say is added to them.
    problems: Vec<Problem>,
}

/// The schemas that the operations refer to: of what is read, and of what is written.
struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings
                .transforms
                .push(Box::new(RecursiveTransform(whole)));
            settings
        };
        Self {
            read: settings().for_deserialize().into_generator(),
            written: settings().for_serialize().into_generator(),
        }
    }

    /// Of a body that is read.
    fn read<T: JsonSchema>(&mut self) -> Value {
        self.read.subschema_for::<T>().to_value()
    }

    /// Of a body that is written.
    fn written<T: JsonSchema>(&mut self) -> Value {
        self.written.subschema_for::<T>().to_value()
    }

    /// All of them by name. What is read differs from what is written in what may be left out: a type that is both has two names.
    fn take(mut self) -> Map<String, Value> {
        let mut all = self.written.take_definitions(true);
        all.extend(self.read.take_definitions(true));
        all
    }
}

/// Says what serde does not tell: the largest number of an unsigned type, and no links to other parts of the source.
fn whole(schema: &mut Schema) {
    let format = schema.get("format").and_then(Value::as_str);
    let most = match format {
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64") => Some(u64::MAX),
        _ => None,
    };
    if let Some(most) = most.filter(|_| schema.get("maximum").is_none()) {
        schema.insert("maximum".to_owned(), most.into());
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = (text.replace("[`", "`").replace("`]", "`")).replace("crate::", "");
    }
}

/// A part of an address: an example that there may be, and its schema.
fn parameter(name: &str, schemas: &mut Schemas) -> Option<(&'static str, Value)> {
    use protocol::{
        names::{BroadcastId, StreamName, TrackName},
        schema, token,
    };
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    Some(match name {
        "stream" => ("main", schemas.read::<StreamName>()),
        "broadcast" => ("aaaaaaaaaaaaaaaaaaaaaaaaaa", schemas.read::<BroadcastId>()),
        "track" => ("v-source", schemas.read::<TrackName>()),
        "id" | "jti" => ("AAAAAAAAAAAAAAAA", schemas.read::<token::Tag>()),
        "event" => (
            "aaaaaaaaaaaaaaaaaaaaaaaaaa.live",
            text("^[a-z2-7]{26}\\.(?:live|ended|peak-(?:0|[1-9][0-9]{0,17}))$"),
        ),
        "session" => (
            "-",
            json!({
                "type": "string", "pattern": routes::SESSION,
                "description": "The playback session, from the multivariant playlist: `-` where none is needed.",
            }),
        ),
        "msn" => (
            "0",
            json!({
                "type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX,
                "description": "The media sequence number.",
            }),
        ),
        "object" => ("0.aaaaaaaaaaaaaaaaaaaa.m4s", text(schema::OBJECT)),
        "file" => (
            "index.js",
            text("^[A-Za-z0-9_@-][A-Za-z0-9_.@-]*\\.(?:js|css|svg|png|woff2)$"),
        ),
        _ => return None,
    })
}

/// The names in braces.
fn names(address: &str) -> impl Iterator<Item = &str> {
    let parts = address.split('{').skip(1);
    parts.filter_map(|part| part.split_once('}').map(|(name, _)| name))
}

/// What the address is, with the examples of its parameters.
fn route(
    method: &Method,
    address: &str,
    parameters: &BTreeMap<&str, (&'static str, Value)>,
) -> Option<Route> {
    let mut path = address.to_owned();
    for (name, (example, _)) in parameters {
        path = path.replace(&format!("{{{name}}}"), example);
    }
    routes::parse(method, &path, None).ok()
}

/// What any answer may be: problems that have nothing to do with what is asked for.
fn common(route: &Route, address: &str, has_body: bool) -> Vec<Problem> {
    let mut all = vec![Problem::unavailable()];
    // A part of another form names nothing.
    if names(address).next().is_some() {
        all.push(Problem::not_found());
    }
    if !route.is_internal() {
        all.push(Problem::too_often(std::time::Duration::from_secs(1)));
    }
    all.extend(guard::kept_from(route));
    if !matches!(route, Route::Preflight { .. }) {
        all.push(Problem::uri_too_long());
    }
    if has_body {
        all.extend([Problem::too_large(), Problem::slow()]);
    }
    all
}

/// A header as it is described, and whether each such answer has it.
fn headers<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    let described = names.into_iter().map(|name| {
        let schema = match name {
            "retry-after" => json!({ "type": "integer", "minimum": 1 }),
            _ => json!({ "type": "string" }),
        };
        (
            name.to_owned(),
            json!({ "required": true, "schema": schema }),
        )
    });
    Value::Object(described.collect())
}

/// The problems of a status.
fn problem_response(route: &Route, status: u16, problems: &[&Problem], schema: &Value) -> Value {
    let kinds: BTreeSet<Kind> = problems.iter().map(|problem| problem.kind()).collect();
    let kinds: Vec<String> = kinds.into_iter().map(Kind::name).collect();
    let described: BTreeSet<String> = problems.iter().map(|problem| problem.sentence()).collect();
    // What all of them carry.
    let carried: Vec<HeaderMap> = (problems.iter())
        .map(|problem| problem.headers(Some(route)))
        .collect();
    let said = [header::RETRY_AFTER, header::WWW_AUTHENTICATE];
    let said = said
        .iter()
        .filter(|name| carried.iter().all(|map| map.contains_key(*name)))
        .map(|name| name.as_str());
    json!({
        "description": described.into_iter().collect::<Vec<_>>().join(" "),
        "headers": headers(said),
        "content": { PROBLEM_TYPE: { "schema": {
            "allOf": [schema],
            "properties": { "type": { "enum": kinds }, "status": { "const": status } },
        } } },
    })
}

fn responses(route: &Route, address: &str, operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut all = Map::new();
    for answer in &operation.answers {
        let mut response = json!({
            "description": answer.description,
            "headers": headers(answer.headers.iter().copied()),
        });
        if !answer.content.is_empty() {
            let content = (answer.content.iter())
                .map(|(name, schema)| ((*name).to_owned(), json!({ "schema": schema })));
            response["content"] = Value::Object(content.collect());
        }
        all.insert(answer.status.to_string(), response);
    }
    let common = common(route, address, operation.body.is_some());
    let mut by_status: BTreeMap<u16, Vec<&Problem>> = BTreeMap::new();
    for problem in operation.problems.iter().chain(&common) {
        by_status
            .entry(problem.status.as_u16())
            .or_default()
            .push(problem);
    }
    let schema = schemas.written::<ProblemBody<'_>>();
    for (status, problems) in by_status {
        let response = problem_response(route, status, &problems, &schema);
        all.insert(status.to_string(), response);
    }
    Value::Object(all)
}

fn described(method: &Method, address: &str, schemas: &mut Schemas) -> Option<Value> {
    let parts: BTreeMap<&str, (&'static str, Value)> = names(address)
        .filter_map(|name| parameter(name, schemas).map(|schema| (name, schema)))
        .collect();
    let route = route(method, address, &parts)?;
    let operation = operation(&route, method, schemas);
    let mut parameters: Vec<Value> = names(address)
        .filter_map(|name| parts.get(name).map(|(_, schema)| (name, schema)))
        .map(|(name, schema)| json!({ "name": name, "in": "path", "required": true, "schema": schema }))
        .collect();
    parameters.extend(operation.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": parameter.place, "required": false,
            "description": parameter.description, "schema": parameter.schema,
        })
    }));
    let security: Vec<Value> = (operation.security.schemes().iter())
        .map(|schemes| schemes.iter().map(|name| ((*name).to_owned(), json!([]))))
        .map(|schemes| Value::Object(schemes.collect()))
        .collect();
    let mut told = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": security,
        "responses": responses(&route, address, &operation, schemas),
    });
    if !parameters.is_empty() {
        told["parameters"] = parameters.into();
    }
    if let Some(body) = &operation.body {
        told["requestBody"] = json!({
            "required": body.required,
            "content": { body.content_type: { "schema": body.schema } },
        });
    }
    Some(told)
}

fn security_schemes() -> Value {
    json!({
        "token": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "A capability token signed with Ed25519: what it says is what its bearer may do.",
        },
        "studio": {
            "type": "http", "scheme": "bearer",
            "description": "What the studio link of a stream carries behind its `#`.",
        },
        "tokenInQuery": {
            "type": "apiKey", "in": "query", "name": "token",
            "description": "The token, where a player can set no header.",
        },
        "sessionInQuery": {
            "type": "apiKey", "in": "query", "name": "session",
            "description": "The playback session that a token began.",
        },
        "box": {
            "type": "apiKey", "in": "header", "name": "authorization",
            "description": "`GhostLive {unix seconds}.{nonce}.{proof}`: an HMAC-SHA256 over method, path, time and nonce with the \
                secret that box and edge share. The edge proves itself in `x-ghost-live-edge`.",
        },
    })
}

/// The document.
fn build() -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Vec<(&str, Map<String, Value>)> = Vec::new();
    for (method, address) in ADDRESSES {
        let Some(told) = described(method, address, &mut schemas) else {
            continue;
        };
        let method = method.as_str().to_ascii_lowercase();
        match paths.iter_mut().find(|(known, _)| known == address) {
            Some((_, methods)) => drop(methods.insert(method, told)),
            None => paths.push((address, Map::from_iter([(method, told)]))),
        }
    }
    let paths: Map<String, Value> = (paths.into_iter())
        .map(|(address, methods)| (address.to_owned(), methods.into()))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ghost Live",
            "version": env!("CARGO_PKG_VERSION"),
            "description": INTRODUCTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": schemas.take(), "securitySchemes": security_schemes() },
    })
}

/// The document's bytes, made once, and the same wherever they are served.
pub fn document() -> &'static str {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    DOCUMENT.get_or_init(|| build().to_string())
}

/// Its `ETag`: weak, for a compressed form is the same document.
pub fn etag() -> &'static str {
    static ETAG: OnceLock<String> = OnceLock::new();
    ETAG.get_or_init(|| {
        let digest = Sha256::digest(document());
        let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("W/\"{digest}\"")
    })
}

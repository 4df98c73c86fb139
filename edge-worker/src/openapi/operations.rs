//! What each route takes and answers.

use http::Method;
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link_auth, signaling,
    token::{Action, Jwks, MintError, Refusal, Revocation},
};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::{Answer, Body, CONTENT_TYPE, Operation, Parameter, Schemas, Security};
use crate::{
    access::{Link, MAX_LINKS, Minted, TakeBack, Wanted, WantedLink},
    api::{LinkList, LoggedOut, SessionList, StreamList, StreamSummary, Studio, Time},
    audience::Beacon,
    directory::{Refusal as Unkept, StreamEntry, settings::Change},
    limits::Full,
    playlist::{DASH_TYPE, HLS_TYPE},
    routes::{Page, Problem, Route},
    sessions::NotOneMore,
    signaling::{FRAGMENT, SDP, refused},
    streams::{Create, Created, Rotate, Rotated, unkept},
    webhooks::dead::{DeadLetters, Resend, Resent},
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const VIDEO: &str = "video/mp4";
const AUDIO: &str = "audio/mp4";
const BYTES: &str = "application/octet-stream";
/// What the edge proves itself with to a box.
const PROOF: &[&str] = &[link_auth::RESPONSE_HEADER];

impl Answer {
    fn empty(status: u16, description: &'static str) -> Self {
        Self {
            status,
            description,
            content: Vec::new(),
            headers: &[],
        }
    }

    fn json<T: JsonSchema>(schemas: &mut Schemas, status: u16, description: &'static str) -> Self {
        Self {
            content: vec![(JSON, schemas.written::<T>())],
            ..Self::empty(status, description)
        }
    }

    fn text(description: &'static str, types: &[&'static str]) -> Self {
        let text = || json!({ "type": "string" });
        Self {
            content: types.iter().map(|name| (*name, text())).collect(),
            ..Self::empty(200, description)
        }
    }

    fn bytes(status: u16, description: &'static str, types: &[&'static str]) -> Self {
        Self {
            content: types.iter().map(|name| (*name, json!({}))).collect(),
            ..Self::empty(status, description)
        }
    }

    fn with(self, headers: &'static [&'static str]) -> Self {
        Self { headers, ..self }
    }
}

impl Body {
    fn json<T: JsonSchema>(schemas: &mut Schemas) -> Self {
        Self {
            content_type: JSON,
            required: true,
            schema: schemas.read::<T>(),
        }
    }
}

impl Operation {
    fn new(id: &'static str, tag: &'static str, summary: &'static str, security: Security) -> Self {
        Self {
            id,
            tag,
            summary,
            security,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: match security {
                Security::Open => Vec::new(),
                Security::Watch => watching(),
                Security::Told | Security::ToldOfOne => token(),
                Security::Token | Security::Owner => managing(),
                Security::Studio => vec![Problem::unauthorized()],
                // Without a secret there is nothing internal at all.
                Security::Box => vec![Problem::unauthorized(), Problem::not_found()],
            },
        }
    }

    /// With a body, of which it can be said that it is no good one.
    fn taking<T: JsonSchema>(mut self, schemas: &mut Schemas) -> Self {
        self.body = Some(Body::json::<T>(schemas));
        self.problems.push(Problem::body(
            "The body is not the JSON that this address takes.",
        ));
        self
    }

    fn answering(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    fn failing(mut self, problems: impl IntoIterator<Item = Problem>) -> Self {
        self.problems.extend(problems);
        self
    }

    fn with(mut self, name: &'static str, description: &'static str, schema: Value) -> Self {
        let place = "query";
        self.parameters.push(Parameter {
            place,
            name,
            description,
            schema,
        });
        self
    }

    fn with_header(mut self, name: &'static str, description: &'static str) -> Self {
        self.parameters.push(Parameter {
            place: "header",
            name,
            description,
            schema: json!({ "type": "string" }),
        });
        self
    }

    /// Asked for again with the `ETag` of what is there already.
    fn revalidated(self) -> Self {
        self.with_header("if-none-match", "The `etag` of the answer that is kept.")
            .answering(Answer::empty(304, "What is kept is what there is.").with(&["etag"]))
    }
}

/// A token that is brought and lets nobody in.
fn token() -> Vec<Problem> {
    [
        Refusal::Malformed,
        Refusal::Expired,
        Refusal::Revoked,
        Refusal::Stream,
        Refusal::Address,
        Refusal::Action(Action::Manage),
    ]
    .iter()
    .map(Problem::token)
    .collect()
}

/// Somebody who may not manage.
fn managing() -> Vec<Problem> {
    let mut all = token();
    all.push(Problem::unauthorized());
    all
}

/// Somebody who may not watch.
fn watching() -> Vec<Problem> {
    let mut all = token();
    all.extend([
        Problem::token_needed(),
        Problem::session_needed(),
        Problem::not_one_more(&NotOneMore::InUse(1)),
        Problem::not_one_more(&NotOneMore::Full),
    ]);
    all
}

/// Where playing begins.
fn entrance(id: &'static str, summary: &'static str, content_type: &'static str) -> Operation {
    Operation::new(id, "watch", summary, Security::Watch)
        .answering(Answer::text("What can be played now.", &[content_type]))
        .answering(
            Answer::empty(307, "A webhook sends the viewer to another stream.").with(&["location"]),
        )
        .failing([
            Problem::no_stream(),
            Problem::not_live(),
            Problem::denied("A webhook does not let this viewer in.".to_owned()),
            Problem::full("As many are watching as may.".to_owned()),
            Problem::no_token_keys(),
        ])
}

/// What a body of WebRTC signaling may be answered with.
fn signaled(kind: &'static str) -> Vec<Problem> {
    vec![
        Problem::media_type(kind),
        refused(signaling::Refusal::Malformed),
        Problem::unlinked(),
        Problem::no_answer(),
    ]
}

fn sdp(content_type: &'static str) -> Body {
    Body {
        content_type,
        required: true,
        schema: json!({ "type": "string", "maxLength": signaling::MAX_SDP_BYTES }),
    }
}

fn page(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, "pages", summary, Security::Open)
        .answering(Answer::text("The page.", &["text/html"]).with(&["etag"]))
        .revalidated()
        // Built without the pages.
        .failing([Problem::not_found()])
}

/// What a route takes and answers. `method` tells apart what one route does with several.
pub(super) fn operation(route: &Route, method: &Method, schemas: &mut Schemas) -> Operation {
    use Security::{Box, Open as Public, Owner, Token, Told, ToldOfOne, Watch};
    let s = schemas;
    match route {
        // ---- streams
        Route::Streams => Operation::new(
            "listStreams",
            "streams",
            "The public streams, and those that a token lets watch or manage",
            Told,
        )
        .answering(Answer::json::<StreamList>(s, 200, "Streams by name.")),
        Route::Stream(_) => Operation::new("getStream", "streams", "A stream", ToldOfOne)
            .answering(Answer::json::<StreamSummary>(s, 200, "The stream."))
            .failing([Problem::no_stream(), Problem::token_needed()]),
        Route::CreateStream => Operation::new(
            "createStream",
            "streams",
            "Makes a stream of a name that the token manages",
            Token,
        )
        .taking::<Create>(s)
        .answering(Answer::json::<Created>(
            s,
            201,
            "The stream with its secrets, which are told this once.",
        ))
        .failing([Problem::stream_exists(), Problem::too_many(&Full::Streams(100))]),
        Route::ChangeStream(_) => Operation::new(
            "changeStream",
            "streams",
            "Changes what is named: `null` takes a title or a limit away; a studio link changes no limits",
            Owner,
        )
        .taking::<Change>(s)
        .answering(Answer::json::<StreamSummary>(s, 200, "The stream as it is now."))
        .failing([Problem::no_stream(), Problem::studio_limits()]),
        Route::DeleteStream(_) => Operation::new(
            "deleteStream",
            "streams",
            "Ends the stream's broadcast, and deletes it with its objects, links and keys",
            Token,
        )
        .answering(Answer::empty(204, "It is gone."))
        .failing([unkept(&Unkept::Key)]),
        Route::NewKey(_) => {
            let mut operation = Operation::new(
                "rotateStreamKey",
                "streams",
                "A new stream key; the one before can go on for a while",
                Token,
            )
            .taking::<Rotate>(s)
            .answering(Answer::json::<Rotated>(s, 200, "The new key, which is told this once."))
            .failing([Problem::no_stream()]);
            if let Some(body) = &mut operation.body {
                body.required = false;
            }
            operation
        }
        Route::Sessions(_) => Operation::new(
            "listSessions",
            "sessions",
            "Who watches with a token now",
            Owner,
        )
        .answering(Answer::json::<SessionList>(s, 200, "Playback sessions, newest first."))
        .failing([Problem::no_stream()]),
        Route::EndSession(..) => {
            Operation::new("endSession", "sessions", "Ends a playback session", Owner)
                .answering(Answer::empty(204, "It is over; its token is as good as before."))
                .failing([Problem::no_stream()])
        }
        Route::Links(_) if method == Method::POST => {
            Operation::new("createLink", "links", "Makes a watch link", Owner)
                .taking::<WantedLink>(s)
                .answering(Answer::json::<Link>(s, 201, "The link's token."))
                .failing([Problem::no_stream(), Problem::too_many_links(MAX_LINKS)])
        }
        Route::Links(_) => Operation::new("listLinks", "links", "The stream's watch links", Owner)
            .answering(Answer::json::<LinkList>(s, 200, "Watch links, newest first."))
            .failing([Problem::no_stream()]),
        Route::DeleteLink(..) => Operation::new(
            "deleteLink",
            "links",
            "Takes a watch link back, and ends what it began",
            Owner,
        )
        .answering(Answer::empty(204, "It is void."))
        .failing([Problem::no_stream(), Problem::not_found()]),
        Route::Beacon(_) => Operation::new(
            "countViewer",
            "streams",
            "A player says that it watches, or that its page is left",
            Public,
        )
        .taking::<Beacon>(s)
        .answering(Answer::empty(204, "It is counted."))
        .failing([Problem::no_stream()]),
        // ---- the studio
        Route::Studio(_) => Operation::new("getStudio", "studio", "What the studio page shows", Owner)
            .answering(Answer::json::<Studio>(s, 200, "The stream with its key.")),
        Route::RotateKey(_) => Operation::new(
            "rotateKeyInStudio",
            "studio",
            "A new stream key; the one before is void",
            Owner,
        )
        .answering(Answer::json::<Studio>(s, 200, "The stream with its new key.")),
        Route::LogOut(_) => Operation::new(
            "logOutOfStudio",
            "studio",
            "Makes a new studio link: the one before is void, and what plays by it ends",
            Security::Studio,
        )
        .answering(Answer::json::<LoggedOut>(s, 200, "What the studio link carries from now on.")),
        // ---- tokens
        Route::Tokens => Operation::new(
            "mintToken",
            "tokens",
            "Mints a token for streams that the token of whoever asks manages",
            Token,
        )
        .taking::<Wanted>(s)
        .answering(Answer::json::<Minted>(s, 200, "The token."))
        .failing([
            Problem::mint(&MintError::TooLong(1_100, 1_024)),
            Problem::not_found(),
        ]),
        Route::Revocations => Operation::new(
            "revoke",
            "tokens",
            "Takes a token, what a subject was given, a session, or all of it back",
            Owner,
        )
        .taking::<TakeBack>(s)
        .answering(Answer::json::<Revocation>(s, 200, "What holds from now on.")),
        Route::DeadLetters => Operation::new(
            "listDeadLetters",
            "webhooks",
            "The events that no webhook took, for whoever manages all streams",
            Token,
        )
        .answering(Answer::json::<DeadLetters>(s, 200, "Dead letters, oldest first.")),
        Route::Resend(id) => {
            let (name, what) = match id {
                Some(_) => ("resendDeadLetter", "Sends one dead letter again"),
                None => ("resendDeadLetters", "Sends all dead letters again, or those of one webhook"),
            };
            let mut operation = Operation::new(name, "webhooks", what, Token)
                .taking::<Resend>(s)
                .answering(Answer::json::<Resent>(s, 200, "How many are sent again."));
            if let Some(body) = &mut operation.body {
                body.required = false;
            }
            match id {
                Some(_) => operation.failing([Problem::no_dead_letter()]),
                None => operation,
            }
        }
        Route::Jwks => Operation::new(
            "getKeys",
            "tokens",
            "The public keys of this installation's tokens",
            Public,
        )
        .answering(Answer::json::<Jwks>(s, 200, "A JSON Web Key Set (RFC 7517).")),
        // ---- the server
        Route::Time { .. } => Operation::new(
            "getTime",
            "server",
            "The clock that the timelines run by",
            Public,
        )
        .with("iso", "As ISO 8601 text instead of JSON.", json!({ "type": "string" }))
        .answering(Answer {
            content: vec![
                (JSON, s.written::<Time>()),
                (TEXT, json!({ "type": "string" })),
            ],
            ..Answer::empty(200, "The time now.")
        }),
        Route::OpenApi => Operation::new("getDescription", "server", "This document", Public)
            .answering(
                Answer {
                    content: vec![(CONTENT_TYPE, json!({ "type": "object" }))],
                    ..Answer::empty(200, "OpenAPI 3.1.")
                }
                .with(&["etag"]),
            )
            .revalidated(),
        Route::Health => Operation::new("getHealth", "server", "Whether it runs", Public)
            .answering(Answer::text("It does.", &[TEXT])),
        Route::Ready => Operation::new("getReadiness", "server", "Whether it takes requests", Public)
            .answering(Answer::text("It does.", &[TEXT])),
        Route::Preflight { .. } => Operation::new(
            "preflight",
            "server",
            "A CORS preflight: every public address answers it alike",
            Public,
        )
        .answering(
            Answer::empty(204, "What scripts of other sites may ask for.").with(&[
                "access-control-allow-origin",
                "access-control-allow-methods",
                "access-control-allow-headers",
                "access-control-max-age",
            ]),
        ),
        // ---- watching
        Route::Multivariant(_) => entrance(
            "getMultivariantPlaylist",
            "The multivariant playlist (HLS): where playing begins",
            HLS_TYPE,
        ),
        Route::Dash(_) => entrance(
            "getManifest",
            "The MPD (DASH): where playing begins",
            DASH_TYPE,
        ),
        Route::Media(..) => {
            let number = json!({ "type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX });
            Operation::new(
                "getMediaPlaylist",
                "watch",
                "A media playlist (low-latency HLS, RFC 8216bis section 6.2.5)",
                Watch,
            )
            .with("_HLS_msn", "Answer once this segment is there.", number.clone())
            .with("_HLS_part", "Answer once this part of it is there. It needs `_HLS_msn`.", number)
            .with(
                "_HLS_skip",
                "Leave out what the player has.",
                json!({ "type": "string", "enum": ["YES", "v2"] }),
            )
            .answering(Answer::text("The playlist.", &[HLS_TYPE]))
            .failing([
                Problem::no_stream(),
                Problem::not_found(),
                Problem::absurd_directive(),
                Problem::timeout(),
            ])
        }
        Route::Segment(..) => Operation::new(
            "getSegment",
            "watch",
            "A segment (DASH): one that runs is sent part by part as they come",
            Watch,
        )
        .answering(Answer::bytes(200, "The segment.", &[VIDEO, AUDIO]))
        .failing([Problem::no_stream(), Problem::not_found(), Problem::timeout()]),
        Route::Object(_) => Operation::new(
            "getObject",
            "watch",
            "An init, a part or a segment by its key: immutable. Each track's next part is waited for",
            Public,
        )
        .with_header("range", "Some of it (RFC 9110 section 14).")
        .with_header("if-range", "Only if it is still what has this `etag`.")
        .revalidated()
        .answering(Answer::bytes(200, "The object.", &[VIDEO, AUDIO]).with(&["etag", "accept-ranges"]))
        .answering(
            Answer::bytes(206, "The range.", &[VIDEO, AUDIO]).with(&["etag", "content-range"]),
        )
        .failing([Problem::not_found(), Problem::range(), Problem::timeout()]),
        // ---- WebRTC
        Route::Whep(_) => {
            let mut operation = Operation::new(
                "offer",
                "watch",
                "An offer (WHEP): where playing by WebRTC begins",
                Watch,
            )
            .answering(
                Answer {
                    content: vec![(SDP, json!({ "type": "string" }))],
                    ..Answer::empty(201, "The answer. `location` is the session's address, `link` names ICE servers.")
                }
                .with(&["location", "accept-patch"]),
            )
            .answering(
                Answer::empty(307, "A webhook sends the viewer to another stream.").with(&["location"]),
            )
            .failing([
                Problem::no_stream(),
                Problem::off_air(),
                Problem::denied("A webhook does not let this viewer in.".to_owned()),
                Problem::full("As many are watching as may.".to_owned()),
                Problem::no_token_keys(),
            ])
            .failing(signaled(SDP))
            .failing([signaling::Refusal::NoCommonCodec, signaling::Refusal::Unavailable].map(refused));
            operation.body = Some(sdp(SDP));
            operation
        }
        Route::WhepPatch(_) => {
            let mut operation = Operation::new(
                "trickle",
                "watch",
                "Candidates of a viewer, or an ICE restart (RFC 9725 section 4.3)",
                Public,
            )
            .with_header("if-match", "The `etag` of the ICE session; `\"*\"` for a restart, which needs one.")
            .answering(Answer::empty(204, "They are taken."))
            .answering(Answer {
                content: vec![(FRAGMENT, json!({ "type": "string" }))],
                ..Answer::empty(200, "The server's new credentials and candidates.")
            })
            .failing(token())
            .failing([Problem::token_needed(), Problem::no_stream(), Problem::precondition(), Problem::precondition_needed()])
            .failing(signaled(FRAGMENT))
            .failing([refused(signaling::Refusal::NoSession)]);
            operation.body = Some(sdp(FRAGMENT));
            operation
        }
        Route::WhepLeave(_) => Operation::new("leave", "watch", "A viewer leaves: its place is free", Public)
            .answering(Answer::empty(200, "It is gone."))
            .failing(token())
            .failing([Problem::token_needed(), Problem::no_stream(), refused(signaling::Refusal::NoSession)]),
        // ---- pages
        Route::Page(Page::Home, _) => page("getHomePage", "What is live"),
        Route::Page(Page::Watch, _) => page("getWatchPage", "The player with its page"),
        Route::Page(Page::Embed, _) => page("getEmbedPage", "The player alone, for other sites"),
        Route::Page(Page::Studio, _) => page("getStudioPage", "The studio"),
        Route::Asset(_) => Operation::new("getAsset", "pages", "A file of the pages", Public)
            .answering(Answer::bytes(200, "The file.", &["*/*"]).with(&["etag"]))
            .revalidated()
            .failing([Problem::not_found()]),
        // ---- what boxes ask
        Route::Admit => Operation::new(
            "admit",
            "boxes",
            "Whether a publisher may publish, and as what",
            Box,
        )
        .taking::<Admit>(s)
        .answering(Answer::json::<Admission>(s, 200, "They may.").with(PROOF))
        .failing([Problem::refused(Unkept::Key.to_string())]),
        Route::Open => Operation::new("openBroadcast", "boxes", "Which broadcast a publisher's is", Box)
            .taking::<Open>(s)
            .answering(
                Answer::json::<OpenAnswer>(s, 200, "A new one, or one that goes on.").with(PROOF),
            )
            .failing([Problem::refused("One more is one too many.".to_owned())]),
        Route::Link(_) => Operation::new(
            "linkBroadcast",
            "boxes",
            "The link of a broadcast: a WebSocket",
            Box,
        )
        .answering(
            Answer::empty(101, "The connection is a WebSocket from here on (RFC 6455).")
                .with(PROOF),
        )
        .failing([Problem::upgrade()]),
        Route::PutStream(_) => Operation::new(
            "putStream",
            "boxes",
            "Makes or replaces a stream's entry in the directory",
            Box,
        )
        .taking::<StreamEntry>(s)
        .answering(Answer::empty(204, "It is kept.").with(PROOF))
        .answering(
            Answer::json::<LoggedOut>(s, 200, "It is kept, but for the studio link, which there is a newer one of.")
                .with(PROOF),
        )
        .failing([Problem::refused("The key's id is another stream's.".to_owned())]),
        Route::Configure(_) => Operation::new(
            "configureStream",
            "boxes",
            "What the box's configuration says of a stream",
            Box,
        )
        .taking::<Change>(s)
        .answering(Answer::empty(204, "It is taken over.").with(PROOF))
        .failing([Problem::refused("There is no such stream.".to_owned())]),
        Route::Put(_) => {
            let mut operation = Operation::new("putObject", "boxes", "Keeps an object", Box)
                .answering(Answer::empty(201, "It is kept.").with(PROOF))
                .failing([Problem::exists(), Problem::empty_object()]);
            operation.body = Some(Body {
                content_type: BYTES,
                required: true,
                schema: json!({ "type": "string", "format": "binary", "minLength": 1 }),
            });
            operation
        }
        Route::Delete(_) => Operation::new("deleteObject", "boxes", "Deletes an object", Box)
            .answering(Answer::empty(204, "It is gone.").with(PROOF))
            .failing([Problem::method("PUT")]),
    }
}

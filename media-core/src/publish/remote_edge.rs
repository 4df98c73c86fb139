//! The edge over HTTP and WebSocket. Box and edge prove to each other that they share one secret ([`protocol::link_auth`]); nothing of
//! an answer is believed before its proof was checked.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use data_encoding::BASE64;
use futures::{FutureExt, SinkExt, StreamExt, future::BoxFuture};
use http::{HeaderValue, Method, StatusCode, header};
use protocol::{
    internal::{Admission, Admit, Open, OpenAnswer},
    link::{MAX_MESSAGE_BYTES, Numbered, ToCore},
    link_auth::{LinkSecret, REQUEST_HEADER, RESPONSE_HEADER},
    names::{BroadcastId, StreamName},
    object_key::ObjectKey,
};
use reqwest::{Client, RequestBuilder, Response, Upgraded, Url};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::store::{CACHE_CONTROL, StoreError, content_type, sentence};
use crate::edge::{Edge, EdgeError, Link};

/// How long a question may take. The encoder waits for the answer.
const QUESTION_DEADLINE: Duration = Duration::from_secs(8);
/// How often the other side of an idle link is asked whether it is there, and how long it may say nothing at all.
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
/// The longest answer that is read, bytes: a [`OpenAnswer`] names every track.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Messages each way between the driver and the socket.
const CHANNEL: usize = 64;

/// Why a remote edge cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not an address.
    #[error(
        "{0:?} is not the address of an edge: it begins with https:// (or http:// on one's own network)"
    )]
    Address(String),
    /// The HTTP client cannot be made.
    #[error("HTTP cannot be set up: {0}")]
    Client(String),
}

/// A remote edge. Cheap to clone.
#[derive(Clone)]
pub struct RemoteEdge(Arc<Inner>);

struct Inner {
    base: Url,
    secret: LinkSecret,
    /// For questions and objects.
    client: Client,
    /// For WebSockets, which are asked for over HTTP/1.1.
    upgrades: Client,
}

impl fmt::Debug for RemoteEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteEdge({})", self.0.base)
    }
}

/// RFC 9457, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
}

/// What the edge's studio page is made of, as far as it is read.
#[derive(Deserialize)]
struct StudioPage {
    key: Option<String>,
}

/// What an edge answers to a box whose studio link it was logged out of.
#[derive(Deserialize)]
struct LoggedOut {
    secret: String,
}

/// What an edge knows of a stream's key.
#[derive(Clone, PartialEq, Eq)]
pub enum StudioKey {
    /// It knows no stream of that name with that studio secret.
    Unknown,
    /// It checks keys by their digest, but cannot show this one: the secret that it keeps keys sealed with was changed.
    Hidden,
    /// This one.
    Shown(String),
}

impl fmt::Debug for StudioKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unknown",
            Self::Hidden => "Hidden",
            Self::Shown(_) => "Shown(…)",
        })
    }
}

impl RemoteEdge {
    /// The edge at this address (`https://`, `http://`, `wss://` or `ws://`), with the secret that is shared with it.
    ///
    /// # Errors
    /// [`SetupError`] when the address is none.
    pub fn new(address: &str, secret: LinkSecret) -> Result<Self, SetupError> {
        let refused = || SetupError::Address(address.chars().take(200).collect());
        let http = match address.split_once("://") {
            Some(("wss" | "https", rest)) => format!("https://{rest}"),
            Some(("ws" | "http", rest)) => format!("http://{rest}"),
            _ => return Err(refused()),
        };
        let mut base = Url::parse(&http).map_err(|_| refused())?;
        if base.host_str().is_none() {
            return Err(refused());
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let client = |http1: bool| {
            let builder = Client::builder()
                .connect_timeout(Duration::from_secs(5))
                // A redirect would carry the proof of one address to another.
                .redirect(reqwest::redirect::Policy::none());
            match http1 {
                true => builder.http1_only(),
                false => builder,
            }
            .build()
            .map_err(|error| SetupError::Client(sentence(&error)))
        };
        Ok(Self(Arc::new(Inner {
            base,
            secret,
            client: client(false)?,
            upgrades: client(true)?,
        })))
    }

    /// A request with the box's proof, and the proof, to check the answer with.
    fn request(
        &self,
        client: &Client,
        method: Method,
        path: &str,
    ) -> Result<(RequestBuilder, String), String> {
        let url = self
            .0
            .base
            .join(path)
            .map_err(|error| format!("{path:?} gives no address: {error}"))?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let proof = self.0.secret.request(
            method.as_str(),
            url.path(),
            i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nonce,
        );
        Ok((
            client.request(method, url).header(REQUEST_HEADER, &proof),
            proof,
        ))
    }

    fn check(&self, proof: &str, response: &Response) -> Result<(), String> {
        let answer = response
            .headers()
            .get(RESPONSE_HEADER)
            .and_then(|value| value.to_str().ok());
        self.0
            .secret
            .check_answer(proof, answer)
            .map_err(|error| match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "it refused the link proof: box and edge must share one link secret, and their clocks must agree".to_owned()
                }
                status if answer.is_none() => format!("it answered {status} without a link proof: is this the edge's address?"),
                _ => format!("its answer is not to be believed: {error}"),
            })
    }

    /// Sends a question as JSON, and gives the answer's status and body once its proof was checked.
    async fn exchange<Q: Serialize + Sync>(
        &self,
        method: Method,
        path: &str,
        question: &Q,
    ) -> Result<(StatusCode, Vec<u8>), EdgeError> {
        let exchanged = async {
            let (request, proof) = self.request(&self.0.client, method, path)?;
            let request = request.json(question).timeout(QUESTION_DEADLINE);
            let response = request.send().await.map_err(unsent)?;
            self.check(&proof, &response)?;
            Ok((response.status(), bounded(response).await?))
        };
        exchanged.await.map_err(EdgeError::Unreachable)
    }

    async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, EdgeError> {
        match self.exchange(Method::POST, path, question).await? {
            (StatusCode::FORBIDDEN, body) => Err(EdgeError::Refused(problem(&body))),
            (status, body) if status.is_success() => read(&body),
            (status, body) => Err(unexpected(status, &body)),
        }
    }

    /// Makes or replaces a stream of the edge's directory. `entry` is the stream with its key and studio secret. Where the edge's studio
    /// page was logged out of since, nothing is changed: the studio secret to take over.
    ///
    /// # Errors
    /// [`EdgeError::Refused`] when the edge will not have it; [`EdgeError::Unreachable`] when it is worth trying again.
    pub async fn put_stream<E: Serialize + Sync>(
        &self,
        stream: &StreamName,
        entry: &E,
    ) -> Result<Option<String>, EdgeError> {
        let path = format!("internal/streams/{stream}");
        match self.put(&path, entry).await? {
            body if body.is_empty() => Ok(None),
            body => read::<LoggedOut>(&body).map(|answer| Some(answer.secret)),
        }
    }

    /// Says what the box's configuration has of a stream that the edge knows. `settings` is what it takes at
    /// `PUT /internal/streams/{stream}/settings`; said again it changes nothing.
    ///
    /// # Errors
    /// As [`Self::put_stream`].
    pub async fn configure_stream<S: Serialize + Sync>(
        &self,
        stream: &StreamName,
        settings: &S,
    ) -> Result<(), EdgeError> {
        let path = format!("internal/streams/{stream}/settings");
        self.put(&path, settings).await.map(drop)
    }

    async fn put<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<Vec<u8>, EdgeError> {
        match self.exchange(Method::PUT, path, body).await? {
            (StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST, body) => {
                Err(EdgeError::Refused(problem(&body)))
            }
            (status, body) if status.is_success() => Ok(body),
            (status, body) => Err(unexpected(status, &body)),
        }
    }

    /// The stream's key as the edge has it, where the edge knows the stream by this studio secret: its studio page may have given the
    /// stream another one.
    ///
    /// # Errors
    /// [`EdgeError::Unreachable`].
    pub async fn stream_key(
        &self,
        stream: &StreamName,
        studio_secret: &str,
    ) -> Result<StudioKey, EdgeError> {
        let unreachable = EdgeError::Unreachable;
        let url = self
            .0
            .base
            .join(&format!("api/studio/{stream}"))
            .map_err(|error| unreachable(error.to_string()))?;
        let request = self.0.client.get(url).bearer_auth(studio_secret);
        let response = request.timeout(QUESTION_DEADLINE).send().await;
        let response = response.map_err(|error| unreachable(unsent(error)))?;
        let status = response.status();
        let body = bounded(response).await.map_err(unreachable)?;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Ok(StudioKey::Unknown)
            }
            status if status.is_success() => {
                let StudioPage { key } = read(&body)?;
                Ok(key.map_or(StudioKey::Hidden, StudioKey::Shown))
            }
            status => Err(unexpected(status, &body)),
        }
    }

    /// A request about an object.
    fn about_media(
        &self,
        method: Method,
        key: &ObjectKey,
    ) -> Result<(RequestBuilder, String), StoreError> {
        self.request(&self.0.client, method, &format!("internal/media/{key}"))
            .map_err(StoreError::Failed)
    }

    pub(crate) async fn put_media(
        &self,
        key: &ObjectKey,
        pieces: Vec<Bytes>,
    ) -> Result<(), StoreError> {
        let (request, proof) = self.about_media(Method::PUT, key)?;
        let size: usize = pieces.iter().map(Bytes::len).sum();
        let body = futures::stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>));
        let response = request
            .header(header::CONTENT_TYPE, content_type(key))
            .header(header::CACHE_CONTROL, CACHE_CONTROL)
            // A bucket behind the edge wants to know the length beforehand.
            .header(header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(body))
            .send()
            .await
            .map_err(put_error)?;
        self.check(&proof, &response).map_err(StoreError::Failed)?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(StoreError::Failed(format!("the edge answered {status}"))),
        }
    }

    pub(crate) async fn delete_media(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let (request, proof) = self.about_media(Method::DELETE, key)?;
        let response = request.send().await.map_err(put_error)?;
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                return Err(StoreError::NoDelete);
            }
            _ => {}
        }
        self.check(&proof, &response).map_err(StoreError::Failed)?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            status => Err(StoreError::Failed(format!("the edge answered {status}"))),
        }
    }

    /// Opens the WebSocket of a broadcast's link.
    async fn upgrade(&self, broadcast: &BroadcastId) -> Result<Upgraded, String> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
        let key = BASE64.encode(&nonce);
        let path = format!("internal/link/{broadcast}");
        let (request, proof) = self.request(&self.0.upgrades, Method::GET, &path)?;
        let response = request
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .send()
            .await
            .map_err(unsent)?;
        self.check(&proof, &response)?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok();
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS
            || response.headers().get(header::SEC_WEBSOCKET_ACCEPT) != accept.as_ref()
        {
            let body = bounded(response).await?;
            return Err(format!(
                "it opened no link but answered {status}: {}",
                problem(&body)
            ));
        }
        response.upgrade().await.map_err(|error| sentence(&error))
    }

    async fn open_link(&self, broadcast: &BroadcastId) -> Result<Link, EdgeError> {
        let upgraded = self.upgrade(broadcast).await;
        let socket = upgraded.map_err(EdgeError::Unreachable)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(socket, Role::Client, Some(config)).await;
        let (to_edge, from_driver) = mpsc::channel(CHANNEL);
        let (to_driver, from_edge) = mpsc::channel(CHANNEL);
        // Ends with the link: when either of the link's ends is dropped, or the socket is cut.
        tokio::spawn(carry(socket, from_driver, to_driver));
        Ok(Link { to_edge, from_edge })
    }
}

impl Edge for RemoteEdge {
    fn admit(&self, question: Admit) -> BoxFuture<'_, Result<Admission, EdgeError>> {
        async move { self.ask("internal/admit", &question).await }.boxed()
    }

    fn open(&self, question: Open) -> BoxFuture<'_, Result<OpenAnswer, EdgeError>> {
        async move { self.ask("internal/broadcasts", &question).await }.boxed()
    }

    fn connect(&self, broadcast: BroadcastId) -> BoxFuture<'_, Result<Link, EdgeError>> {
        async move { self.open_link(&broadcast).await }.boxed()
    }
}

/// Why a request was not answered.
fn unsent(error: reqwest::Error) -> String {
    sentence(&error.without_url())
}

/// An answer that was not expected.
fn unexpected(status: StatusCode, body: &[u8]) -> EdgeError {
    EdgeError::Unreachable(format!("it answered {status}: {}", problem(body)))
}

fn read<A: DeserializeOwned>(body: &[u8]) -> Result<A, EdgeError> {
    serde_json::from_slice(body)
        .map_err(|error| EdgeError::Unreachable(format!("its answer is unreadable: {error}")))
}

/// Carries the messages of one link over its socket.
async fn carry(
    socket: WebSocketStream<Upgraded>,
    mut from_driver: mpsc::Receiver<Numbered>,
    to_driver: mpsc::Sender<ToCore>,
) {
    let (mut sink, mut stream) = socket.split();
    let mut ping = time::interval(PING);
    ping.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut heard = time::Instant::now();
    loop {
        let sent = tokio::select! {
            message = from_driver.recv() => match message.as_ref().map(serde_json::to_string) {
                Some(Ok(text)) => time::timeout(SILENCE, sink.send(Message::text(text))).await,
                Some(Err(error)) => {
                    tracing::error!(%error, "a link message has no JSON form");
                    break;
                }
                None => break,
            },
            frame = stream.next() => {
                heard = time::Instant::now();
                match frame {
                    Some(Ok(Message::Text(text))) => match serde_json::from_str::<ToCore>(text.as_str()) {
                        Ok(message) => {
                            if to_driver.send(message).await.is_err() {
                                break;
                            }
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the edge sent what is no link message");
                            break;
                        }
                    },
                    // A ping is answered by the WebSocket itself, with the next frame that is sent.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => time::timeout(SILENCE, sink.flush()).await,
                    Some(Ok(Message::Binary(_) | Message::Frame(_) | Message::Close(_)) | Err(_)) | None => break,
                }
            }
            _ = ping.tick() => time::timeout(SILENCE, sink.send(Message::Ping(Bytes::new()))).await,
            () = time::sleep_until(heard + SILENCE) => break,
            () = to_driver.closed() => break,
        };
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    // Only courtesy: the other side also notices a connection that ends without it.
    let _ = time::timeout(Duration::from_secs(1), sink.close()).await;
}

fn put_error(error: reqwest::Error) -> StoreError {
    let text = sentence(&error);
    match error.is_connect() {
        true => StoreError::Unreachable(text),
        false => StoreError::Failed(text),
    }
}

/// Reads an answer of bounded length.
async fn bounded(response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| sentence(&error.without_url()))?;
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(format!(
                "its answer is longer than {MAX_ANSWER_BYTES} bytes"
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The sentence for a person in a problem document.
fn problem(body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let text = match (problem.detail.is_empty(), problem.title.is_empty()) {
        (false, _) => problem.detail,
        (true, false) => problem.title,
        (true, true) => "no reason given".to_owned(),
    };
    text.chars().take(300).collect()
}

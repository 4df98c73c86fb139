//! The directory in D1, and what an isolate remembers of it.
//!
//! A viewer's request is answered from memory. What is remembered is at most [`FRESH_MS`] old when it is used without more ado; older,
//! it is used and read again behind the answer; older than [`STALE_MS`], or when it does not know a name, it is read first, though
//! never more than once in [`FRESH_MS`] by one isolate, however many ask at once and while the database fails too: strangers who ask for
//! names that do not exist cost one read a second each isolate, and no object is touched for them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    rc::Rc,
    time::Duration,
};

use futures::StreamExt;
use http::StatusCode;
use protocol::{
    internal::{Admission, Admit},
    limits::Limits,
    names::{BroadcastId, StreamName},
    token::{self, Claims, StreamPattern},
};
use wasm_bindgen::JsValue;
use worker::{Context, D1Database, D1PreparedStatement, Delay, Env, Request, Response, Result};

use super::{
    access,
    answer::{self, nothing, problem},
    binding, guard, link_secret, now_unix_ms, random, watch, webhooks,
};
use crate::{
    access::is_token,
    api::{self, LoggedOut, MAX_QUESTION_BYTES, OnAir, Server, StreamList, StreamSummary, Studio},
    directory::{
        self, Refusal, Stream,
        seal::Seal,
        settings::{Title, Visibility},
        sql::{self, LinkRow, OnAirRow, RevocationRow, Statement, StreamRow, Value},
    },
    limits::{self, Full, Tenants},
    routes::{Caching, Problem, Route},
    streams::{Bearer, Managed, Sight},
    webhooks::Ask,
};

/// How old the memory of the directory may be, milliseconds.
const FRESH_MS: i64 = 1_000;
/// From this age on it is not used before it was read again, milliseconds.
const STALE_MS: i64 = 10_000;
/// How often a request looks whether the read of another one is done, and how many times.
const LOOK: Duration = Duration::from_millis(25);
const LOOKS: usize = 200;
/// How long after its end a broadcast is remembered, milliseconds: two windows of the longest kind are past by then.
const REMEMBERED_MS: i64 = 2 * 3_600 * 1_000 + 60_000;

/// What an isolate knows of the directory.
#[derive(Debug, Default)]
pub(super) struct Known {
    streams: BTreeMap<StreamName, KnownStream>,
    /// How far the clock of the box that went live last is ahead, milliseconds: when it opened its broadcast, and by how much.
    clock: Option<(i64, i64)>,
}

/// A stream as viewers may know it.
#[derive(Debug, Default, Clone)]
pub(super) struct KnownStream {
    broadcasts: HashSet<BroadcastId>,
    /// Those of them that have not ended.
    running: Vec<BroadcastId>,
    /// The newest broadcast that can be played, or that was played last.
    newest: Option<Newest>,
    viewers: u64,
    visibility: Visibility,
    title: Option<Title>,
    limits: Limits,
    created_unix_ms: i64,
}

#[derive(Debug, Clone)]
struct Newest {
    id: BroadcastId,
    closed: bool,
    on_air: OnAir,
}

impl KnownStream {
    /// The broadcast that a viewer who comes now should get: the running one, else the last one, which has its end.
    pub(super) fn newest(&self) -> Option<&BroadcastId> {
        self.newest.as_ref().map(|newest| &newest.id)
    }

    /// What it may take, by its own settings.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who may watch.
    pub(super) fn visibility(&self) -> Visibility {
        self.visibility
    }

    /// What the API tells everybody.
    fn summary(&self, name: &StreamName) -> StreamSummary {
        let live = self.newest.as_ref().filter(|newest| !newest.closed);
        let on_air = live.map(|live| live.on_air.clone());
        StreamSummary::new(name.clone(), self.title.clone(), on_air, self.viewers)
    }

    /// What the API tells somebody who is told that much; `None` where that is nothing.
    pub(super) fn told(&self, name: &StreamName, sight: Sight) -> Option<StreamSummary> {
        let mut summary = self.summary(name);
        match sight {
            Sight::None => return None,
            Sight::Watched => {}
            Sight::Managed => {
                let managed = Managed::new(self.visibility, self.limits, self.created_unix_ms);
                summary.managed = Some(managed);
            }
        }
        Some(summary)
    }
}

impl Known {
    /// The stream of that name.
    pub(super) fn stream(&self, name: &StreamName) -> Option<&KnownStream> {
        self.streams.get(name)
    }

    /// The names of all streams.
    pub(super) fn names(&self) -> impl Iterator<Item = &StreamName> + Clone {
        self.streams.keys()
    }

    /// Whether there is a stream of that name.
    pub(super) fn has_stream(&self, name: &StreamName) -> bool {
        self.streams.contains_key(name)
    }

    /// What the API tells somebody of all streams.
    pub(super) fn list(&self, bearer: Option<&Bearer<'_>>) -> StreamList {
        let streams = self.streams.iter();
        let listed = streams.filter_map(|(name, stream)| {
            stream.told(name, Bearer::listed(bearer, name, stream.visibility))
        });
        StreamList {
            streams: listed.collect(),
        }
    }

    /// Whether one more may watch a stream, as far as the directory knows how many do: it hears of that every ten seconds.
    ///
    /// # Errors
    /// [`Full::Viewers`].
    pub(super) fn may_watch(
        &self,
        tenants: &Tenants,
        name: &StreamName,
    ) -> std::result::Result<(), Full> {
        let watching = |prefix: &str| {
            let all = self.streams.iter();
            let of_tenant = all.filter(|(name, _)| name.as_str().starts_with(prefix));
            of_tenant.map(|(_, stream)| stream.viewers).sum()
        };
        // A stream's own limit is its object's to keep, which counts exactly.
        tenants.may_watch(name, &Limits::default(), 0, watching)
    }

    /// The broadcasts of these streams that have not ended.
    pub(super) fn running<'a>(
        &'a self,
        streams: &'a StreamPattern,
    ) -> impl Iterator<Item = &'a BroadcastId> {
        let concerned = (self.streams.iter()).filter(|(name, _)| streams.covers(name));
        concerned.flat_map(|(_, stream)| &stream.running)
    }

    /// How far the clock that the timelines run by is ahead of the platform's, milliseconds: a box's, where one is live.
    pub(super) fn clock_offset_ms(&self) -> i64 {
        self.clock.map_or(0, |(_, offset_ms)| offset_ms)
    }
}

thread_local! {
    /// A change of the variable makes new isolates.
    static TENANTS: RefCell<Option<Rc<Tenants>>> = const { RefCell::new(None) };
    static KNOWN: RefCell<Rc<Known>> = RefCell::default();
    static READ_UNIX_MS: Cell<i64> = const { Cell::new(i64::MIN) };
    /// When the last read began, and when the last one that failed did.
    static ASKED_UNIX_MS: Cell<i64> = const { Cell::new(i64::MIN) };
    static FAILED_UNIX_MS: Cell<i64> = const { Cell::new(i64::MIN) };
}

fn age_ms() -> i64 {
    now_unix_ms().saturating_sub(READ_UNIX_MS.get())
}

/// The directory as the isolate knows it.
pub(super) async fn known(env: &Env, context: &Context) -> Result<Rc<Known>> {
    let age = age_ms();
    if age > STALE_MS {
        return read_in_turn(env).await;
    }
    if age > FRESH_MS && take_turn() {
        let env = env.clone();
        context.wait_until(async move {
            if let Err(error) = read_noted(&env).await {
                worker::console_warn!("the directory could not be read again: {error}");
            }
        });
    }
    Ok(KNOWN.with_borrow(Rc::clone))
}

/// Whether nobody in this isolate has begun a read for [`FRESH_MS`]: then it is the caller's to do.
fn take_turn() -> bool {
    let now = now_unix_ms();
    let free = now.saturating_sub(ASKED_UNIX_MS.get()) > FRESH_MS;
    if free {
        ASKED_UNIX_MS.set(now);
    }
    free
}

/// A read by whoever has the turn.
async fn read_noted(env: &Env) -> Result<Rc<Known>> {
    let asked = ASKED_UNIX_MS.get();
    let given = read(env).await;
    if given.is_err() {
        FAILED_UNIX_MS.set(asked);
    }
    given
}

/// Reads the directory, or waits for the read that another request has begun. What one request awaits another cannot, so this looks now
/// and then; a read that does not come to its end, as when its viewer went away, is begun again by one of those who wait.
async fn read_in_turn(env: &Env) -> Result<Rc<Known>> {
    if take_turn() {
        return read_noted(env).await;
    }
    let begun = ASKED_UNIX_MS.get();
    for _ in 0..LOOKS {
        if READ_UNIX_MS.get() >= begun {
            return Ok(KNOWN.with_borrow(Rc::clone));
        }
        if FAILED_UNIX_MS.get() >= begun {
            break;
        }
        Delay::from(LOOK).await;
        if take_turn() {
            return read_noted(env).await;
        }
    }
    Err("the directory does not answer".into())
}

/// As [`known`], but read again when it does not have what `wanted` looks for and is not fresh.
async fn find<T>(
    env: &Env,
    context: &Context,
    wanted: impl Fn(&Known) -> Option<T>,
) -> Result<Option<T>> {
    let remembered = known(env, context).await?;
    match wanted(&remembered) {
        None if age_ms() > FRESH_MS => Ok(wanted(&*read_in_turn(env).await?)),
        found => Ok(found),
    }
}

/// A stream, if the directory has it.
pub(super) async fn stream(
    env: &Env,
    context: &Context,
    name: &StreamName,
) -> Result<Option<KnownStream>> {
    find(env, context, |known| known.streams.get(name).cloned()).await
}

/// The running broadcast of a stream, as far as it is known here, else its last one.
pub(super) fn newest(name: &StreamName) -> Option<BroadcastId> {
    KNOWN.with_borrow(|known| known.streams.get(name)?.newest().cloned())
}

/// How many may watch a stream, as far as it is known here.
pub(super) fn max_viewers(name: &StreamName) -> Option<u32> {
    KNOWN.with_borrow(|known| known.streams.get(name)?.limits.max_viewers)
}

/// Whether a stream is known here to need a token to watch.
pub(super) fn needs_token(name: &StreamName) -> bool {
    KNOWN.with_borrow(|known| {
        let stream = known.streams.get(name);
        stream.is_some_and(|stream| stream.visibility.needs_token())
    })
}

/// Whether the directory has that broadcast of that stream.
pub(super) async fn has_broadcast(
    env: &Env,
    context: &Context,
    stream: &StreamName,
    broadcast: &BroadcastId,
) -> Result<bool> {
    let found = find(env, context, |known| {
        let known = known.streams.get(stream)?;
        known.broadcasts.contains(broadcast).then_some(())
    });
    Ok(found.await?.is_some())
}

fn database(env: &Env) -> Result<D1Database> {
    env.d1(binding::DIRECTORY)
}

fn prepare(database: &D1Database, statement: &Statement) -> Result<D1PreparedStatement> {
    let values = statement.values.iter().map(|value| match value {
        Value::Null => JsValue::NULL,
        Value::Integer(number) => JsValue::from_f64(*number as f64),
        Value::Text(text) => JsValue::from_str(text),
    });
    let values: Vec<JsValue> = values.collect();
    database.prepare(statement.sql).bind(&values)
}

async fn run(env: &Env, statement: &Statement) -> Result<()> {
    let statement = prepare(&database(env)?, statement)?;
    statement.run().await.map(drop)
}

/// Reads the directory.
pub(super) async fn read(env: &Env) -> Result<Rc<Known>> {
    let now = now_unix_ms();
    let database = database(env)?;
    let statements = [
        sql::on_air(now - REMEMBERED_MS),
        sql::revocations(watch::revoked_id()),
    ];
    let batch: Result<Vec<_>> = statements.iter().map(|s| prepare(&database, s)).collect();
    let answers = database.batch(batch?).await?;
    let [on_air, revocations] = answers.as_slice() else {
        return Err("the directory does not answer what it was asked".into());
    };
    watch::learn(revocations.results::<RevocationRow>()?);
    let rows = on_air.results::<OnAirRow>()?;
    let mut known = Known::default();
    for row in rows {
        let (visibility, limits) = (row.visibility(), row.limits());
        let stream = known.streams.entry(row.name).or_default();
        stream.viewers = row.viewers as u64;
        (stream.visibility, stream.limits) = (visibility, limits);
        stream.created_unix_ms = row.created_unix_ms as i64;
        stream.title = row.title.and_then(|title| title.parse().ok());
        let Some(id) = row.id else { continue };
        stream.broadcasts.insert(id.clone());
        let closed = row.closed_unix_ms.is_some();
        if !closed {
            stream.running.push(id.clone());
        }
        if let (false, Some(opened), Some(offset)) =
            (closed, row.opened_unix_ms, row.clock_offset_ms)
        {
            // Tuples compare by when the broadcast was opened first.
            known.clock = known.clock.max(Some((opened as i64, offset as i64)));
        }
        if let Some(since) = row.playable_unix_ms {
            let tracks = row.tracks.and_then(|text| serde_json::from_str(&text).ok());
            stream.newest = Some(Newest {
                id,
                closed,
                on_air: OnAir {
                    since_unix_ms: since as i64,
                    tracks: tracks.unwrap_or_default(),
                },
            });
        }
    }
    let known = Rc::new(known);
    KNOWN.set(Rc::clone(&known));
    READ_UNIX_MS.set(now);
    Ok(known)
}

/// The revocations since that one.
pub(super) async fn revocations(env: &Env, after_id: i64) -> Result<Vec<RevocationRow>> {
    let statement = prepare(&database(env)?, &sql::revocations(after_id))?;
    statement.all().await?.results()
}

/// The watch links of a stream.
pub(super) async fn links(env: &Env, stream: &StreamName) -> Result<Vec<LinkRow>> {
    let statement = prepare(&database(env)?, &sql::links(stream))?;
    statement.all().await?.results()
}

/// Runs statements that change nothing of the streams: all of them, or none. How many rows the last one changed.
pub(super) async fn batch(env: &Env, statements: &[Statement]) -> Result<usize> {
    let database = database(env)?;
    let batch: Result<Vec<_>> = statements.iter().map(|s| prepare(&database, s)).collect();
    let answers = database.batch(batch?).await?;
    let last = answers.last().map(|answer| answer.meta()).transpose()?;
    Ok(last
        .flatten()
        .and_then(|meta| meta.changes)
        .unwrap_or_default())
}

/// Whether the request carries the studio secret of the stream.
pub(super) async fn opens_studio(name: &StreamName, request: &Request, env: &Env) -> Result<bool> {
    Ok(studio_stream(name, request, env).await?.is_some())
}

/// What tenants may take.
pub(super) fn tenants(env: &Env) -> Result<Rc<Tenants>> {
    if let Some(known) = TENANTS.with_borrow(Clone::clone) {
        return Ok(known);
    }
    let known = Rc::new(read_tenants(env)?.with_issuers(&access::issuers(env)?));
    TENANTS.set(Some(Rc::clone(&known)));
    Ok(known)
}

fn read_tenants(env: &Env) -> Result<Tenants> {
    let said = env.var(binding::TENANTS).map(|said| said.to_string());
    let said = said.unwrap_or_default();
    if said.trim().is_empty() {
        return Ok(Tenants::default());
    }
    let tenants: Tenants =
        serde_json::from_str(&said).map_err(|error| format!("{}: {error}", binding::TENANTS))?;
    for tenant in &tenants.0 {
        let checked = tenant.check();
        checked.map_err(|error| format!("{}: {error}", binding::TENANTS))?;
    }
    Ok(tenants)
}

/// A broadcast was opened: those of the stream that went on before it are over. The inner error is why it may not.
pub(super) async fn broadcast_opened(
    env: &Env,
    stream: &StreamName,
    broadcast: &BroadcastId,
) -> Result<std::result::Result<(), Full>> {
    let tenants = tenants(env)?;
    let bounds: Vec<(&str, u32)> = tenants.broadcasts(stream).collect();
    let most = bounds.iter().map(|(_, max)| *max).min();
    let bounds = serde_json::to_string(&bounds)?;
    let statements = sql::broadcast_opened(stream, broadcast, &bounds, now_unix_ms());
    run_all(env, &statements).await?;
    let begun: Vec<sql::BroadcastRow> = rows(env, &sql::broadcast(broadcast)).await?;
    Ok(match begun.is_empty() {
        true => Err(Full::Broadcasts(most.unwrap_or_default())),
        false => Ok(()),
    })
}

/// Gives an admission the limits of its stream. A publisher who could not begin a broadcast hears so now; that none begins that may not is
/// seen to when it does.
async fn bound(admission: Admission, env: &Env) -> Result<std::result::Result<Admission, String>> {
    let (tenants, now, stream) = (tenants(env)?, now_unix_ms(), &admission.stream);
    let own = find_stream(env, sql::stream(stream)).await?;
    let limits = tenants.limits(stream, own.map(|own| own.limits).unwrap_or_default());
    if limits.max_duration_s.is_none() && tenants.broadcasts(stream).next().is_none() {
        return Ok(Ok(Admission {
            limits,
            ..admission
        }));
    }
    let live: Vec<sql::BroadcastRow> = rows(env, &sql::going_on()).await?;
    if let Err(full) = tenants.may_begin(stream, live.iter().map(|row| &row.stream)) {
        return Ok(Err(full.to_string()));
    }
    // One that goes on has had a part of its time.
    let current = live.iter().rev().find(|row| row.stream == *stream);
    let began = current.map_or(now, |row| row.opened_unix_ms as i64);
    let ends = limits::ends_unix_ms(&limits, began);
    Ok(Ok(Admission {
        ends_unix_ms: [ends, admission.ends_unix_ms].into_iter().flatten().min(),
        limits,
        ..admission
    }))
}

/// A broadcast can be played.
pub(super) async fn broadcast_playable(
    env: &Env,
    broadcast: &BroadcastId,
    on_air: &OnAir,
) -> Result<()> {
    let tracks = serde_json::to_string(&on_air.tracks)?;
    let statement = sql::broadcast_playable(broadcast, on_air.since_unix_ms, &tracks);
    run(env, &statement).await
}

/// How far the clock of a broadcast's box is ahead.
pub(super) async fn broadcast_clock(
    env: &Env,
    broadcast: &BroadcastId,
    offset_ms: i64,
) -> Result<()> {
    run(env, &sql::broadcast_clock(broadcast, offset_ms)).await
}

/// A broadcast is over.
pub(super) async fn broadcast_closed(
    env: &Env,
    broadcast: &BroadcastId,
    at_unix_ms: i64,
) -> Result<()> {
    run(env, &sql::broadcast_closed(broadcast, at_unix_ms)).await
}

/// How many watch a stream.
pub(super) async fn set_viewers(env: &Env, stream: &StreamName, viewers: usize) -> Result<()> {
    run(env, &sql::set_viewers(stream, viewers)).await
}

/// The first stream that a statement finds.
pub(super) async fn find_stream(env: &Env, statement: Statement) -> Result<Option<Stream>> {
    let statement = prepare(&database(env)?, &statement)?;
    let row = statement.first::<StreamRow>(None).await?;
    Ok(row.map(Stream::from))
}

/// Runs statements as one batch, all or none.
pub(super) async fn run_all(env: &Env, statements: &[Statement]) -> Result<()> {
    batch(env, statements).await.map(drop)
}

/// The rows that a statement gives.
pub(super) async fn rows<T: serde::de::DeserializeOwned>(
    env: &Env,
    statement: &Statement,
) -> Result<Vec<T>> {
    prepare(&database(env)?, statement)?.all().await?.results()
}

/// Changes the streams that there are.
async fn change(env: &Env, statement: &Statement) -> Result<()> {
    change_all(env, std::slice::from_ref(statement)).await
}

/// As [`change`], in one batch.
pub(super) async fn change_all(env: &Env, statements: &[Statement]) -> Result<()> {
    run_all(env, statements).await?;
    changed();
    Ok(())
}

/// The streams were changed: whoever asks this isolate next finds them so, though they were read a moment ago.
pub(super) fn changed() {
    READ_UNIX_MS.set(i64::MIN);
    ASKED_UNIX_MS.set(i64::MIN);
}

/// What stream keys are sealed with: the link secret, which lies outside the database.
pub(super) fn seal(env: &Env) -> Result<Seal> {
    match link_secret(env) {
        Some(secret) => Ok(Seal::derive(secret.as_bytes())),
        None => Err("without LINK_SECRET no stream key can be sealed".into()),
    }
}

/// Reads the body of an internal question.
pub(super) async fn question(
    request: &mut Request,
) -> Result<std::result::Result<Vec<u8>, Problem>> {
    let length = request
        .headers()
        .get("content-length")?
        .and_then(|length| length.parse::<usize>().ok());
    match length {
        Some(length) if length > MAX_QUESTION_BYTES => Ok(Err(Problem::too_large())),
        Some(_) => Ok(Ok(request.bytes().await?)),
        // How much would come is not known; a body that is not there has no length either.
        None => Ok(Err(Problem::body("The body is missing, or its length is."))),
    }
}

/// Reads the body of a question that may have none, and whose length need not be said.
pub(super) async fn question_if_any(
    request: &mut Request,
) -> Result<std::result::Result<Vec<u8>, Problem>> {
    if request.headers().get("content-length")?.is_some() {
        return question(request).await;
    }
    let mut body = Vec::new();
    if request.inner().body().is_none() {
        return Ok(Ok(body));
    }
    let mut pieces = request.stream()?;
    while let Some(piece) = pieces.next().await {
        body.extend(piece?);
        if body.len() > MAX_QUESTION_BYTES {
            return Ok(Err(Problem::too_large()));
        }
    }
    Ok(Ok(body))
}

/// `POST /internal/admit`.
pub(super) async fn admit(route: &Route, mut request: Request, env: &Env) -> Result<Response> {
    let body = question(&mut request).await?;
    let asked: Admit = match body.and_then(|body| api::read(&body)) {
        Ok(asked) => asked,
        Err(found) => return problem(Some(route), &found),
    };
    let guards = guard::guards(env)?;
    // Whoever runs already was let in, and is not cut off for what others of its address do.
    if !asked.probe
        && let Err(refusal) = guards.guard.publisher(&asked.peer, guard::now())
    {
        return problem(Some(route), &Problem::refused(refusal.to_string()));
    }
    let by_key = admit_key(&asked, env).await?;
    if by_key.is_err() && !asked.probe {
        guards.guard.publisher_failed(&asked.peer, guard::now());
    }
    let admitted = match by_key {
        Ok((admission, _)) if asked.probe => Ok(admission),
        Ok((admission, token)) => match admit_webhooks(&asked, admission, token, env).await? {
            Ok(admission) => bound(admission, env).await?,
            Err(refused) => Err(refused),
        },
        Err(refused) => Err(refused),
    };
    match admitted {
        Ok(admission) => answer::json(Some(route), StatusCode::OK, Caching::Never, &admission),
        Err(refused) => problem(Some(route), &Problem::refused(refused)),
    }
}

/// Whether key or token are good; with what the token says. Otherwise a sentence for the publisher.
async fn admit_key(
    asked: &Admit,
    env: &Env,
) -> Result<std::result::Result<(Admission, Option<Claims>), String>> {
    if !is_token(&asked.key) {
        let stream = match directory::key_id(asked) {
            Some(id) => find_stream(env, sql::stream_by_key_id(&id)).await?,
            None => None,
        };
        let revoked = watch::revoked_now(env).await?;
        let admitted = directory::admit(asked, stream.as_ref(), &revoked, now_unix_ms());
        return Ok(admitted
            .map(|admission| (admission, None))
            .map_err(|refusal| refusal.to_string()));
    }
    let publisher = match access::access(env)? {
        Some(access) => access.publish(asked, &*watch::revoked_now(env).await?, now_unix_ms()),
        None => Err(token::Refusal::Key),
    };
    let (stream, grant) = match publisher {
        Ok(publisher) => publisher,
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    if find_stream(env, sql::stream(&stream)).await?.is_none() {
        return Ok(Err(Refusal::NoStream(stream).to_string()));
    }
    let admission = Admission {
        ends_unix_ms: grant.session_ends_unix_ms(),
        credential: Some(grant.credential()),
        ..Admission::of(stream)
    };
    Ok(Ok((admission, Some(grant.claims().clone()))))
}

/// What webhooks make of an admission.
async fn admit_webhooks(
    asked: &Admit,
    admission: Admission,
    token: Option<Claims>,
    env: &Env,
) -> Result<std::result::Result<Admission, String>> {
    let ask = Ask::publish(asked, &admission.stream, token);
    let allowed = match webhooks::ask(env, &ask).await? {
        Ok(allowed) => allowed,
        Err(denied) => return Ok(Err(denied.to_string())),
    };
    if allowed.stream != admission.stream
        && find_stream(env, sql::stream(&allowed.stream))
            .await?
            .is_none()
    {
        return Ok(Err(Refusal::NoStream(allowed.stream).to_string()));
    }
    Ok(Ok(allowed.narrow(admission)))
}

/// `PUT /internal/streams/{stream}`: makes the stream, or changes its key and studio secret.
pub(super) async fn put_stream(
    route: &Route,
    name: &StreamName,
    mut request: Request,
    env: &Env,
) -> Result<Response> {
    let body = question(&mut request).await?;
    let given = match body.and_then(|body| api::read_entry(name, &body)) {
        Ok(given) => given,
        Err(found) => return problem(Some(route), &found),
    };
    // Logged out of since: the box takes the new studio link over before it changes anything.
    let kept = find_stream(env, sql::stream(name)).await?;
    let newer = (kept.as_ref()).and_then(|kept| kept.newer_studio(&given, &seal(env).ok()?));
    if let Some(secret) = newer {
        let logged_out = LoggedOut {
            secret: secret.to_string(),
        };
        return answer::json(Some(route), StatusCode::OK, Caching::Never, &logged_out);
    }
    // The box shows the studio link; here it is only checked.
    let stream = Stream::keep(&given, &seal(env)?, random()?, None);
    let now = now_unix_ms();
    let revoked = (kept.as_ref()).map_or_else(Vec::new, |before| stream.revokes(before, now));
    let mut statements: Vec<_> = (revoked.iter())
        .flat_map(|revocation| sql::revoke(revocation, now))
        .collect();
    statements.push(sql::put_stream(&stream));
    if let Err(error) = change_all(env, &statements).await {
        // The table takes a key id once; whose it is decides what is said.
        let holder = find_stream(env, sql::stream_by_key_id(&stream.key_id)).await?;
        if holder.is_some_and(|holder| holder.name != stream.name) {
            let refusal = Refusal::KeyId(stream.name);
            return problem(Some(route), &Problem::refused(refusal.to_string()));
        }
        return Err(error);
    }
    if !revoked.is_empty() {
        watch::tell(env, &name.clone().into()).await?;
    }
    nothing(Some(route))
}

/// `PUT /internal/streams/{stream}/settings`.
pub(super) async fn configure(
    route: &Route,
    name: &StreamName,
    mut request: Request,
    env: &Env,
) -> Result<Response> {
    let body = question(&mut request).await?;
    let configured = match body.and_then(|body| api::read_change(&body)) {
        Ok(configured) => configured,
        Err(found) => return problem(Some(route), &found),
    };
    if find_stream(env, sql::stream(name)).await?.is_none() {
        let refusal = Refusal::NoStream(name.clone());
        return problem(Some(route), &Problem::refused(refusal.to_string()));
    }
    if let Some(remembered) = configured.remembered() {
        change(env, &sql::configure_stream(name, &configured, &remembered)).await?;
    }
    if configured.visibility.is_some() {
        watch::tell(env, &name.clone().into()).await?;
    }
    nothing(Some(route))
}

/// The stream, if the request carries its studio secret.
pub(super) async fn studio_stream(
    name: &StreamName,
    request: &Request,
    env: &Env,
) -> Result<Option<Stream>> {
    let authorization = request.headers().get("authorization")?;
    // What cannot be its secret costs no read.
    if !directory::bearer(authorization.as_deref()).is_some_and(directory::could_open_studio) {
        return Ok(None);
    }
    let stream = find_stream(env, sql::stream(name)).await?;
    Ok(stream.filter(|stream| stream.opens_studio(authorization.as_deref())))
}

/// The stream, if the request carries its studio secret or a token that manages it.
async fn managed_stream(name: &StreamName, request: &Request, env: &Env) -> Result<Option<Stream>> {
    match watch::manages(env, &name.clone().into(), request).await? {
        Ok(_) => find_stream(env, sql::stream(name)).await,
        Err(_) => Ok(None),
    }
}

/// What the studio page shows. Where the ingest is, the configuration says.
async fn studio_answer(route: &Route, stream: Stream, env: &Env) -> Result<Response> {
    let read = read(env).await?;
    let known = read.streams.get(&stream.name).cloned().unwrap_or_default();
    let servers = env
        .var(binding::INGEST_SERVERS)
        .map(|servers| servers.to_string())
        .unwrap_or_default();
    let servers = servers.split_whitespace().map(|url| Server {
        url: url.to_owned(),
        note: String::new(),
    });
    let key = match seal(env).map(|seal| stream.key(&seal)) {
        Ok(Ok(key)) => Some(key),
        Ok(Err(closed)) => {
            worker::console_warn!("{closed}: LINK_SECRET was changed since");
            None
        }
        Err(error) => {
            worker::console_warn!("{error}");
            None
        }
    };
    let summary = known.summary(&stream.name);
    let studio = Studio::new(key, stream.visibility, summary, servers.collect());
    answer::json(Some(route), StatusCode::OK, Caching::Never, &studio)
}

/// `GET /api/studio/{stream}`.
pub(super) async fn studio(
    route: &Route,
    name: &StreamName,
    request: &Request,
    env: &Env,
) -> Result<Response> {
    match managed_stream(name, request, env).await? {
        Some(stream) => studio_answer(route, stream, env).await,
        None => problem(Some(route), &Problem::unauthorized()),
    }
}

/// `POST /api/studio/{stream}/rotate-key`.
pub(super) async fn rotate_key(
    route: &Route,
    name: &StreamName,
    request: &Request,
    env: &Env,
) -> Result<Response> {
    let Some(before) = managed_stream(name, request, env).await? else {
        return problem(Some(route), &Problem::unauthorized());
    };
    match new_key(env, &before, None).await? {
        Some(stream) => studio_answer(route, stream, env).await,
        None => problem(Some(route), &Problem::unauthorized()),
    }
}

/// Gives a stream a new key; the one before goes on until then, Unix milliseconds. `None` where key or studio link were changed at the same
/// time.
pub(super) async fn new_key(
    env: &Env,
    before: &Stream,
    old_until_unix_ms: Option<i64>,
) -> Result<Option<Stream>> {
    let mut stream = before.clone();
    stream.rotate_key(random()?, old_until_unix_ms, &seal(env)?, random()?);
    // What goes on with a key that is gone ends, or nothing is changed.
    let revoked = stream.revokes(before, now_unix_ms());
    let mut statements: Vec<_> = (revoked.iter())
        .map(|revocation| sql::revoke_key(revocation, before))
        .collect();
    statements.push(sql::rotate_key(&stream, before));
    if batch(env, &statements).await? == 0 {
        return Ok(None);
    }
    changed();
    if !revoked.is_empty() {
        watch::tell(env, &stream.name.clone().into()).await?;
    }
    Ok(Some(stream))
}

/// `POST /api/studio/{stream}/log-out`.
pub(super) async fn log_out(
    route: &Route,
    name: &StreamName,
    request: &Request,
    env: &Env,
) -> Result<Response> {
    // Not by a token: it would outlive itself in the link that it is told.
    let Some(before) = studio_stream(name, request, env).await? else {
        return problem(Some(route), &Problem::unauthorized());
    };
    let mut stream = before.clone();
    let (secret, ended) = stream.log_out(random()?, &seal(env)?, random()?);
    // What plays by the link is over too, or nothing is done.
    let (now, tenants) = (now_unix_ms(), tenants(env)?);
    let revocation = access::access(env)?
        .map(|access| access.revoke_studio(name, ended, &tenants, &watch::revoked(), now));
    let mut statements = Vec::new();
    statements.extend(revocation.iter().flat_map(|ended| sql::revoke(ended, now)));
    statements.push(sql::log_out(&stream, &before));
    if batch(env, &statements).await? == 0 {
        return problem(Some(route), &Problem::unauthorized());
    }
    changed();
    if let Some(revocation) = revocation {
        watch::tell(env, &revocation.streams).await?;
    }
    let logged_out = LoggedOut {
        secret: secret.to_string(),
    };
    answer::json(Some(route), StatusCode::OK, Caching::Never, &logged_out)
}

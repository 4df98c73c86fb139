//! Tokens at the Worker. Its keys are the secret `TOKEN_KEYS`, the text of the file that `ghost-live token` keeps; without it no token
//! is good here, and encoders publish with static keys.

use std::{cell::RefCell, net::IpAddr, rc::Rc};

use http::StatusCode;
use protocol::token::{Action, Grant, Jwks, Refusal, Revocations};
use worker::{Env, Request, Response, Result};

use super::{
    answer::{json, problem},
    binding, directory, guard, now_unix_ms, random, watch,
};
use crate::{
    access::{Access, INSTALLATION, Issuer, Keyring, NotMinted, Wanted},
    api,
    directory::bearer as bearer_of,
    routes::{Caching, Problem, Route},
    streams::Bearer,
};

thread_local! {
    /// What decides in this isolate: a change of its secrets makes new isolates.
    static ACCESS: RefCell<Option<Rc<Access>>> = const { RefCell::new(None) };
}

/// A variable that is set and not empty.
pub(super) fn text(env: &Env, name: &str) -> Option<String> {
    let text = env.var(name).ok()?.to_string();
    (!text.trim().is_empty()).then_some(text)
}

/// What decides over tokens; `None` where no keys are set.
pub(super) fn access(env: &Env) -> Result<Option<Rc<Access>>> {
    if let Some(access) = ACCESS.with_borrow(Clone::clone) {
        return Ok(Some(access));
    }
    let Ok(keys) = env.secret(binding::TOKEN_KEYS) else {
        return Ok(None);
    };
    let keyring = Keyring::from_json(&keys.to_string())
        .map_err(|error| format!("{}: {error}", binding::TOKEN_KEYS))?;
    let issuers = issuers(env)?;
    let installation = text(env, binding::INSTALLATION);
    let installation = installation.as_deref().unwrap_or(INSTALLATION);
    let access = Access::new(installation, keyring, &issuers).map_err(|error| error.to_string())?;
    let access = Rc::new(access);
    ACCESS.set(Some(Rc::clone(&access)));
    Ok(Some(access))
}

/// Others whose tokens are trusted.
pub(super) fn issuers(env: &Env) -> Result<Vec<Issuer>> {
    Ok(match text(env, binding::TOKEN_ISSUERS) {
        Some(issuers) => serde_json::from_str(&issuers)
            .map_err(|error| format!("{}: {error}", binding::TOKEN_ISSUERS))?,
        None => Vec::new(),
    })
}

/// `GET /.well-known/jwks.json`.
pub(super) fn jwks(route: &Route, env: &Env) -> Result<Response> {
    let keys = match access(env)? {
        Some(access) => access.jwks(now_unix_ms()),
        None => Jwks { keys: Vec::new() },
    };
    json(Some(route), StatusCode::OK, Caching::Revalidate, &keys)
}

/// `POST /api/tokens`.
pub(super) async fn mint(route: &Route, mut request: Request, env: &Env) -> Result<Response> {
    let Some(access) = access(env)? else {
        return problem(Some(route), &Problem::not_found());
    };
    let authorization = request.headers().get("authorization")?;
    let Some(bearer) = bearer_of(authorization.as_deref()) else {
        return problem(Some(route), &Problem::unauthorized());
    };
    // One that is no good costs no read.
    if let Err(found) = shown(&request, env)? {
        return problem(Some(route), &found);
    }
    let body = directory::question(&mut request).await?;
    let wanted: Wanted = match body.and_then(|body| api::read(&body)) {
        Ok(wanted) => wanted,
        Err(found) => return problem(Some(route), &found),
    };
    let address = guard::client(&request)?.address;
    match access.mint(
        bearer,
        address,
        &wanted,
        &*watch::revoked_now(env).await?,
        random()?,
        now_unix_ms(),
    ) {
        Ok(minted) => json(Some(route), StatusCode::OK, Caching::Never, &minted),
        Err(NotMinted::Refused(refusal)) => problem(Some(route), &Problem::token(&refusal)),
        Err(NotMinted::Mint(error)) => problem(Some(route), &Problem::mint(&error)),
    }
}

/// The token that a request comes with, if it does. The inner error is the answer to one that is no good; the directory is not asked.
pub(super) fn shown(
    request: &Request,
    env: &Env,
) -> Result<std::result::Result<Option<Token>, Problem>> {
    let authorization = request.headers().get("authorization")?;
    let Some(token) = bearer_of(authorization.as_deref()) else {
        return Ok(Ok(None));
    };
    let granted = match access(env)? {
        Some(access) => access.read(token, now_unix_ms()),
        None => Err(Refusal::Key),
    };
    let address = guard::client(request)?.address;
    Ok(granted
        .map(|grant| Some(Token { grant, address }))
        .map_err(|refusal| Problem::token(&refusal)))
}

/// A good token, unless it was taken back: what that is has not been looked for yet.
pub(super) struct Token {
    grant: Grant,
    address: IpAddr,
}

impl Token {
    /// Whether it is a manager's: they are few, and see what there is at this moment.
    pub(super) fn manages(&self) -> bool {
        self.grant.claims().act.contains(Action::Manage)
    }

    /// Who asks, as far as what was taken back lets them.
    pub(super) fn bearer(self, revoked: &Revocations) -> Bearer<'_> {
        Bearer::new(self.grant, self.address, revoked)
    }
}

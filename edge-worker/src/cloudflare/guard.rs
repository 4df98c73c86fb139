//! Who may come at all, at the Worker. The platform names the client; rules, rates and origins are variables. What is counted is counted by
//! each isolate for itself, of which a platform near the viewers has many: Cloudflare's own rules go in front.

use std::{cell::RefCell, rc::Rc, time::Duration};

use http::HeaderMap;
use serde::de::DeserializeOwned;
use worker::{Env, Headers, Request, Response, Result};

use super::{access::text, binding, now_unix_ms, random};
use crate::{
    guard::{Client, Guard, Origins, Proxies, Rates, Rules},
    routes::{Page, Route},
};

/// Addresses, tokens and sessions that an isolate remembers at one time: 128 KiB.
const SLOTS: usize = 1 << 13;

/// `Strict-Transport-Security` of pages: a year. Cloudflare serves each host over TLS.
const HSTS: &str = "max-age=31536000";

/// What decides in an isolate.
pub(super) struct Guards {
    pub(super) guard: Guard,
    origins: Origins,
}

thread_local! {
    /// A change of variables makes new isolates.
    static GUARDS: RefCell<Option<Rc<Guards>>> = const { RefCell::new(None) };
}

pub(super) fn variable<T: DeserializeOwned + Default>(env: &Env, name: &str) -> Result<T> {
    match text(env, name) {
        Some(text) => {
            serde_json::from_str(&text).map_err(|error| format!("{name}: {error}").into())
        }
        None => Ok(T::default()),
    }
}

/// What decides here.
pub(super) fn guards(env: &Env) -> Result<Rc<Guards>> {
    if let Some(guards) = GUARDS.with_borrow(Clone::clone) {
        return Ok(guards);
    }
    let rules: Rules = variable(env, binding::ADDRESS_RULES)?;
    let rates: Rates = variable(env, binding::RATES)?;
    let guards = Rc::new(Guards {
        guard: Guard::new(Proxies::default(), rules, rates, SLOTS, random()?),
        origins: variable(env, binding::EMBED_ORIGINS)?,
    });
    GUARDS.set(Some(Rc::clone(&guards)));
    Ok(guards)
}

/// The time of rates.
pub(super) fn now() -> Duration {
    Duration::from_millis(u64::try_from(now_unix_ms()).unwrap_or_default())
}

/// Who asks, as the platform says.
pub(super) fn client(request: &Request) -> Result<Client> {
    let said = request.headers().get("cf-connecting-ip")?;
    Ok(Client::named(said.and_then(|text| text.parse().ok())))
}

impl Guards {
    /// An answer with the headers for the site that asks. What a cache or an object gave has those for every site.
    pub(super) fn finish(
        &self,
        route: Option<&Route>,
        origin: Option<&str>,
        response: Response,
    ) -> Result<Response> {
        let page = matches!(route, Some(Route::Page(..)));
        let embed = matches!(route, Some(Route::Page(Page::Embed, _)));
        let response = match self.origins {
            Origins::Listed(_) if embed || route.is_none_or(Route::is_shared) => {
                let mut map = HeaderMap::from(response.headers());
                self.origins.apply(origin, &mut map);
                response.with_headers(Headers::from(map))
            }
            _ => response,
        };
        if page {
            response.headers().set("strict-transport-security", HSTS)?;
        }
        Ok(response)
    }
}

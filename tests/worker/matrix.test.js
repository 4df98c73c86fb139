// Cells of the access matrix (docs/access-matrix.md) at the Worker that are of a kind on several protocols: who comes with what, and what each
// answers. And webhooks that decide over viewers.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { internal } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { keyOf, signed } from "./tokens.js";
import { answered, assertProblem, closedStream, enterStream, live, newStream, pieces, publishing, SECRET, until } from "./viewer.js";

const [first, second, third, team, stranger] = Array.from({ length: 5 }, () => keyOf(randomBytes(32)));
const now = () => Math.floor(Date.now() / 1000);
const TEAM = "https://team.example";

const token = (more = {}, by = first) => signed({ iss: "live", aud: "live", sub: "anna", stream: "one", act: "watch", iat: now() - 10, exp: now() + 3600, ...more }, by);
const teams = (more) => token({ iss: TEAM, ...more }, { ...team, kid: "team-1" });
const manager = (by) => token({ stream: "*", act: "manage", sub: "administrator" }, by);
const idOf = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url")).jti;

/** What the webhook was asked, and what it says. */
const asked = [];
let verdict = { decision: "allow" };
const hook = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  asked.push(JSON.parse(Buffer.concat(chunks).toString()));
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify(verdict));
});

let state;
let edge;
let one;
let other;

const inUse = ({ seed }, retires_unix_ms) => ({ seed, since_unix_ms: 0, retires_unix_ms });

function start(keys, port) {
  const url = `http://127.0.0.1:${hook.address().port}/hook`;
  const vars = {
    LINK_SECRET: SECRET,
    INSTALLATION: "live",
    TOKEN_KEYS: JSON.stringify({ keys }),
    TOKEN_ISSUERS: JSON.stringify([{ issuer: TEAM, public_key: team.x, kid: "team-1", tenant: "team-" }]),
    WEBHOOKS: JSON.stringify([{ name: "members", url, on: ["watch"], streams: "members-*", allow_networks: ["127.0.0.0/8"] }]),
    WEBHOOK_SECRETS: JSON.stringify({ members: "what only the webhook's server knows" }),
  };
  return startEdge({ state, port, vars });
}

before(async () => {
  hook.listen(0, "127.0.0.1");
  await once(hook, "listening");
  state = await newState();
  edge = await start([inUse(first)]);
  one = await closedStream(edge, "one", token());
  other = await closedStream(edge, "other", token({ stream: "other" }));
});

after(async () => {
  for (const core of [one, other]) await core?.hangUp();
  await edge?.stop();
  await state?.remove();
  hook.closeAllConnections();
  hook.close();
});

const ask = (path, { method = "GET", bearer, body, headers = {} } = {}) => fetch(edge.url + path, {
  method,
  headers: bearer === undefined ? headers : { authorization: `Bearer ${bearer}`, ...headers },
  body: body === undefined ? undefined : JSON.stringify(body),
  redirect: "manual",
});
const status = async (path, options) => (await answered(ask(path, options)))[0].status;
const all = async (paths, options) => {
  const statuses = [];
  for (const path of paths) statuses.push(await status(path, options));
  return statuses;
};
const admit = (key, stream = null) => internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream, peer: "192.0.2.1:5000" }));
const revoke = async (token) => {
  const what = { token: { iss: "live", jti: idOf(token) } };
  const answer = await ask("/api/revocations", { method: "POST", bearer: manager(), body: { what, streams: "one" } });
  assert.equal(answer.status, 200, await answer.text());
};

/** Where playing begins. */
const entries = (viewer) => ["index.m3u8", "manifest.mpd"].map((file) => `/live/one/${file}?token=${viewer}`);
/** What a session opens: a playlist, the MPD, and a complete segment. */
const opened = (session) => [
  `/live/one/${one.broadcast}/${session}/v-720p30/index.m3u8`,
  `/live/one/manifest.mpd?session=${session}`,
  `/live/one/${one.broadcast}/${session}/v-720p30/1.m4s`,
];

/** All requests about a stream that need a token which manages it, and what a good one gets. The last one ends it. */
function managing(name = "one") {
  const id = "AQEBAQEBAQEBAQEB";
  const at = `/api/streams/${name}`;
  return [
    ["POST", "/api/streams", { name }, 409],
    ["PATCH", at, { title: "x" }, 200],
    ["POST", `${at}/keys`, undefined, 200],
    ["POST", "/api/tokens", { stream: name, act: "watch" }, 200],
    ["GET", `${at}/sessions`, undefined, 200],
    ["DELETE", `${at}/sessions/${id}`, undefined, 204],
    ["GET", `${at}/links`, undefined, 200],
    ["POST", `${at}/links`, { name: "x", for_s: 60 }, 201],
    ["DELETE", `${at}/links/${id}`, undefined, 404],
    ["POST", "/api/revocations", { what: { session: id }, streams: name }, 200],
    ["DELETE", at, undefined, 204],
  ];
}

async function manages(case_, bearer, expected, name) {
  for (const [method, path, body, good] of managing(name)) {
    const got = await status(path, { method, bearer, body });
    assert.equal(got, typeof expected === "function" ? expected(method, path, good) : expected, `${case_}: ${method} ${path}`);
  }
}

test("a stream key is good until the overlap with the one after it is over", async () => {
  const { key } = await newStream(edge, "keyed");
  const rotated = await (await ask("/api/streams/keyed/keys", { method: "POST", bearer: manager(), body: { overlap_s: 5 } })).json();
  for (const good of [key, rotated.key]) assert.equal((await admit(good)).status, 200);
  const over = await until("the overlap is over", async () => {
    const answer = await admit(key);
    return answer.status !== 200 && answer;
  }, 15_000);
  assert.match(assertProblem(over, await over.text(), 403).detail, /key is wrong/);
  assert.ok(Date.now() >= Date.parse(rotated.old_key_until), rotated.old_key_until);
  assert.equal((await admit(rotated.key)).status, 200);
});

test("an admission ends with the token's sess_exp, and there is none without a key", async () => {
  const sess_exp = now() + 60;
  const admission = await (await admit(token({ act: "publish", sess_exp }))).json();
  assert.equal(admission.ends_unix_ms, sess_exp * 1000);
  for (const key of ["", "one", "one_aaaaaaaaaaaaaaaaaaaaaaaaaa"]) {
    const refused = await admit(key);
    assert.match(assertProblem(refused, await refused.text(), 403).detail, /key is wrong/, key);
  }
});

test("a stream key publishes its stream, and opens nothing else", async () => {
  const { key } = one.entry;
  assert.equal((await admit(key)).status, 200);
  const refused = await admit(key, "other");
  assert.match(assertProblem(refused, await refused.text(), 403).detail, /another stream/);
  assert.deepEqual(await all(entries(key)), [401, 401]);
  for (const path of ["/live/one/index.m3u8", "/live/one/manifest.mpd", "/api/streams", "/api/streams/one", "/api/studio/one"]) {
    assert.equal(await status(path, { bearer: key }), 401, path);
  }
  await manages("a stream key", key, 401);
});

test("a session opens nothing from an address that its token is not for", async () => {
  const at = (address) => ({ headers: { "cf-connecting-ip": address } });
  const viewer = token({ ip: ["192.0.2.0/24", "2001:db8::/32"] });
  const { session } = await enterStream(edge, "one", viewer, at("192.0.2.7").headers);
  for (const home of ["192.0.2.200", "2001:db8::1"]) assert.deepEqual(await all(opened(session), at(home)), [200, 200, 200], home);
  for (const elsewhere of ["198.51.100.1", "2001:db9::1"]) {
    for (const path of opened(session)) {
      const [response, text] = await answered(ask(path, at(elsewhere)));
      assert.match(assertProblem(response, text, 403).type, /forbidden$/, path);
    }
    assert.deepEqual(await all(entries(viewer), at(elsewhere)), [403, 403]);
  }
});

test("a session of another stream opens nothing here", async () => {
  // One that is for that stream only, and one that would begin a session here as well.
  for (const stream of ["other", "*"]) {
    const there = await enterStream(edge, "other", token({ stream }));
    assert.equal(await status(there.playlist()), 200);
    assert.deepEqual(await all(opened(there.session)), [401, 401, 401], stream);
  }
});

test("a session is over with sess_exp, for playlists, the MPD, and segments complete or growing", async () => {
  const viewer = token({ sess_exp: now() + 8 });
  const { session, playlist, segment } = await enterStream(edge, "one", viewer);
  assert.deepEqual(await all(opened(session)), [200, 200, 200]);
  for (const { name } of one.tracks) await one.part(name, 3, 0);
  const growing = await pieces(edge, segment(3));
  assert.equal((await growing.next()).value, "v-720p30 3.0;");
  await until("it ends", async () => (await status(playlist())) === 401, 15_000);
  assert.deepEqual(await all(opened(session)), [401, 401, 401]);
  assert.deepEqual(await all(entries(viewer)), [401, 401]);
  for (let part = 1; part < 6; part++) for (const { name } of one.tracks) await one.part(name, 3, part);
  for (const { name } of one.tracks) await one.segment(name, 3);
  // Cut off: here the way from the Worker to the socket ends the body where the Worker breaks it.
  assert.equal((await growing.next().catch(() => ({}))).value, undefined);
});

test("a revoked viewer gets neither playlist nor MPD nor a complete segment", async () => {
  const viewer = token();
  const { session } = await enterStream(edge, "one", viewer);
  assert.deepEqual(await all(opened(session)), [200, 200, 200]);
  await revoke(viewer);
  assert.deepEqual(await all(opened(session)), [403, 403, 403]);
  assert.deepEqual(await all(entries(viewer)), [403, 403]);
});

test("nothing is managed without a good token", async () => {
  const manage = (more, by) => token({ act: "manage", ...more }, by);
  const good = manage();
  // Changing a stream of others is answered as if there were none.
  const others = (method, path) => (method !== "GET" && /^\/api\/streams\/one(\/keys)?$/.test(path) ? 404 : 403);
  for (const [case_, bearer, expected] of [
    ["no token", undefined, 401],
    ["garbage", "a.b.c", 401],
    ["cut", good.slice(0, -1), 401],
    ["expired", manage({ exp: now() - 1 }), 401],
    ["its sessions are over", manage({ sess_exp: now() - 1 }), 401],
    ["not yet valid", manage({ nbf: now() + 600 }), 401],
    ["another installation's", manage({ aud: "elsewhere" }), 401],
    ["other stream", manage({ stream: "other" }), others],
    ["other action", manage({ act: ["watch", "publish"] }), 403],
    ["wrong address", manage({ ip: ["192.0.2.0/24"] }), 403],
    ["other tenant's issuer", teams({ act: "manage", stream: "team-*" }), others],
    ["a team's issuer for this stream", teams({ act: "manage" }), 403],
    ["a key that nobody knows", manage({}, stranger), 401],
  ]) {
    await manages(case_, bearer, expected);
  }
  // All of them are answered to who may.
  await newStream(edge, "managed");
  await manages("good", manager(), (_, __, good) => good, "managed");
});

test("a studio link opens its own stream, and nothing else", async () => {
  const { key, studio_secret: own } = await newStream(edge, "owned");
  const at = "/api/studio/owned";
  const owns = [["GET", at], ["POST", `${at}/rotate-key`], ["POST", `${at}/log-out`]];
  for (const [case_, bearer] of [["none", undefined], ["wrong", "wrong"], ["another stream's", other.entry.studio_secret], ["a stream key", key]]) {
    for (const [method, path] of owns) assert.equal(await status(path, { method, bearer }), 401, `${case_}: ${method} ${path}`);
    await manages(case_, bearer, 401, "owned");
  }
  // What it does not do with its own stream: publish it, mint tokens for it, replace its key for an encoder, end it.
  const refused = await admit(own);
  assert.match(assertProblem(refused, await refused.text(), 403).detail, /key is wrong/);
  const ends = (method, path) => method === "DELETE" && path.endsWith("/owned");
  await manages("its own", own, (method, path, good) => (ends(method, path) || /\/(streams|tokens|keys)$/.test(path) ? 401 : good), "owned");
  for (const [method, path] of owns) assert.equal(await status(path, { method, bearer: own }), 200, `${method} ${path}`);
});

test("a manager is out at the next request when the token is revoked, or its time is over", async () => {
  const [revoked, short] = [token({ act: "manage" }), token({ act: "manage", sess_exp: now() + 5 })];
  const sessions = "/api/streams/one/sessions";
  for (const bearer of [revoked, short]) assert.equal(await status(sessions, { bearer }), 200);
  await revoke(revoked);
  await manages("revoked", revoked, 403);
  await until("its time is over", async () => (await status(sessions, { bearer: short })) === 401, 10_000);
  await manages("over", short, 401);
});

test("a webhook decides over viewers: it denies with a reason, and it is asked where playing begins and not again", async () => {
  const core = await live(edge, "members-a");
  verdict = { decision: "deny", reason: "Members only." };
  for (const [file, protocol] of [["index.m3u8", "hls"], ["manifest.mpd", "dash"]]) {
    const [denied, text] = await answered(ask(`/live/members-a/${file}`, { headers: { "cf-connecting-ip": "192.0.2.9" } }));
    assert.equal(assertProblem(denied, text, 403).detail, "Members only.");
    const { action, stream, address, token: said, protocol: by } = asked.at(-1);
    assert.deepEqual({ action, stream, address, said, by }, { action: "watch", stream: "members-a", address: "192.0.2.9", said: null, by: protocol });
  }
  // A token does not get around it, and its claims are told.
  assert.equal(await status("/live/members-a/index.m3u8", { bearer: token({ stream: "members-*" }) }), 403);
  assert.deepEqual([asked.at(-1).token.sub, asked.at(-1).token.stream], ["anna", "members-*"]);
  // Nobody gets around being asked about by guessing everybody's address.
  assert.equal(await status(`/live/members-a/${core.broadcast}/-/v-720p30/index.m3u8`), 401);

  verdict = { decision: "allow" };
  const viewer = await enterStream(edge, "members-a");
  const count = asked.length;
  for (const path of [viewer.playlist(), viewer.segment(0), `/live/members-a/manifest.mpd?session=${viewer.session}`]) assert.equal(await status(path), 200, path);
  assert.equal(asked.length, count, "asked once a session");
  await core.hangUp();
});

test("who a webhook lets in without a token has a session that is listed, can be ended, and opens no other stream", async () => {
  const core = await live(edge, "members-b");
  const [mine, another] = [await enterStream(edge, "members-b"), await enterStream(edge, "members-b")];
  assert.notEqual(mine.session, another.session);
  const sessions = "/api/streams/members-b/sessions";
  const listed = async () => (await (await ask(sessions, { bearer: manager() })).json()).sessions;
  const anonymous = await listed();
  // The first was begun by who looked whether it is live.
  assert.ok(anonymous.length >= 2 && anonymous.every(({ subject, jti }) => subject === undefined && jti === undefined), JSON.stringify(anonymous));
  for (const { id } of anonymous) assert.equal(await status(`${sessions}/${id}`, { method: "DELETE", bearer: manager() }), 204);
  assert.deepEqual(await all([mine.playlist(), another.playlist(), mine.segment(0)]), [403, 403, 403]);
  const { session } = await enterStream(edge, "members-b");
  assert.deepEqual(await all(opened(session)), [401, 401, 401]);
  await core.hangUp();
});

test("a webhook gives a viewer a lifetime", async () => {
  const core = await live(edge, "members-c");
  verdict = { decision: "allow", lifetime_s: 4 };
  const viewer = await enterStream(edge, "members-c");
  verdict = { decision: "allow" };
  const longer = await enterStream(edge, "members-c");
  assert.equal(await status(viewer.playlist()), 200);
  await until("its lifetime is over", async () => (await status(viewer.playlist())) === 401, 10_000);
  assert.equal(await status(viewer.segment(0)), 401);
  assert.equal(await status(longer.playlist()), 200);
  await core.hangUp();
});

test("a webhook sends a viewer to another stream, with a session for it and past no token", async () => {
  const [from, to] = [await live(edge, "members-d"), await live(edge, "members-e")];
  verdict = { decision: "allow", stream: "members-e" };
  const session = {};
  for (const file of ["index.m3u8", "manifest.mpd"]) {
    const [sent] = await answered(ask(`/live/members-d/${file}`));
    assert.equal(sent.status, 307);
    assert.equal(sent.headers.get("cache-control"), "no-store");
    const [path, text] = sent.headers.get("location").split("?session=");
    assert.equal(path, `../members-e/${file}`);
    session[file] = text;
    const [playing, body] = await answered(ask(`/live/members-e/${file}?session=${text}`));
    assert.equal(playing.status, 200, body);
    assert.ok(body.includes(`${to.broadcast}/${text}/`), body);
    assert.equal(await status(`/live/members-d/${file}?session=${text}`), 401);
  }
  const closed = await internal(edge.url, SECRET, "PUT", "/internal/streams/members-e/settings", JSON.stringify({ visibility: "token" }));
  assert.equal(closed.status, 204);
  await until("it needs a token", async () => (await status("/live/members-d/index.m3u8")) === 401);
  assert.equal(await status(`/live/members-e/index.m3u8?session=${session["index.m3u8"]}`), 401, "nor does who was sent before");
  verdict = { decision: "allow" };
  for (const core of [from, to]) await core.hangUp();
});

test("what a rotated key signed goes on until it retires, and no longer", async () => {
  const hour = Date.now() + 3_600_000;
  const rotate = async (keys) => {
    await edge.kill();
    edge = await start(keys, edge.port);
    await one.dial();
  };
  const sessions = "/api/streams/one/sessions";
  const [viewer, owner] = [token(), manager()];
  const { session } = await enterStream(edge, "one", viewer);
  await newStream(edge, "signed");
  const encoder = await publishing(edge, "signed", token({ act: "publish", stream: "signed" }));
  await rotate([inUse(second), inUse(first, hour)]);
  await until("it can be watched", async () => (await status(opened(session)[0])) === 200);
  assert.deepEqual(await all(opened(session)), [200, 200, 200]);
  assert.deepEqual(await all(entries(viewer)), [200, 200]);
  assert.equal(await status(sessions, { bearer: owner }), 200);
  assert.equal((await admit(token({ act: "publish" }))).status, 200);

  const newer = token({}, second);
  const later = await enterStream(edge, "one", newer);
  await encoder.dial();
  encoder.heartbeat();
  await encoder.part("v-720p30", 1, 0);
  await until("it goes on", async () => (await (await ask("/api/streams/signed")).json()).live);
  await rotate([inUse(third), inUse(second, hour), inUse(first, Date.now() - 1)]);
  await encoder.dial();
  encoder.heartbeat();
  const { reason } = await encoder.until(({ type }) => type === "refused", 2000);
  assert.match(reason, /not known here/);
  await until("it can be watched", async () => (await status(opened(later.session)[0])) === 200);
  assert.deepEqual(await all(opened(later.session)), [200, 200, 200]);
  assert.deepEqual(await all(opened(session)), [401, 401, 401]);
  assert.deepEqual(await all(entries(viewer)), [401, 401]);
  assert.deepEqual(await all(entries(newer)), [200, 200]);
  await manages("retired", owner, 401);
  assert.equal(await status(sessions, { bearer: manager(second) }), 200);
  const refused = await admit(token({ act: "publish" }));
  assert.match(assertProblem(refused, await refused.text(), 403).detail, /not known here/);
});

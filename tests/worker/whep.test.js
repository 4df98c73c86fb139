// WebRTC signaling through the Worker (WHEP): browsers over HTTP, and a box that answers over its link.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { ANSWER } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { keyOf, signed } from "./tokens.js";
import { answered, assertProblem, closedStream, live, newStream, SECRET, timed, until } from "./viewer.js";

const [first, second, third, team, stranger] = Array.from({ length: 5 }, () => keyOf(randomBytes(32)));
const now = () => Math.floor(Date.now() / 1000);
const TEAM = "https://team.example";
const SDP = "application/sdp";
const FRAGMENT = "application/trickle-ice-sdpfrag";
const OFFER = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:hers\r\n";
const CANDIDATES = "a=ice-ufrag:hers\r\na=candidate:1 1 UDP 1 192.0.2.1 9 typ host\r\n";

const token = (more = {}, by = first) => signed({ iss: "live", aud: "live", sub: "anna", stream: "one", act: "watch", iat: now() - 10, exp: now() + 3600, ...more }, by);
const teams = (more) => token({ iss: TEAM, ...more }, { ...team, kid: "team-1" });
const manager = () => token({ stream: "*", act: "manage", sub: "administrator" });
const idOf = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url")).jti;
const inUse = ({ seed }, since_unix_ms = 0, retires_unix_ms = undefined) => ({ seed, since_unix_ms, retires_unix_ms });

const hook = createServer(async (request, response) => {
  for await (const _ of request);
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify({ decision: "allow", stream: "members-b" }));
});

let state;
let edge;
let one;
let open;

function start(keys, port) {
  const url = `http://127.0.0.1:${hook.address().port}/hook`;
  const vars = {
    LINK_SECRET: SECRET,
    INSTALLATION: "live",
    TOKEN_KEYS: JSON.stringify({ keys }),
    TOKEN_ISSUERS: JSON.stringify([{ issuer: TEAM, public_key: team.x, kid: "team-1", tenant: "team-" }]),
    WEBHOOKS: JSON.stringify([{ name: "members", url, on: ["watch"], streams: "members-*", allow_networks: ["127.0.0.0/8"] }]),
    WEBHOOK_SECRETS: JSON.stringify({ members: "what only the webhook's server knows" }),
    ICE_SERVERS: JSON.stringify([{ urls: ["stun:stun.example:3478"] }, { urls: ["turn:turn.example:3478"], secret: "north", ttl_s: 600 }]),
  };
  return startEdge({ state, port, vars });
}

before(async () => {
  hook.listen(0, "127.0.0.1");
  await once(hook, "listening");
  state = await newState();
  edge = await start([inUse(first)]);
  one = await closedStream(edge, "one", token());
  open = await live(edge, "open");
});

after(async () => {
  for (const core of [one, open]) await core?.hangUp();
  await edge?.stop();
  await state?.remove();
  hook.closeAllConnections();
  hook.close();
});

const bearer = (token) => (token === undefined ? {} : { authorization: `Bearer ${token}` });
const post = (stream, { body = OFFER, type = SDP, token, headers = {}, query = "" } = {}) =>
  fetch(`${edge.url}/whep/${stream}${query}`, { method: "POST", headers: { "content-type": type, ...bearer(token), ...headers }, body, redirect: "manual" });
const patch = (session, { body = CANDIDATES, headers = {} } = {}) => fetch(edge.url + session, { method: "PATCH", headers: { "content-type": FRAGMENT, ...headers }, body });
const leave = (session, headers = {}) => fetch(edge.url + session, { method: "DELETE", headers });
const status = async (promise) => (await answered(promise))[0].status;
const refused = async (promise, code, kind, retryAfter = null) => {
  const [response, text] = await answered(promise);
  assert.equal(assertProblem(response, text, code).type, `urn:ghost-live:problem:${kind}`);
  assert.equal(response.headers.get("retry-after"), retryAfter);
};
/** Offers; gives the session's address, and its viewer as the box has it. */
async function watches(core, token, headers) {
  const [response, text] = await answered(post(core.stream, { token, headers }));
  assert.equal(response.status, 201, text);
  return { session: response.headers.get("location"), viewer: core.offered().at(-1), response };
}
const listed = async (stream) => {
  const [response, text] = await answered(fetch(`${edge.url}/api/streams/${stream}/sessions`, { headers: bearer(manager()) }));
  assert.equal(response.status, 200, text);
  return JSON.parse(text).sessions;
};
const isListed = async ({ stream }, { session }) => (await listed(stream)).some(({ id }) => id === session.id);

test("a viewer by WebRTC offers, trickles, restarts and leaves", async () => {
  const { session, viewer, response } = await watches(open, undefined, { "cf-connecting-ip": "192.0.2.7" });
  const at = { "cf-connecting-ip": "192.0.2.7" };
  assert.equal(response.headers.get("content-type"), SDP);
  assert.equal(response.headers.get("etag"), '"ours"');
  assert.equal(response.headers.get("accept-patch"), FRAGMENT);
  assert.equal(response.headers.get("access-control-allow-origin"), "*");
  assert.equal(response.headers.get("cache-control"), "no-store");
  assert.match(session, new RegExp(`^/whep/open/${open.broadcast}/`));
  assert.equal(viewer.address, "192.0.2.7");
  const [stun, turn] = response.headers.get("link").split(", ");
  assert.equal(stun, '<stun:stun.example:3478>; rel="ice-server"');
  const [, username, credential] = /^<turn:turn.example:3478>; rel="ice-server"; username="(.*)"; credential="(.*)"; credential-type="password"$/.exec(turn);
  assert.match(username, new RegExp(`^\\d+:${viewer.session.id}$`));
  assert.equal(credential, createHmac("sha1", "north").update(username).digest("base64"));
  assert.ok(await isListed(open, viewer));
  assert.equal((await listed("open"))[0].protocol, "whep");

  assert.equal(await status(patch(session, { headers: at })), 204);
  const restart = CANDIDATES.replace("hers", "anew");
  await refused(patch(session, { body: restart, headers: at }), 428, "precondition-needed");
  await refused(patch(session, { body: restart, headers: { ...at, "if-match": '"x"' } }), 412, "precondition");
  const fragment = "a=ice-ufrag:also\r\na=ice-pwd:x\r\n";
  open.outcomes.push({ outcome: "patched", fragment });
  const [restarted, text] = await answered(patch(session, { body: restart, headers: { ...at, "if-match": '"*"' } }));
  assert.deepEqual([restarted.status, restarted.headers.get("etag"), restarted.headers.get("content-type"), text], [200, '"also"', FRAGMENT, fragment]);
  await refused(patch(session, { headers: { ...at, "if-match": '"ours"' } }), 412, "precondition");

  assert.equal(await status(leave(session, at)), 200);
  assert.ok(!(await isListed(open, viewer)));
  open.outcomes.push({ outcome: "refused", reason: "no_session" });
  await refused(leave(session, at), 404, "no-session");
  const preflight = await fetch(edge.url + session, { method: "OPTIONS" });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get("accept-post"), SDP);
  assert.match(preflight.headers.get("access-control-allow-methods"), /PATCH, DELETE/);
});

test("what is no offer never goes down the link, and every refusal is told", async () => {
  const before = open.offered().length;
  await newStream(edge, "offline");
  await refused(post("offline"), 404, "not-live", "5");
  await refused(post("nobody"), 404, "no-stream");
  await refused(post("open", { type: "application/json" }), 415, "media-type");
  await refused(post("open", { body: OFFER + "a=x\r\n".repeat(4000) }), 413, "too-large");
  for (const body of ["", "{}", "v=0\r\n", "v=0\r\na=ice-ufrag:\u0001234\r\n", ...Array.from({ length: 20 }, () => randomBytes(900))]) {
    await refused(post("open", { body }), 400, "bad-body");
  }
  assert.equal(open.offered().length, before);
  for (const [reason, code, kind, retry] of [
    ["malformed", 400, "bad-body"],
    ["no_common_codec", 406, "no-common-codec"],
    ["full", 503, "full", "10"],
    ["no_session", 404, "no-session"],
    ["unavailable", 503, "no-webrtc", "5"],
  ]) {
    open.outcomes.push({ outcome: "refused", reason });
    await refused(post("open"), code, kind, retry);
    assert.ok(!(await isListed(open, open.offered().at(-1))), `${reason}: it has no place`);
  }
  assert.equal(await status(patch(`/whep/open/${open.broadcast}/c2Vzc2lvbg`)), 401);
  assert.equal(await status(fetch(`${edge.url}/whep/open`)), 405);
});

test("an answer that never comes is a 504, and what was begun is ended", async () => {
  open.outcomes.push(null);
  const { ms } = await timed(refused(post("open"), 504, "no-answer", "2"));
  assert.ok(ms > 4000 && ms < 9000, `${ms} ms`);
  const viewer = open.offered().at(-1);
  await open.ended(viewer, 2000);
  assert.ok(!(await isListed(open, viewer)));
});

test("an offer is refused at once when the link drops, and who watches goes on", async () => {
  const core = await live(edge, "dropped");
  const stays = await watches(core);
  core.outcomes.push(null);
  const offer = timed(refused(post("dropped"), 503, "unavailable", "1"));
  await until("the offer is there", () => core.offered().length === 2);
  const lost = core.offered().at(-1);
  await core.hangUp();
  assert.ok((await offer).ms < 4000);
  await refused(post("dropped"), 503, "unavailable", "1");
  await refused(patch(stays.session), 503, "unavailable", "1");
  assert.ok(await isListed(core, stays.viewer));
  await core.dial();
  core.say({ type: "watching", viewers: [stays.viewer, lost] });
  // It was told that there is no answer.
  await core.ended(lost, 2000);
  assert.equal(await status(patch(stays.session)), 204);
  assert.ok(!core.received.some(({ type, sessions }) => type === "end" && sessions.includes(stays.viewer.session.id)));
  await core.hangUp();
});

test("the box says who still watches and who is gone", async () => {
  const viewer = token({ max: 1 });
  const before = await watches(one, viewer);
  await refused(post("one", { token: viewer }), 403, "in-use");
  assert.equal(await status(fetch(`${edge.url}/live/one/index.m3u8?token=${viewer}`)), 403);
  const seen = async () => (await listed("one")).find(({ id }) => id === before.viewer.session.id)?.seen_unix_ms;
  const began = await seen();
  await new Promise((resolve) => setTimeout(resolve, 20));
  one.say({ type: "still_watching", sessions: [before.viewer.session.id] });
  await until("it is seen", async () => (await seen()) > began, 2000);
  one.say({ type: "gone", sessions: [before.viewer.session.id] });
  await until("its place is free", async () => !(await isListed(one, before.viewer)), 2000);
  const taken = await until("another takes it", async () => {
    const [response] = await answered(post("one", { token: viewer }));
    return response.status === 201 && response.headers.get("location");
  }, 2000);
  one.say({ type: "watching", viewers: [before.viewer] });
  await one.ended(before.viewer, 2000);
  assert.equal(await status(leave(taken)), 200);
  const third = await watches(one, viewer);
  // A page that is left says so in one word for all protocols.
  const body = JSON.stringify({ viewer: "a page of mine", left: true, session: third.session.split("/").at(-1) });
  assert.equal((await fetch(`${edge.url}/api/streams/one/beacon`, { method: "POST", body })).status, 204);
  await one.ended(third.viewer, 2000);
});

test("viewers by WebRTC are known again after a restart of the edge, and ended as before", async () => {
  const [stays, leaves] = [token(), token()];
  const viewers = [(await watches(one, stays)).viewer, (await watches(one, leaves)).viewer];
  await edge.kill();
  edge = await start([inUse(first)], edge.port);
  await one.dial();
  await open.dial();
  one.say({ type: "watching", viewers });
  await until("they are listed", async () => (await isListed(one, viewers[0])) && (await isListed(one, viewers[1])), 10_000);
  const what = { token: { iss: "live", jti: idOf(leaves) } };
  const answer = await fetch(`${edge.url}/api/revocations`, { method: "POST", headers: bearer(manager()), body: JSON.stringify({ what, streams: "one" }) });
  assert.equal(answer.status, 200);
  await one.ended(viewers[1], 2000);
  assert.ok(await isListed(one, viewers[0]));
});

test("nobody watches by WebRTC without a good token", async () => {
  const before = one.offered().length;
  const good = token();
  for (const [case_, given, expected] of [
    ["no token", undefined, 401],
    ["garbage", "a.b.c", 401],
    ["cut", good.slice(0, -1), 401],
    ["expired", token({ exp: now() - 1 }), 401],
    ["its sessions are over", token({ sess_exp: now() - 1 }), 401],
    ["not yet valid", token({ nbf: now() + 600 }), 401],
    ["another installation's", token({ aud: "elsewhere" }), 401],
    ["other stream", token({ stream: "other" }), 403],
    ["other action", token({ act: "publish" }), 403],
    ["wrong address", token({ ip: ["192.0.2.0/24"] }), 403],
    ["other tenant's issuer", teams({ stream: "team-*" }), 403],
    ["a team's issuer for this stream", teams(), 403],
    ["a key that nobody knows", token({}, stranger), 401],
  ]) {
    assert.equal(await status(post("one", { token: given })), expected, case_);
    if (given) assert.equal(await status(post("one", { query: `?token=${given}` })), expected, case_);
  }
  assert.equal(one.offered().length, before);
  await watches(one, good);
});

test("a session by WebRTC is no other stream's, and from no other address", async () => {
  const home = { "cf-connecting-ip": "192.0.2.7" };
  const { session } = await watches(one, token({ stream: "*", ip: ["192.0.2.0/24"] }), home);
  const elsewhere = { "cf-connecting-ip": "198.51.100.1" };
  await refused(patch(session, { headers: elsewhere }), 403, "forbidden");
  await refused(leave(session, elsewhere), 403, "forbidden");
  const there = session.replace("/one/", "/open/");
  assert.equal(await status(patch(there, { headers: home })), 401);
  assert.equal(await status(leave(there, home)), 401);
  assert.equal(await status(patch(session, { headers: home })), 204, "its own goes on");
});

test("a viewer by WebRTC is out within two seconds of whatever takes it back", async () => {
  const revoke = (what) => fetch(`${edge.url}/api/revocations`, { method: "POST", headers: bearer(manager()), body: JSON.stringify({ what, streams: "one" }) });
  const bystander = await watches(one, token({ sub: "bystander" }));
  for (const [case_, take] of [
    ["token", (viewer) => revoke({ token: { iss: "live", jti: idOf(viewer) } })],
    ["subject", () => revoke({ subject: { iss: "live", sub: "a viewer" } })],
    ["session", (_, { session }) => fetch(`${edge.url}/api/streams/one/sessions/${session.id}`, { method: "DELETE", headers: bearer(manager()) })],
  ]) {
    const viewer = token(case_ === "subject" ? { sub: "a viewer" } : {});
    const began = await watches(one, viewer);
    const asked = performance.now();
    const answer = await take(viewer, began.viewer);
    assert.ok(answer.ok, case_);
    const { at } = await one.ended(began.viewer, 2500);
    assert.ok(at - asked < 2000, `${case_}: ${at - asked} ms`);
    assert.equal(await status(patch(began.session)), 403, case_);
    await until(`${case_}: it is not listed`, async () => !(await isListed(one, began.viewer)), 2000);
  }
  assert.ok(!one.received.some(({ type, sessions }) => type === "end" && sessions.includes(bystander.viewer.session.id)));
});

test("who watches by WebRTC without a token is out when one is needed", async () => {
  const core = await live(edge, "closing");
  const { session, viewer } = await watches(core);
  const asked = performance.now();
  const changed = await fetch(`${edge.url}/api/streams/closing`, { method: "PATCH", headers: bearer(manager()), body: JSON.stringify({ visibility: "token" }) });
  assert.equal(changed.status, 200, await changed.text());
  const { at } = await core.ended(viewer, 2500);
  assert.ok(at - asked < 2000, `${at - asked} ms`);
  assert.equal(await status(patch(session)), 401);
  await core.hangUp();
});

test("a viewer by WebRTC is out with sess_exp", async () => {
  const sess_exp = now() + 4;
  const { session, viewer } = await watches(one, token({ sess_exp }));
  assert.equal(viewer.session.ends_unix_ms, sess_exp * 1000, "the box is told when");
  assert.equal(await status(patch(session)), 204);
  await one.ended(viewer, 8000);
  assert.ok(Date.now() >= sess_exp * 1000 && Date.now() < sess_exp * 1000 + 3000);
  assert.equal(await status(patch(session)), 401);
});

test("a webhook sends an offer to another stream with a session for it, which goes before the token", async () => {
  // First the one to which the other's viewers are sent.
  const other = await live(edge, "members-b");
  const core = await live(edge, "members-a");
  const [sent] = await answered(post("members-a"));
  assert.equal(sent.status, 307);
  const location = sent.headers.get("location");
  assert.match(location, /^members-b\?session=/);
  const [there, text] = await answered(post(location, { token: token() }));
  assert.equal(there.status, 201, text);
  assert.equal(text, ANSWER);
  assert.equal(other.offered().length, 1);
  assert.equal(core.offered().length, 0);
  for (const one of [core, other]) await one.hangUp();
});

test("a viewer by WebRTC is out when the key that signed for it retires", async () => {
  const rotate = async (keys) => {
    await edge.kill();
    edge = await start(keys, edge.port);
    await one.dial();
  };
  const before = await watches(one, token());
  const [hour, rotated] = [Date.now() + 3_600_000, Date.now()];
  await rotate([inUse(second, rotated), inUse(first, 0, hour)]);
  one.say({ type: "watching", viewers: [before.viewer] });
  await until("it goes on", async () => (await status(patch(before.session))) === 204, 10_000);
  const later = await watches(one, token({}, second));
  await rotate([inUse(third, Date.now()), inUse(second, rotated, hour), inUse(first, 0, Date.now() - 1)]);
  one.say({ type: "watching", viewers: [before.viewer, later.viewer] });
  await one.ended(before.viewer, 10_000);
  await until("it goes on", async () => (await status(patch(later.session))) === 204, 10_000);
  assert.equal(await status(patch(before.session)), 401);
  assert.ok(!one.received.some(({ type, sessions }) => type === "end" && sessions.includes(later.viewer.session.id)));
});

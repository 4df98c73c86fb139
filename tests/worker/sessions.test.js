// Who watches at the Worker, from the first request to the last, and who does not.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { internal } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { encode, keyOf, signed } from "./tokens.js";
import { answered, assertProblem, closedStream, enterStream, newStream, pieces, publishing, SECRET, until } from "./viewer.js";

const [owner, retiring, retired, team, stranger] = Array.from({ length: 5 }, () => keyOf(randomBytes(32)));
const now = Math.floor(Date.now() / 1000);
const TEAM = "https://team.example";

const claims = (more) => ({ iss: "live", aud: "live", sub: "anna", stream: "demo", act: "watch", iat: now - 10, exp: now + 3600, ...more });
const token = (more = {}, by = owner, header = {}) => signed(claims(more), by, header);
const manager = token({ act: "manage" });

let state;
let edge;
let core;

const closed = (name) => closedStream(edge, name, token({ stream: name }));

const get = (path, bearer) => fetch(edge.url + path, { headers: bearer === undefined ? {} : { authorization: `Bearer ${bearer}` } });
const call = (method, path, bearer, body) => fetch(edge.url + path, {
  method,
  headers: { authorization: `Bearer ${bearer}` },
  body: body === undefined ? undefined : JSON.stringify(body),
});
const status = async (path, bearer) => {
  const response = await get(path, bearer);
  await response.arrayBuffer();
  return response.status;
};

const enter = (viewer, stream = "demo") => enterStream(edge, stream, viewer);

before(async () => {
  state = await newState();
  const keys = [
    { seed: owner.seed, since_unix_ms: Date.now() },
    { seed: retiring.seed, since_unix_ms: 0, retires_unix_ms: Date.now() + 3_600_000 },
    { seed: retired.seed, since_unix_ms: 0, retires_unix_ms: Date.now() - 1 },
  ];
  const issuers = [{ issuer: TEAM, public_key: team.x, kid: "team-1", tenant: "team-" }];
  edge = await startEdge({
    state,
    vars: { LINK_SECRET: SECRET, INSTALLATION: "live", TOKEN_KEYS: JSON.stringify({ keys }), TOKEN_ISSUERS: JSON.stringify(issuers) },
  });
  core = await closed("demo");
});

after(async () => {
  await core?.hangUp();
  await edge?.stop();
  await state?.remove();
});

test("a stream that needs a token plays with one, in HLS and DASH, and every playlist is the same for all", async () => {
  for (const by of [owner, retiring]) {
    const viewer = token({}, by);
    const [one, two] = [await enter(viewer), await enter(viewer)];
    assert.notEqual(one.session, two.session);
    const [first, second] = await Promise.all([one, two].map(async (viewer) => (await get(viewer.playlist())).text()));
    assert.equal(first, second);
    assert.ok(!first.includes(viewer));
  }
  const viewer = token();
  assert.equal(await status("/live/demo/index.m3u8", viewer), 200);
  const mpd = await (await get(`/live/demo/manifest.mpd?token=${viewer}`)).text();
  const [, location, session] = /<Location>(manifest\.mpd\?session=([^<]+))<\/Location>/.exec(mpd);
  assert.ok(!mpd.includes("/-/") && !mpd.includes(viewer), mpd);
  assert.ok(mpd.includes(`media="${core.broadcast}/${session}/$RepresentationID$`));
  assert.equal(await (await get(`/live/demo/${location}`)).text(), mpd);
  const segment = await get(`/live/demo/${core.broadcast}/${session}/v-720p30/1.m4s`);
  assert.match(await segment.text(), /^v-720p30 1\.0;.*v-720p30 1\.5;$/);
  const summary = await (await get("/api/streams/demo", viewer)).json();
  assert.equal(summary.live, true);
});

test("nobody else gets a session, on either protocol", async () => {
  const good = token();
  const [, body, signature] = good.split(".");
  const revoked = token({ jti: "taken back" });
  const taken = await call("POST", "/api/revocations", manager, { what: { token: { iss: "live", jti: "taken back" } }, streams: "demo" });
  assert.equal(taken.status, 200, await taken.text());
  const teams = (more) => token({ iss: TEAM, ...more }, { ...team, kid: "team-1" });
  for (const [what, viewer, expected] of [
    ["garbage", "a.b.c", 401],
    ["too long", "x".repeat(1_100), 401],
    ["cut", good.slice(0, -1), 401],
    ["alg none", `${encode({ alg: "none", kid: owner.kid })}.${body}.`, 401],
    ["another header", `${encode({ alg: "EdDSA", kid: stranger.kid })}.${body}.${signature}`, 401],
    ["expired", token({ exp: now - 1 }), 401],
    ["its sessions over", token({ sess_exp: now - 1 }), 401],
    ["not yet", token({ nbf: now + 600 }), 401],
    ["other stream", token({ stream: "other" }), 403],
    ["other action", token({ act: ["publish", "chat"] }), 403],
    ["wrong address", token({ ip: ["192.0.2.0/24"] }), 403],
    ["another installation", token({ aud: "elsewhere" }), 401],
    ["other tenant's issuer", teams({ stream: "team-*" }), 403],
    ["wider than its tenant", teams({ stream: "*" }), 403],
    ["by a key that nobody knows", token({}, stranger), 401],
    ["by a key that retired", token({}, retired), 401],
    ["revoked", revoked, 403],
  ]) {
    for (const file of ["index.m3u8", "manifest.mpd"]) {
      const [response, text] = await answered(get(`/live/demo/${file}?token=${viewer}`));
      assertProblem(response, text, expected, what);
      assert.equal(await status(`/live/demo/${file}`, viewer), expected, `${what} ${file}`);
    }
    // To whoever has a token for others it is not there.
    const told = ["other stream", "other tenant's issuer"].includes(what) ? 404 : expected;
    assert.equal(await status("/api/streams/demo", viewer), told, what);
  }
  for (const path of ["/live/demo/index.m3u8", "/live/demo/manifest.mpd", "/api/streams/demo"]) assert.equal(await status(path), 401, path);

  const { session, playlist, segment } = await enter(good);
  assert.equal(await status(playlist()), 200);
  const other = `${session.startsWith("A") ? "B" : "A"}${session.slice(1)}`;
  for (const forged of ["-", other, session.slice(1)]) {
    assert.equal(await status(playlist().replace(session, forged)), 401, forged);
    assert.equal(await status(segment(1).replace(session, forged)), 401, forged);
    assert.equal(await status(`/live/demo/manifest.mpd?session=${forged}`), 401, forged);
  }
});

test("a revoked viewer gets no new part of whatever he waits for", async () => {
  let msn = 3;
  for (const what of [{ token: { iss: "live", jti: "a viewer's" } }, { subject: { iss: "live", sub: "a viewer" } }, "session", "all"]) {
    const live = await closed(`watched-${msn++}`);
    const stream = live.stream;
    const own = token({ act: "manage", stream });
    const viewer = token({ jti: "a viewer's", sub: "a viewer", stream });
    const [his, others] = [await enter(viewer, stream), await enter(token({ sub: "bystander", stream }), stream)];
    assert.equal(await status(`/live/${stream}/index.m3u8`, token({ iat: now + 300, stream })), 401, "one from the future is not yet good");
    for (const { name } of live.tracks) await live.part(name, 3, 0);
    await until("the part is there", async () => (await (await get(others.playlist())).text()).includes("/3.1."));
    const waits = status(his.playlist("?_HLS_msn=3&_HLS_part=1"));
    const stays = status(others.playlist("?_HLS_msn=3&_HLS_part=1"));
    const growing = await pieces(edge, his.segment(3));
    assert.equal((await growing.next()).value, "v-720p30 3.0;");

    if (what === "session") {
      const { sessions } = await (await get(`/api/streams/${stream}/sessions`, own)).json();
      const [one] = sessions.filter(({ subject }) => subject === "a viewer");
      assert.equal(one.protocol, "hls");
      const ended = await call("DELETE", `/api/streams/${stream}/sessions/${one.id}`, own);
      assert.equal(ended.status, 204);
    } else {
      const taken = await call("POST", "/api/revocations", own, { what, streams: stream });
      assert.equal(taken.status, 200, await taken.text());
    }
    for (const { name } of live.tracks) await live.part(name, 3, 1);
    assert.equal(await waits, 403, JSON.stringify(what));
    assert.equal(await stays, what === "all" ? 403 : 200, JSON.stringify(what));
    // Cut off: here the way from the Worker to the socket ends the body where the Worker breaks it.
    assert.equal((await growing.next().catch(() => ({}))).value, undefined, JSON.stringify(what));
    // Neither what is new nor what lies in a cache already.
    for (const path of [his.playlist(), his.segment(1), `/live/${stream}/manifest.mpd?session=${his.session}`]) assert.equal(await status(path), 403, path);
    assert.equal(await status(`/live/${stream}/index.m3u8`, viewer), what === "session" ? 200 : 403);
    await live.hangUp();
  }
});

test("a session ends with sess_exp, in mid-play", async () => {
  const viewer = await enter(token({ sess_exp: Math.floor(Date.now() / 1000) + 3 }));
  assert.equal(await status(viewer.playlist()), 200);
  await until("it ends", async () => (await status(viewer.playlist())) === 401, 8000);
  assert.equal(await status(viewer.segment(1)), 401);
});

test("a token for two devices plays on two, until one leaves", async () => {
  const viewer = token({ max: 2, sub: "two" });
  const [one, two] = [await enter(viewer), await enter(viewer)];
  const [response, text] = await answered(get(`/live/demo/index.m3u8?token=${viewer}`));
  const problem = assertProblem(response, text, 403);
  assert.match(problem.type, /in-use$/);
  assert.match(problem.detail, /2 devices/);
  assert.equal(await status(`/live/demo/manifest.mpd?token=${viewer}`), 403, "one count for both protocols");
  const left = await call("POST", "/api/streams/demo/beacon", "", { viewer: "a page of mine", left: true, session: two.session });
  assert.equal(left.status, 204);
  const three = await enter(viewer);
  assert.equal(await status(two.playlist()), 403, "its place is taken");
  for (const viewer of [one, three]) assert.equal(await status(viewer.playlist()), 200);
});

test("a token for one device plays one of its streams at a time", async () => {
  const both = token({ stream: "device-*", max: 1, sub: "one device" });
  const streams = [await closed("device-a"), await closed("device-b")];
  const first = await enter(both, "device-a");
  const [response, text] = await answered(get(`/live/device-b/index.m3u8?token=${both}`));
  assert.match(assertProblem(response, text, 403).type, /in-use$/);
  const left = await call("POST", "/api/streams/device-a/beacon", "", { viewer: "a page of mine", left: true, session: first.session });
  assert.equal(left.status, 204);
  const second = await enter(both, "device-b");
  assert.equal(await status(first.playlist()), 403, "its place is taken");
  assert.equal(await status(second.playlist()), 200);
  for (const live of streams) await live.hangUp();
});

test("an owner makes, shows and takes back watch links, by the studio link or a token", async () => {
  for (const bearer of [core.entry.studio_secret, manager]) {
    const made = await (await call("POST", "/api/streams/demo/links", bearer, { name: "Anna's phone", for_s: 3600, max: 1 })).json();
    const viewer = await enter(made.token);
    const { links } = await (await get("/api/streams/demo/links", bearer)).json();
    assert.deepEqual(links, [made]);
    const at = `/api/streams/demo/links/${made.jti}`;
    assert.equal((await call("DELETE", at, bearer)).status, 204);
    assert.equal(await status(viewer.playlist()), 403);
    assert.equal(await status("/live/demo/index.m3u8", made.token), 403);
    assert.equal((await call("DELETE", at, bearer)).status, 404);
  }
});

test("the studio link plays its own stream, and what it began is over when it is logged out", async () => {
  const live = await closed("studio");
  const old = live.entry.studio_secret;
  const at = async (secret) => {
    const [response, text] = await answered(get("/live/studio/index.m3u8", secret));
    assert.equal(response.status, 200, text);
    return `/live/studio/${text.split("\n").find((line) => line !== "" && !line.startsWith("#"))}`;
  };
  const [playlist, viewer] = [await at(old), await enter(token({ stream: "studio" }), "studio")];
  assert.equal(await status(playlist), 200);
  const { secret } = await (await call("POST", "/api/studio/studio/log-out", old)).json();
  assert.notEqual(secret, old);
  assert.equal(await status("/live/studio/index.m3u8", old), 401);
  assert.equal(await status(playlist), 403);
  assert.equal(await status(viewer.playlist()), 200, "viewers go on");
  assert.equal(await status(await at(secret)), 200);
  await live.hangUp();
});

test("a stream for so many viewers has no more, and none without a session", async () => {
  // One looks whether it can be watched.
  const live = await closed("small");
  const settings = await internal(edge.url, SECRET, "PUT", "/internal/streams/small/settings", JSON.stringify({ visibility: "public", limits: { max_viewers: 3 } }));
  assert.equal(settings.status, 204, await settings.text());
  const enters = async () => answered(get("/live/small/index.m3u8"));
  await until("it is open to all", async () => (await enters())[0].status === 200);
  const [last, text] = await enters();
  assert.equal(last.status, 200, text);
  const two = `/live/small/${text.split("\n").find((line) => line !== "" && !line.startsWith("#"))}`;
  const session = two.split("/")[4];
  const [more, why] = await enters();
  assertProblem(more, why, 503);
  assert.equal(await status(two), 200);
  assert.equal(await status(two.replace(session, "-")), 401);
  const left = await call("POST", "/api/streams/small/beacon", "", { viewer: "a page of mine", left: true, session });
  assert.equal(left.status, 204);
  assert.equal((await enters())[0].status, 200);
  await live.hangUp();
});

test("nobody sees, ends or links what is another's", async () => {
  const theirs = token({ iss: TEAM, stream: "team-*", act: "manage" }, { ...team, kid: "team-1" });
  const viewer = await enter(token());
  const id = randomBytes(12).toString("base64url");
  for (const [bearer, expected] of [["nobody", 401], [token(), 403], [theirs, 403]]) {
    for (const [method, path, body] of [
      ["GET", "/api/streams/demo/sessions"],
      ["DELETE", `/api/streams/demo/sessions/${id}`],
      ["GET", "/api/streams/demo/links"],
      ["POST", "/api/streams/demo/links", { name: "x", for_s: 60 }],
      ["DELETE", `/api/streams/demo/links/${id}`],
      ["POST", "/api/revocations", { what: "all", streams: "demo" }],
      ["POST", "/api/revocations", { what: "all", streams: "*" }],
    ]) {
      const answer = await call(method, path, bearer, body);
      assert.equal(answer.status, expected, `${method} ${path} ${await answer.text()}`);
    }
  }
  const taken = await call("POST", "/api/revocations", theirs, { what: { subject: { iss: "live", sub: "anna" } }, streams: "team-*" });
  assert.equal(taken.status, 200);
  assert.equal(await status(viewer.playlist()), 200);
});

const asks = (key) => internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream: null, peer: "192.0.2.1:5000" }));

const publishes = (stream, key) => publishing(edge, stream, key);

test("a stream key that is replaced takes its broadcast with it within two seconds, unless it is good for a while yet", async () => {
  const { key } = await newStream(edge, "demo3");
  const owner = token({ act: "manage", stream: "demo3" });
  const first = await publishes("demo3", key);
  const began = performance.now();
  const replaced = await call("POST", "/api/streams/demo3/keys", owner);
  assert.equal(replaced.status, 200);
  const { reason } = await first.until(({ type }) => type === "refused", 2000);
  assert.match(reason, /revoked/);
  assert.ok(performance.now() - began < 2000);
  assert.equal((await asks(key)).status, 403);
  const { key: second } = await replaced.json();
  const live = await publishes("demo3", second);
  const overlapped = await call("POST", "/api/streams/demo3/keys", owner, { overlap_s: 60 });
  assert.equal(overlapped.status, 200);
  live.received.length = 0;
  live.heartbeat();
  await live.until(({ type }) => type === "ack");
  assert.equal(await status("/api/streams/demo3", owner), 200);
  assert.ok(!live.received.some(({ type }) => type === "refused"));
});

test("a publisher whose token is revoked loses its link and its broadcast within two seconds", async () => {
  const key = token({ act: "publish", stream: "demo2" });
  await newStream(edge, "demo2");
  const ask = () => asks(key);
  const live = await publishes("demo2", key);
  const began = performance.now();
  const what = { token: { iss: "live", jti: JSON.parse(Buffer.from(key.split(".")[1], "base64url")).jti } };
  const taken = await call("POST", "/api/revocations", token({ act: "manage", stream: "*", sub: "administrator" }), { what, streams: "*" });
  assert.equal(taken.status, 200, await taken.text());
  const { reason } = await live.until(({ type }) => type === "refused", 2000);
  assert.match(reason, /revoked/);
  assert.ok(performance.now() - began < 2000);
  const again = await ask();
  assert.equal(again.status, 403);
  assert.match(await again.text(), /revoked/);
});

// Events at the Worker: a real server that takes them, refuses them and hangs, and a workerd that is killed in between.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { newState, startEdge } from "./edge.js";
import { assertProblem, live as goLive, playlistOf, SECRET, timed, until } from "./viewer.js";
import { keyOf, signed } from "./tokens.js";

const HOOK_SECRET = "what only the webhook's server knows";
const OWN = keyOf(randomBytes(32));
const DEAD = "/api/webhooks/dead";

/** What came, by the webhook that it came for, and what each does with it. */
const sent = { taker: [], failing: [], hung: [], later: [], trap: [] };
const taken = (response) => response.writeHead(204).end();
const refused = (response) => response.writeHead(503).end();
const behave = { taker: taken, failing: refused, hung: () => {}, later: () => {}, trap: taken };

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const name = request.url.slice(1);
  const stamp = request.headers["x-ghost-live-timestamp"];
  const genuine = `sha256=${createHmac("sha256", HOOK_SECRET).update(`${stamp}.`).update(body).digest("hex")}`;
  const event = JSON.parse(body);
  sent[name].push({ at: Date.now(), stamp, genuine: genuine === request.headers["x-ghost-live-signature"], id: request.headers["x-ghost-live-id"], event });
  behave[name](response);
});

let state;
let edge;
let vars;
const start = (port) => startEdge({ state, vars, port });

before(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const origin = `http://127.0.0.1:${server.address().port}`;
  const hook = (name, streams, more = {}) => ({ name, url: `${origin}/${name}`, on: ["events"], streams, allow_networks: ["127.0.0.0/8"], ...more });
  const hooks = [
    hook("hung", "show"),
    hook("taker", "show"),
    hook("failing", "lost*", { attempts: 3, retry_ms: 100 }),
    hook("later", "late", { attempts: 20, retry_ms: 2_000 }),
    // A name of a private network, though it leads here.
    { ...hook("trap", "lost*", { attempts: 1 }), url: `http://localhost:${server.address().port}/trap`, allow_networks: [] },
  ];
  vars = {
    LINK_SECRET: SECRET,
    WEBHOOKS: JSON.stringify(hooks),
    WEBHOOK_SECRETS: JSON.stringify(Object.fromEntries(hooks.map(({ name }) => [name, HOOK_SECRET]))),
    TOKEN_KEYS: JSON.stringify({ keys: [{ seed: OWN.seed, since_unix_ms: Date.now() }] }),
  };
  state = await newState();
  edge = await start();
});

after(async () => {
  await edge?.stop();
  await state?.remove();
  server.closeAllConnections();
  server.close();
});

const live = (stream) => goLive(edge, stream);
const types = (name) => sent[name].map(({ event }) => event.type);
const arrived = (name, count, timeoutMs = 30_000) => until(`${count} for ${name}: ${types(name)}`, () => sent[name].length >= count, timeoutMs);

async function watch(stream, viewers) {
  for (let viewer = 0; viewer < viewers; viewer++) {
    const body = JSON.stringify({ viewer: `viewer-${viewer}-of-${stream}` });
    assert.equal((await fetch(`${edge.url}/api/streams/${stream}/beacon`, { method: "POST", body })).status, 204);
  }
}

function token(stream, act) {
  const now = Math.floor(Date.now() / 1000);
  return signed({ iss: "ghost-live", aud: "ghost-live", sub: "somebody", stream, act, iat: now, exp: now + 600 }, OWN);
}

const ask = (method, path, bearer, body) =>
  fetch(edge.url + path, { method, headers: bearer ? { authorization: `Bearer ${bearer}` } : {}, body: body && JSON.stringify(body) });

async function deadLetters() {
  const answer = await ask("GET", DEAD, token("*", "manage"));
  assert.equal(answer.status, 200, await answer.clone().text());
  assert.equal(answer.headers.get("cache-control"), "no-store");
  const { dead, more } = await answer.json();
  assert.equal(more, false);
  return dead;
}

test("what happens is told once and signed, the peak is of the whole broadcast, and one that hangs holds nobody up", { timeout: 120_000 }, async () => {
  const core = await live("show");
  await Promise.all([arrived("taker", 1), arrived("hung", 1)]);
  // The other webhook of this stream has its first event for ten seconds.
  assert.ok(sent.taker[0].at - sent.hung[0].at < 5_000, `${sent.taker[0].at - sent.hung[0].at} ms`);
  await watch("show", 2);
  const { value, ms } = await timed(fetch(edge.url + playlistOf(core, "v-720p30")));
  assert.ok(value.status === 200 && ms < 2_000, `${value.status} after ${ms} ms`);

  await arrived("taker", 2);
  assert.deepEqual(types("taker"), ["broadcast.live", "viewers.peak"]);
  assert.equal(sent.taker[1].event.viewers, 2);
  // Everything that is not stored is gone, and of the viewers one comes back.
  const { port } = edge;
  await edge.kill();
  edge = await start(port);
  await core.dial();
  await watch("show", 1);
  core.closed();
  await arrived("taker", 3);
  const { event } = sent.taker.at(-1);
  assert.deepEqual({ ...event, time_unix_ms: 0, ended_unix_ms: 0, since_unix_ms: 0 }, {
    id: `${core.broadcast}.ended`, time_unix_ms: 0, type: "broadcast.ended", stream: "show", broadcast: core.broadcast, since_unix_ms: 0,
    reason: "unpublished", ended_unix_ms: 0, peak_viewers: 2,
  });
  assert.ok(event.ended_unix_ms > event.since_unix_ms && Math.abs(event.time_unix_ms - event.ended_unix_ms) < 30_000, JSON.stringify(event));
  assert.deepEqual(types("taker"), ["broadcast.live", "viewers.peak", "broadcast.ended"], "each once, over a restart");
  assert.ok(sent.taker.every(({ genuine, id, event }) => genuine && id === event.id));
  assert.ok(sent.taker.every(({ at, stamp }) => Math.abs(at / 1000 - Number(stamp)) < 60));
});

test("what is refused is sent again, ends in the dead letters, and arrives when an administrator resends it", { timeout: 120_000 }, async () => {
  const core = await live("lost");
  const id = `${core.broadcast}.live`;
  const dead = await until("a dead letter", async () => {
    const list = await deadLetters();
    return list.length === 2 && list;
  }, 20_000);
  const letters = Object.fromEntries(dead.map(({ webhook, ...letter }) => [webhook, letter]));
  const { created } = letters.failing;
  assert.ok(Math.abs(Date.parse(created) - Date.now()) < 60_000, created);
  assert.deepEqual(letters.failing, { id, stream: "lost", created, attempts: 3, error: "it answered with status 503, and only 2xx takes an event" });
  assert.match(letters.trap.error, /^localhost is a private name/);
  assert.equal(sent.trap.length, 0);
  assert.equal(sent.failing.length, 3);
  assert.ok(sent.failing.every((one) => one.genuine && one.id === id));
  const [first, second, third] = sent.failing.map(({ at }) => at);
  assert.ok(second - first >= 50 && third - second >= 200, `${second - first} and ${third - second} ms`);

  const resend = `${DEAD}/${id}/resend`;
  for (const [bearer, status] of [[undefined, 401], [token("lost", "manage"), 403], [token("lost*", "manage"), 403], [token("*", "watch"), 403], ["x.y.z", 401]]) {
    for (const [method, path] of [["GET", DEAD], ["POST", resend], ["POST", `${DEAD}/resend`]]) {
      const answer = await ask(method, path, bearer);
      assertProblem(answer, await answer.text(), status);
    }
  }
  const admin = token("*", "manage");
  for (const [path, body, status] of [
    [`${DEAD}/${core.broadcast}.ended/resend`, undefined, 404],
    [`${DEAD}/nothing/resend`, undefined, 404],
    [resend, { webhook: "taker" }, 404],
    [resend, { hook: "failing" }, 400],
  ]) {
    const answer = await ask("POST", path, admin, body);
    assertProblem(answer, await answer.text(), status);
  }
  assert.equal(sent.failing.length, 3, "nothing was resent");
  behave.failing = taken;
  const resent = await ask("POST", resend, admin, { webhook: "failing" });
  assert.deepEqual([resent.status, await resent.json()], [200, { resent: 1 }]);
  await arrived("failing", 4, 10_000);
  assert.deepEqual((await deadLetters()).map(({ webhook }) => webhook), ["trap"]);
  const none = await ask("POST", resend, admin, { webhook: "failing" });
  assertProblem(none, await none.text(), 404);
  const all = await ask("POST", `${DEAD}/resend`, admin);
  assert.deepEqual([all.status, await all.json()], [200, { resent: 1 }]);
  core.closed();
  await arrived("failing", 5, 20_000);
  assert.equal(sent.failing.at(-1).event.type, "broadcast.ended");
});

test("what is being sent, and what waits to be sent again, outlives the process, and needs nobody to come", { timeout: 180_000 }, async () => {
  const core = await live("late");
  await arrived("later", 1, 10_000);
  const { port } = edge;
  // Killed while the server has it, and after the server refused it.
  for (const next of [refused, taken]) {
    await edge.kill();
    const before = sent.later.length;
    behave.later = next;
    edge = await start(port);
    await arrived("later", before + 1, 60_000);
  }
  assert.deepEqual(new Set(sent.later.map(({ id }) => id)), new Set([`${core.broadcast}.live`]));
  assert.deepEqual((await deadLetters()).filter(({ webhook }) => webhook === "later"), []);
});

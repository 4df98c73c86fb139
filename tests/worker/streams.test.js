// Streams at the Worker: their settings, what a box's configuration says of them, and two tenants with an administrator over both.
import assert from "node:assert/strict";
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign } from "node:crypto";
import { after, before, test } from "node:test";
import { Core, internal } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { live, newStream, SECRET, until } from "./viewer.js";

const seed = randomBytes(32);
const key = createPrivateKey({ key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]), format: "der", type: "pkcs8" });
const { x } = createPublicKey(key).export({ format: "jwk" });
const kid = createHash("sha256").update(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`).digest("base64url").slice(0, 8);
const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function token(stream, act) {
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: "live", aud: "live", sub: "somebody", stream, act, iat: now, exp: now + 3600, jti: randomBytes(8).toString("hex") };
  const message = `${encode({ alg: "EdDSA", kid })}.${encode(claims)}`;
  return `${message}.${sign(null, Buffer.from(message), key).toString("base64url")}`;
}

let state;
let edge;
const start = () =>
  startEdge({
    state,
    vars: { LINK_SECRET: SECRET, TENANTS: JSON.stringify([{ prefix: "few-", max_broadcasts: 1, max_fps: 30, max_duration_s: 60 }, { prefix: "three-", max_streams: 3 }]), INSTALLATION: "live", TOKEN_KEYS: JSON.stringify({ keys: [{ seed: seed.toString("base64url"), since_unix_ms: Date.now() }] }) },
  });

before(async () => {
  state = await newState();
  edge = await start();
});

after(async () => {
  await edge?.stop();
  await state?.remove();
});

const caller = (bearer) => {
  const ask = (method, path, body) =>
    fetch(`${edge.url}${path}`, {
      method,
      headers: bearer === undefined ? {} : { authorization: `Bearer ${bearer}` },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  return {
    ask,
    create: (body) => ask("POST", "/api/streams", body),
    get: (name) => ask("GET", `/api/streams/${name}`),
    change: (name, body) => ask("PATCH", `/api/streams/${name}`, body),
    delete: (name) => ask("DELETE", `/api/streams/${name}`),
    newKey: (name, body) => ask("POST", `/api/streams/${name}/keys`, body),
    list: async () => (await (await ask("GET", "/api/streams")).json()).streams.map(({ name }) => name),
  };
};
const nobody = caller();
const manager = (stream) => caller(token(stream, "manage"));
const admits = async (key) => (await internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream: null, peer: "192.0.2.1:1" }))).status === 200;
const assertProblem = async (response, status, type) => {
  const text = await response.text();
  assert.equal(response.status, status, text);
  assert.equal(JSON.parse(text).type, `urn:ghost-live:problem:${type}`);
};
const said = async (response) => [response.status, await response.text()];

test("a stream is made, changed and deleted by who manages it, and stays over a restart", async () => {
  const acme = manager("acme-*");
  const body = { name: "acme-one", visibility: "unlisted", title: "One", limits: { max_fps: 30, max_viewers: 2 } };
  const answer = await acme.create(body);
  assert.equal(answer.status, 201, await answer.clone().text());
  const made = await answer.json();
  assert.ok(await admits(made.key));
  const studio = await fetch(`${edge.url}/api/studio/acme-one`, { headers: { authorization: `Bearer ${made.studio_secret}` } });
  assert.equal((await studio.json()).key, made.key);
  await assertProblem(await acme.create(body), 409, "stream-exists");

  const changed = await (await acme.change("acme-one", { visibility: "token", title: null, limits: { max_fps: null, max_height: 720 } })).json();
  assert.deepEqual(changed.limits, { max_viewers: 2, max_height: 720 });
  assert.deepEqual([changed.visibility, changed.title], ["token", undefined]);
  for (const bad of [{ visibility: "secret" }, { limits: { max_fps: 0 } }, { name: "acme-two" }, []]) {
    await assertProblem(await acme.change("acme-one", bad), 400, "bad-body");
  }
  await edge.stop();
  edge = await start();
  assert.deepEqual(await (await acme.get("acme-one")).json(), changed);
  assert.ok(await admits(made.key));
  await assertProblem(await nobody.get("acme-one"), 401, "token-needed");

  assert.equal((await acme.delete("acme-one")).status, 204);
  assert.equal((await acme.delete("acme-one")).status, 404);
  assert.ok(!(await admits(made.key)));
  assert.equal((await acme.create({ name: "acme-one" })).status, 201);
  const again = await (await acme.get("acme-one")).json();
  assert.deepEqual([again.visibility, again.limits], ["public", {}]);
  assert.equal((await acme.delete("acme-one")).status, 204);
});

test("of two tenants neither sees, names, ends or changes the other's streams", async () => {
  const [acme, blue] = [manager("acme-*"), manager("blue-*")];
  for (const [who, name, visibility] of [
    [acme, "acme-open", "public"],
    [acme, "acme-closed", "token"],
    [acme, "acme-hidden", "unlisted"],
    [blue, "blue-closed", "token"],
  ]) {
    assert.equal((await who.create({ name, visibility })).status, 201);
  }
  const refused = await said(await blue.create({ name: "acme-open" }));
  assert.equal(refused[0], 403);
  assert.deepEqual(refused, await said(await blue.create({ name: "acme-new" })));
  for (const name of ["acme-open", "acme-closed", "acme-hidden"]) {
    for (const act of [(name) => blue.change(name, { title: "x" }), (name) => blue.delete(name), (name) => blue.newKey(name)]) {
      const [there, absent] = [await said(await act(name)), await said(await act("acme-nobody"))];
      assert.deepEqual(there, absent);
      assert.equal(there[0], 404);
    }
  }
  const ours = (names) => names.filter((name) => /^(acme|blue)-/.test(name));
  assert.deepEqual(ours(await blue.list()), ["acme-open", "blue-closed"]);
  assert.deepEqual(ours(await acme.list()), ["acme-closed", "acme-hidden", "acme-open"]);
  assert.deepEqual(ours(await manager("*").list()), ["acme-closed", "acme-hidden", "acme-open", "blue-closed"]);
  const watcher = caller(token("acme-*", "watch"));
  assert.deepEqual(ours(await watcher.list()), ["acme-closed", "acme-open"]);
  assert.deepEqual(ours(await nobody.list()), ["acme-open"]);
  assert.equal((await (await blue.get("acme-open")).json()).limits, undefined);
  for (const who of [blue, caller(token("blue-*", "watch"))]) {
    const closed = await said(await who.get("acme-closed"));
    assert.equal(closed[0], 404, closed[1]);
    assert.deepEqual(closed, await said(await who.get("acme-nobody")));
  }
  // A token that is no good is told so first, and counted, whether the stream is there or not.
  for (const name of ["acme-open", "acme-closed", "acme-nobody"]) assert.equal((await caller("a.b.c").get(name)).status, 401, name);
  for (const [who, status] of [
    [watcher, 403],
    [nobody, 401],
    [caller("a.b.c"), 401],
  ]) {
    assert.equal((await who.create({ name: "acme-x" })).status, status);
    assert.equal((await who.change("acme-open", {})).status, status);
    assert.equal((await who.delete("acme-open")).status, status);
    assert.equal((await who.newKey("acme-open")).status, status);
  }
});

test("a new key can leave the one before it for a while", async () => {
  const acme = manager("acme-*");
  const first = await (await acme.create({ name: "acme-keys" })).json();
  const second = await (await acme.newKey("acme-keys", { overlap_s: 3600 })).json();
  assert.ok(second.old_key_until);
  assert.ok((await admits(first.key)) && (await admits(second.key)));
  const last = await (await acme.newKey("acme-keys")).json();
  assert.equal(last.old_key_until, null);
  assert.ok(!(await admits(first.key)) && !(await admits(second.key)) && (await admits(last.key)));
});

test("a tenant makes as many streams as it may, and of those made at once no more", async () => {
  const three = manager("three-*");
  const made = await Promise.all(Array.from({ length: 9 }, async (_, n) => said(await three.create({ name: `three-${n}`, title: "One of three", limits: { max_fps: 30 } }))));
  const statuses = made.map(([status]) => status).sort();
  assert.deepEqual(statuses, [201, 201, 201, 409, 409, 409, 409, 409, 409], JSON.stringify(made));
  for (const [status, text] of made) if (status === 409) assert.equal(JSON.parse(text).type, "urn:ghost-live:problem:too-many");
  const mine = (await three.list()).filter((name) => name.startsWith("three-"));
  assert.equal(mine.length, 3);
  const { title, limits } = await (await three.get(mine[0])).json();
  assert.deepEqual([title, limits], ["One of three", { max_fps: 30 }]);
  await assertProblem(await three.create({ name: mine[0], title: "Another" }), 409, "too-many");
  assert.equal((await (await three.get(mine[0])).json()).title, "One of three");
  assert.equal((await three.delete(mine[0])).status, 204);
  assert.equal((await three.create({ name: "three-new" })).status, 201);
  await assertProblem(await three.create({ name: "three-more" }), 409, "too-many");
});

test("a body that comes in pieces, with no length said, is read where none is needed", async () => {
  const acme = manager("acme-*");
  assert.equal((await acme.create({ name: "acme-pieces" })).status, 201);
  const pieces = (path, bearer, text) => {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < text.length; at += 1_000) controller.enqueue(Buffer.from(text.slice(at, at + 1_000)));
        controller.close();
      },
    });
    return fetch(edge.url + path, { method: "POST", headers: { authorization: `Bearer ${bearer}` }, body, duplex: "half" });
  };
  const [keys, bearer] = ["/api/streams/acme-pieces/keys", token("acme-*", "manage")];
  const rotated = await pieces(keys, bearer, JSON.stringify({ overlap_s: 3600 }));
  assert.equal(rotated.status, 200);
  assert.ok((await rotated.json()).old_key_until);
  assert.equal((await (await pieces(keys, bearer, "")).json()).old_key_until, null);
  await assertProblem(await pieces(keys, bearer, "["), 400, "bad-body");
  assert.equal((await pieces(keys, bearer, " ".repeat(17_000))).status, 413);
  await assertProblem(await pieces("/api/webhooks/dead/resend", token("*", "manage"), "["), 400, "bad-body");
});

test("what a box's configuration says is taken over once, and a change since stays", async () => {
  await newStream(edge, "given");
  const configure = async (name, settings) => (await internal(edge.url, SECRET, "PUT", `/internal/streams/${name}/settings`, JSON.stringify(settings))).status;
  const kept = async () => {
    const { visibility, limits } = await (await manager("*").get("given")).json();
    return [visibility, limits];
  };
  const first = { visibility: "unlisted", limits: { max_fps: 30 } };
  assert.equal(await configure("given", first), 204);
  assert.deepEqual(await kept(), ["unlisted", { max_fps: 30 }]);
  await manager("given").change("given", { visibility: "token" });
  assert.equal(await configure("given", first), 204);
  await newStream(edge, "given");
  assert.deepEqual(await kept(), ["token", { max_fps: 30 }]);
  assert.equal(await configure("given", { visibility: "public" }), 204);
  assert.deepEqual(await kept(), ["public", { max_fps: 30 }]);
  assert.equal(await configure("nobody", first), 403);
  assert.equal(await configure("given", { visibility: "secret" }), 400);
});

test("a stream that is deleted ends with its objects", async () => {
  const core = await live(edge, "ending");
  const media = await (await fetch(`${edge.url}/live/ending/${core.broadcast}/-/v-720p30/index.m3u8`)).text();
  const object = media.match(/URI="([^"]*\/media\/[^"]+)"/)[1];
  assert.equal((await fetch(new URL(object, edge.url))).status, 200);
  assert.equal((await manager("ending").delete("ending")).status, 204);
  await until("the box is told", () => core.closed ?? core.refused);
  await until("nothing is played", async () => (await fetch(`${edge.url}/live/ending/index.m3u8`)).status === 404);
  await until("the objects are gone", async () => {
    const listed = await fetch(new URL(`${object}?${randomBytes(4).toString("hex")}`, edge.url));
    return listed.status === 404;
  }, 20_000);
  assert.equal((await nobody.get("ending")).status, 404);
});

test("a tenant has as many broadcasts as it may, and of two that begin at once in one place one does", async () => {
  const entries = {};
  for (const name of ["few-a", "few-b", "many-a"]) entries[name] = await newStream(edge, name);
  const asks = async (name) => {
    const body = JSON.stringify({ key: entries[name].key, stream: null, peer: "192.0.2.1:1" });
    return internal(edge.url, SECRET, "POST", "/internal/admit", body);
  };
  const admitted = await (await asks("few-a")).json();
  assert.deepEqual(admitted.limits, { max_fps: 30, max_duration_s: 60 });
  assert.ok(Math.abs(admitted.ends_unix_ms - Date.now() - 60_000) < 10_000);
  assert.equal((await (await asks("many-a")).json()).limits, undefined);
  const cores = ["few-a", "few-b"].map((stream) => new Core({ edge: edge.url, secret: SECRET, stream }));
  for (const core of cores) {
    await core.open();
    await core.dial();
  }
  for (const core of cores) core.opened();
  const said = await Promise.all(cores.map((core) => core.until((message) => message.type === "refused" || (message.type === "ack" && message.seq >= 1))));
  const refused = said.filter(({ type }) => type === "refused");
  assert.equal(refused.length, 1, JSON.stringify(said));
  assert.match(refused[0].reason, /as many streams are live/);
  const [one, other] = said[0].type === "refused" ? [1, 0] : [0, 1];
  const denied = await asks(cores[other].stream);
  assert.equal(denied.status, 403);
  assert.match((await denied.json()).detail, /as many streams are live/);
  assert.equal((await asks(cores[one].stream)).status, 200);
  assert.equal((await asks("many-a")).status, 200);
});

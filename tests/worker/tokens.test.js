// Tokens at the Worker. They are made here with Node.js's own crypto, so that what is checked is the form and not one library's habits.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { internal } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { encode, keyOf, signed } from "./tokens.js";
import { assertProblem, newStream, publishing, SECRET } from "./viewer.js";

const [owner, old, retired, team, stranger] = Array.from({ length: 5 }, () => keyOf(randomBytes(32)));
const now = Math.floor(Date.now() / 1000);

function token(claims = {}, { by = owner, header = {} } = {}) {
  return signed({ iss: "live", aud: "live", sub: "somebody", stream: "main", act: "publish", iat: now, exp: now + 3600, ...claims }, by, header);
}

let state;
let edge;

before(async () => {
  state = await newState();
  const keys = [
    { seed: owner.seed, since_unix_ms: Date.now() },
    { seed: old.seed, since_unix_ms: 0, retires_unix_ms: Date.now() + 3_600_000 },
    { seed: retired.seed, since_unix_ms: 0, retires_unix_ms: Date.now() - 1 },
  ];
  const issuers = [{ issuer: "https://team.example", public_key: team.x, kid: "team-1", tenant: "team-" }];
  edge = await startEdge({
    state,
    vars: { LINK_SECRET: SECRET, INSTALLATION: "live", TOKEN_KEYS: JSON.stringify({ keys }), TOKEN_ISSUERS: JSON.stringify(issuers) },
  });
  for (const name of ["main", "other", "team-a"]) await newStream(edge, name);
});

after(async () => {
  await edge?.stop();
  await state?.remove();
});

const admit = (key, stream = null, peer = "192.0.2.1:5000") => internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream, peer }));
const teams = (claims) => token({ iss: "https://team.example", ...claims }, { by: { ...team, kid: "team-1" } });
const ask = (bearer, wanted) => fetch(`${edge.url}/api/tokens`, {
  method: "POST",
  headers: bearer === undefined ? {} : { authorization: `Bearer ${bearer}` },
  body: JSON.stringify(wanted),
});

test("a publisher gets in with a good token, of each key that is trusted", async () => {
  for (const [key, stream, expected] of [
    [token(), null, "main"],
    [token(), "main", "main"],
    [token({}, { by: old }), null, "main"],
    [token({ stream: "*", act: ["watch", "publish"] }), "other", "other"],
    [token({ ip: ["192.0.2.0/24", "2001:db8::/32"], sess_exp: now + 600, max: 1, nbf: now }), null, "main"],
    [teams({ stream: "team-*" }), "team-a", "team-a"],
  ]) {
    const answer = await admit(key, stream);
    assert.equal(answer.status, 200, await answer.clone().text());
    assert.equal((await answer.json()).stream, expected);
  }
});

test("with any other it is refused, and told why", async () => {
  const [header, claims, signature] = token().split(".");
  const hs256 = `${encode({ alg: "HS256", kid: owner.kid })}.${claims}`;
  const none = `${encode({ alg: "none", kid: owner.kid })}.${claims}.`;
  for (const [key, why, stream] of [
    ["a.b.c", /not a token/],
    [`${header}.${claims}`, /not a token/],
    [none, /not a token/],
    [`${hs256}.${createHmac("sha256", Buffer.from(owner.x, "base64url")).update(hs256).digest("base64url")}`, /not known here/],
    [token({}, { by: stranger }), /not known here/],
    [token({}, { by: retired }), /not known here/],
    [token({}, { by: { ...stranger, kid: owner.kid } }), /signature is wrong/],
    [`${header}.${encode({ ...JSON.parse(Buffer.from(claims, "base64url")), stream: "*" })}.${signature}`, /signature is wrong/],
    [token({ exp: now - 1 }), /has expired/],
    [token({ sess_exp: now - 1 }), /has expired/],
    [token({ nbf: now + 3600 }), /not valid yet/],
    [token({ aud: "elsewhere" }), /another installation/],
    [token({ stream: "other" }), /another stream/, "main"],
    [token({ stream: "*" }), /another stream/],
    [token({ act: "watch" }), /does not allow to publish/],
    [token({ act: "everything" }), /not a token/],
    [token({ ip: ["198.51.100.0/24"] }), /from this address/],
    [token({ iss: "https://team.example" }), /signature is wrong/],
    [teams({ stream: "main" }), /another stream/],
    [teams({ stream: "*" }), /another stream/, "team-a"],
    [token({}, { header: { crit: ["exp"] } }), /not a token/],
    [token({ sub: "x".repeat(2000) }), /no token has more/],
    [token({ stream: "nobody" }), /there is no stream nobody/],
  ]) {
    const answer = await admit(key, stream ?? null);
    const problem = assertProblem(answer, await answer.text(), 403);
    assert.match(problem.detail, why);
  }
});

test("a manager mints for its streams, and nobody else does", async () => {
  const wanted = { stream: "team-a", act: "publish", sub: "anna", for_s: 60 };
  const answer = await ask(teams({ stream: "team-*", act: "manage" }), wanted);
  assert.equal(answer.status, 200, await answer.clone().text());
  assert.equal(answer.headers.get("cache-control"), "no-store");
  const minted = await answer.json();
  assert.equal((await (await admit(minted.token)).json()).stream, "team-a");
  const { keys } = await (await fetch(`${edge.url}/.well-known/jwks.json`)).json();
  assert.deepEqual(keys.map(({ kid, x }) => [kid, x]).sort(), [owner, old].map(({ kid, x }) => [kid, x]).sort());
  for (const [bearer, body, status] of [
    [undefined, wanted, 401],
    ["nonsense", wanted, 401],
    [token({ act: "manage", stream: "*", exp: now - 1 }), wanted, 401],
    [token({ act: "publish", stream: "*" }), wanted, 403],
    [teams({ stream: "team-*", act: "manage" }), { ...wanted, stream: "main" }, 403],
    [token({ act: "manage", stream: "*" }), { ...wanted, more: 1 }, 400],
    [token({ act: "manage", stream: "*" }), { ...wanted, sub: "x".repeat(300) }, 400],
  ]) {
    const refused = await ask(bearer, body);
    assertProblem(refused, await refused.text(), status);
  }
});

test("a viewer's token, good or not, costs the directory no read", async () => {
  const own = await newState();
  const other = await startEdge({
    state: own,
    vars: { LINK_SECRET: SECRET, INSTALLATION: "live", TOKEN_KEYS: JSON.stringify({ keys: [{ seed: owner.seed, since_unix_ms: Date.now() }] }) },
  });
  const status = async (path, bearer, method = "GET") => {
    const headers = bearer === undefined ? {} : { authorization: `Bearer ${bearer}` };
    return (await fetch(other.url + path, { method, headers })).status;
  };
  try {
    const { studio_secret } = await newStream(other, "main");
    const [viewer, manager] = [token({ act: "watch" }), token({ act: "manage" })];
    assert.equal(await status("/api/streams/main", manager), 200);
    await other.loseDirectory();
    for (const path of ["/api/streams", "/api/streams/main"]) {
      assert.equal(await status(path, viewer), 200, path);
      assert.equal(await status(path), 200, path);
    }
    assert.equal(await status("/live/main/index.m3u8", viewer), 404);
    for (const wrong of ["wrong", "a.b.c", token({}, { by: stranger }), token({ act: "manage", exp: now - 1 })]) {
      for (const [path, method] of [
        ["/api/streams"],
        ["/api/streams/main"],
        ["/live/main/index.m3u8"],
        ["/api/streams", "POST"],
        ["/api/streams/main", "PATCH"],
        ["/api/streams/main", "DELETE"],
        ["/api/streams/main/sessions"],
        ["/api/studio/main"],
        ["/api/tokens", "POST"],
        ["/api/webhooks/dead"],
      ]) {
        assert.equal(await status(path, wrong, method), 401, `${method} ${path}`);
      }
    }
    // Who manages is told what is there, and is not where that cannot be read.
    assert.equal(await status("/api/streams/main", manager), 503);
    assert.equal(await status("/api/studio/main", studio_secret), 503);
  } finally {
    await other.stop();
    await own.remove();
  }
});

test("without keys no token is good, and encoders go on with their stream keys", async () => {
  const bare = await newState();
  const other = await startEdge({ state: bare, vars: { LINK_SECRET: SECRET } });
  try {
    const { key } = await newStream(other, "main");
    const asked = (key) => internal(other.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream: null, peer: "192.0.2.1:5000" }));
    assert.equal((await asked(key)).status, 200);
    assert.equal((await asked(token())).status, 403);
    assert.deepEqual(await (await fetch(`${other.url}/.well-known/jwks.json`)).json(), { keys: [] });
    const refused = await fetch(`${other.url}/api/tokens`, { method: "POST", headers: { authorization: `Bearer ${token({ act: "manage" })}` }, body: "{}" });
    assertProblem(refused, await refused.text(), 404);
  } finally {
    await other.stop();
    await bare.remove();
  }
});

test("without keys what a token began is over, and what a stream key began goes on", async () => {
  const bare = await newState();
  const keys = { INSTALLATION: "live", TOKEN_KEYS: JSON.stringify({ keys: [{ seed: owner.seed, since_unix_ms: Date.now() }] }) };
  let other = await startEdge({ state: bare, vars: { LINK_SECRET: SECRET, ...keys } });
  try {
    await newStream(other, "main");
    const { key } = await newStream(other, "other");
    const cores = [await publishing(other, "main", token()), await publishing(other, "other", key)];
    await other.kill();
    other = await startEdge({ state: bare, port: other.port, vars: { LINK_SECRET: SECRET } });
    for (const core of cores) {
      core.received.length = 0;
      await core.dial();
      core.heartbeat();
    }
    const { reason } = await cores[0].until(({ type }) => type === "refused");
    assert.match(reason, /not known here/);
    await cores[1].wholeSegment(1);
    await cores[1].until(({ type, seq }) => type === "ack" && seq >= cores[1].seq - 1);
    assert.ok(!cores[1].received.some(({ type }) => type === "refused"));
  } finally {
    await other.stop();
    await bare.remove();
  }
});

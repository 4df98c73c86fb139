// Addresses, rates and origins at the Worker. workerd takes `cf-connecting-ip` from whoever asks; the platform writes it itself.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { internal } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { assertProblem, newStream, SECRET } from "./viewer.js";

let state;
let edge;

before(async () => {
  state = await newState();
  const rules = {
    publish: { allow: ["192.0.2.0/24"] },
    watch: { deny: ["203.0.113.0/24"] },
    manage: { allow: ["198.51.100.0/24", "2001:db8::/32"] },
  };
  const rates = { api: { per_s: 1, burst: 3 }, failures: { per_s: 1, burst: 4 } };
  edge = await startEdge({
    state,
    vars: {
      LINK_SECRET: SECRET,
      ADDRESS_RULES: JSON.stringify(rules),
      RATES: JSON.stringify(rates),
      EMBED_ORIGINS: JSON.stringify(["https://a.example", "https://b.example"]),
    },
  });
  await newStream(edge, "main");
});

after(async () => {
  await edge?.stop();
  await state?.remove();
});

async function refused(answer, status, kind) {
  const problem = assertProblem(answer, await answer.text(), status);
  assert.equal(problem.type, `urn:ghost-live:problem:${kind}`);
}

const from = (address, path, { headers, ...init } = {}) =>
  fetch(`${edge.url}${path}`, { ...init, headers: { "cf-connecting-ip": address, ...headers } });

test("each class of addresses has its own list", async () => {
  for (const path of ["/", "/watch/main", "/api/time", "/live/main/index.m3u8"]) {
    await refused(await from("203.0.113.5", path), 403, "address");
  }
  assert.equal((await from("203.0.113.5", "/healthz")).status, 200);
  assert.equal((await from("192.0.2.7", "/watch/main")).status, 200);
  for (const path of ["/studio/main", "/api/studio/main"]) await refused(await from("192.0.2.7", path), 403, "address");
  assert.equal((await from("198.51.100.7", "/studio/main")).status, 200);
  assert.equal((await from("198.51.100.7", "/api/studio/main")).status, 401);
});

test("publishers are let in by the address that the box names", async () => {
  const admit = (peer) => internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key: "main_wrong", stream: null, peer }));
  assert.match((await (await admit("192.0.2.1:5000")).json()).detail, /key is wrong/);
  assert.match((await (await admit("198.51.100.1:5000")).json()).detail, /network address/);
});

test("who asks too often has to wait, by the /64 in IPv6, and the next one is served", async () => {
  const answers = [];
  // One isolate, and a clock that may go on meanwhile.
  for (let n = 0; n < 8; n++) answers.push(await from("2001:db8:1::1", "/api/streams"));
  const late = answers.filter((answer) => answer.status === 429);
  assert.ok(late.length >= 1 && late.length <= 5, answers.map((a) => a.status).join());
  await refused(late[0], 429, "too-often");
  assert.ok(Number(late[0].headers.get("retry-after")) >= 1);
  assert.equal((await from("2001:db8:1:1::1", "/api/streams")).status, 200);
});

test("wrong secrets are answered so often", async () => {
  const statuses = [];
  for (let n = 0; n < 12; n++) {
    const answer = await from("2001:db8:2::1", "/api/studio/main", { headers: { authorization: "Bearer wrong" } });
    statuses.push(answer.status);
  }
  assert.deepEqual(statuses.slice(0, 4), [401, 401, 401, 401]);
  assert.ok(statuses.includes(429), statuses.join());
});

test("listed sites are named, others are not, and what is cached serves both", async () => {
  const file = (await (await from("192.0.2.9", "/watch/main")).text()).match(/(?:src|href)="(\/assets\/[^"]+)"/)[1];
  for (const path of [file, "/live/none/index.m3u8"]) {
    for (const origin of ["https://a.example", "https://b.example", "https://a.example"]) {
      const answer = await from("192.0.2.9", path, { headers: { origin } });
      assert.equal(answer.headers.get("access-control-allow-origin"), origin, path);
      assert.match(answer.headers.get("vary"), /origin/);
    }
    for (const headers of [{ origin: "https://c.example" }, {}]) {
      const answer = await from("192.0.2.9", path, { headers });
      assert.equal(answer.headers.get("access-control-allow-origin"), null, path);
      assert.match(answer.headers.get("vary"), /origin/);
    }
  }
  const policy = async (path) => (await from("192.0.2.9", path)).headers.get("content-security-policy");
  assert.match(await policy("/embed/main"), /frame-ancestors 'self' https:\/\/a\.example https:\/\/b\.example$/);
  assert.match(await policy("/watch/main"), /frame-ancestors 'none'$/);
});

test("every answer has the headers of its class", async () => {
  for (const [path, status] of [
    ["/", 200],
    ["/watch/main", 200],
    ["/embed/main", 200],
    ["/healthz", 200],
    ["/api/time", 200],
    ["/live/main/index.m3u8", 404],
    ["/media/x", 404],
    ["/internal/admit", 405],
  ]) {
    const answer = await from("192.0.2.44", path);
    assert.equal(answer.status, status, path);
    assert.equal(answer.headers.get("x-content-type-options"), "nosniff", path);
    assert.equal(answer.headers.get("referrer-policy"), "no-referrer", path);
    assert.ok(answer.headers.get("cache-control"), path);
    const policy = answer.headers.get("content-security-policy");
    assert.match(policy, /^default-src 'none';/, path);
    assert.doesNotMatch(policy, /script-src[^;]*unsafe|https?:\/\/(?!a\.example|b\.example)/, path);
    const page = ["/", "/watch/main", "/embed/main"].includes(path);
    assert.equal(answer.headers.get("strict-transport-security"), page ? "max-age=31536000" : null, path);
  }
});

// Webhooks at the Worker: a real server that allows, denies, hangs and lies. The signature is checked with Node.js's own crypto.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { internal } from "./core.js";
import { newState, startEdge } from "./edge.js";
import { assertProblem, newStream, SECRET } from "./viewer.js";

const HOOK_SECRET = "what only the webhook's server knows";
const DEADLINE_MS = 400;
const UNANSWERED = /did not answer: try again/;

/** What came, and what is done with the next request. */
const asked = [];
let behave = (response) => says(response, { decision: "allow" });

const says = (response, answer, { status = 200, type = "application/json", headers = {} } = {}) => {
  response.writeHead(status, { "content-type": type, ...headers });
  response.end(typeof answer === "string" ? answer : JSON.stringify(answer));
};

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  asked.push({ url: request.url, headers: request.headers, body: Buffer.concat(chunks) });
  behave(response);
});

let state;
let edge;
const keys = {};

before(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const hook = (name, streams, url, more = {}) => ({ name, url, on: ["publish"], streams, deadline_ms: DEADLINE_MS, ...more });
  const here = `http://127.0.0.1:${server.address().port}/hook`;
  const near = { allow_networks: ["127.0.0.0/8"] };
  const hooks = [
    hook("members", "acme-*", here, near),
    // One for each lie, whose circuit is its own.
    hook("liar", "lie-*", here, { ...near, max_concurrent: 100 }),
    hook("open", "open", here, { ...near, on_failure: "allow" }),
    hook("private-name", "inside", `http://localhost:${server.address().port}/hook`),
  ];
  const secrets = Object.fromEntries(hooks.map(({ name }) => [name, HOOK_SECRET]));
  state = await newState();
  edge = await startEdge({ state, vars: { LINK_SECRET: SECRET, WEBHOOKS: JSON.stringify(hooks), WEBHOOK_SECRETS: JSON.stringify(secrets) } });
  for (const name of ["acme-live", "acme-spare", "lie-a", "free", "open", "inside"]) keys[name] = (await newStream(edge, name)).key;
});

after(async () => {
  await edge?.stop();
  await state?.remove();
  server.closeAllConnections();
  server.close();
});

const admit = (stream, more = {}) => internal(edge.url, SECRET, "POST", "/internal/admit",
  JSON.stringify({ key: keys[stream], stream: null, peer: "192.0.2.1", protocol: "rtmps", ...more }));

async function refused(stream, why) {
  const answer = await admit(stream);
  assert.match(assertProblem(answer, await answer.text(), 403).detail, why);
}

test("a webhook is asked, signed, and its word counts", async () => {
  const answer = await admit("acme-live");
  assert.equal(answer.status, 200, await answer.clone().text());
  const { credential, ...admission } = await answer.json();
  assert.deepEqual(admission, { stream: "acme-live" });
  assert.match(credential.token, /^[\w-]{16}$/);
  const { url, headers, body } = asked.pop();
  assert.equal(url, "/hook");
  const stamp = headers["x-ghost-live-timestamp"];
  assert.ok(Math.abs(Date.now() / 1000 - Number(stamp)) < 60, stamp);
  assert.equal(headers["x-ghost-live-signature"], `sha256=${createHmac("sha256", HOOK_SECRET).update(`${stamp}.`).update(body).digest("hex")}`);
  const { time_unix_ms, ...question } = JSON.parse(body.toString());
  assert.ok(Math.abs(Date.now() - time_unix_ms) < 60_000);
  const id = headers["x-ghost-live-id"];
  assert.deepEqual(question, { id, type: "admission", action: "publish", stream: "acme-live", protocol: "rtmps", address: "192.0.2.1", token: null });

  behave = (response) => says(response, { decision: "deny", reason: "the hall is closed" });
  await refused("acme-live", /^the hall is closed$/);
  behave = (response) => says(response, { decision: "allow", stream: "acme-spare", lifetime_s: 60 });
  const elsewhere = await (await admit("acme-live")).json();
  assert.equal(elsewhere.stream, "acme-spare");
  // What is taken back of the stream that the key is for reaches it there as well.
  assert.equal(elsewhere.credential.asked, "acme-live");
  assert.ok(Math.abs(elsewhere.ends_unix_ms - Date.now() - 60_000) < 30_000, elsewhere.ends_unix_ms);
  behave = (response) => says(response, { decision: "allow", stream: "acme-nobody" });
  await refused("acme-live", /there is no stream acme-nobody/);
});

test("streams that no webhook covers, wrong keys and probes are none of its business", async () => {
  asked.length = 0;
  assert.equal((await admit("free")).status, 200);
  assert.equal((await admit("acme-live", { probe: true })).status, 200);
  assert.equal((await admit("acme-live", { key: `${keys["acme-live"].slice(0, -2)}aa` })).status, 403);
  assert.equal(asked.length, 0);
});

test("one that hangs or lies lets nobody in within its deadline, and holds nobody else up", async () => {
  const allow = { decision: "allow" };
  // Four in a row at the most, since the fifth opens the circuit: each is followed by one that answers.
  for (const [what, lie] of Object.entries({
    hangs: () => {},
    "an endless body": (response) => {
      response.writeHead(200, { "content-type": "application/json" });
      const more = () => { while (!response.destroyed && response.write(" ".repeat(4096))); };
      response.on("drain", more);
      more();
    },
    "another status": (response) => says(response, allow, { status: 500 }),
    "another type": (response) => says(response, allow, { type: "text/html" }),
    "a redirect to the metadata": (response) => says(response, "", { status: 307, headers: { location: "http://169.254.169.254/latest/" } }),
    "a redirect to itself": (response) => says(response, "", { status: 307, headers: { location: "/trap" } }),
    garbage: (response) => says(response, "{{{{"),
    "huge JSON": (response) => says(response, JSON.stringify(allow) + " ".repeat(1 << 20)),
    "another key": (response) => says(response, { ...allow, strem: "x" }),
    "another's stream": (response) => says(response, { ...allow, stream: "free" }),
    closes: (response) => response.destroy(),
  })) {
    behave = lie;
    const began = Date.now();
    const denied = refused("lie-a", UNANSWERED).then(() => Date.now() - began);
    assert.equal((await admit("free")).status, 200);
    const others = Date.now() - began;
    const took = await denied;
    assert.ok(took < DEADLINE_MS + 3_000, `${what}: ${took} ms`);
    if (what === "hangs") assert.ok(took >= DEADLINE_MS && others < took, `${others} of ${took} ms`);
    assert.equal((await admit("open")).status, 200, `${what}: on_failure = "allow"`);
    behave = (response) => says(response, allow);
    for (const stream of ["lie-a", "open"]) assert.equal((await admit(stream)).status, 200, `${what}: and again`);
  }
  assert.ok(asked.every(({ url }) => url === "/hook"), "nobody followed a redirect");
});

test("a name of a private network is not asked", async () => {
  asked.length = 0;
  await refused("inside", UNANSWERED);
  assert.equal(asked.length, 0);
});

test("one that fails time and again is left alone", async () => {
  behave = (response) => says(response, "", { status: 503 });
  asked.length = 0;
  for (let i = 0; i < 12; i++) await refused("acme-live", UNANSWERED);
  assert.equal(asked.length, 5);
});

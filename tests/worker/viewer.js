// What the tests ask of an edge as viewers do, and the small broadcast that they watch.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { base32, Core, internal } from "./core.js";

export const SECRET = "a link secret for the tests, of more than 32 bytes";

/** An entry of the directory with a new key. */
export function newEntry(name, keyId = name) {
  const key = `${keyId}_${base32(randomBytes(16))}`;
  return { name, key, studio_secret: base32(randomBytes(16)), created_unix_ms: Date.now() };
}

export const putEntry = (edge, name, entry) => internal(edge.url, SECRET, "PUT", `/internal/streams/${name}`, JSON.stringify(entry));

/** Makes a stream with a new key, as `ghost-live` does for a remote edge. */
export async function newStream(edge, name) {
  const entry = newEntry(name);
  assert.equal((await putEntry(edge, name, entry)).status, 204);
  return entry;
}

/** A broadcast of one video and one audio track with one complete segment, that viewers can find. */
export async function live(edge, stream, options = {}) {
  await newStream(edge, stream);
  const core = new Core({ edge: edge.url, secret: SECRET, stream, ...options });
  assert.deepEqual(await core.open(), { resume: null });
  assert.equal((await core.dial()).seq, 0);
  core.opened();
  await core.track("v-720p30");
  await core.track("a-aac-128k");
  await core.wholeSegment(0);
  await core.until((message) => message.type === "ack" && message.seq >= core.seq - 1);
  await found(edge, `/live/${stream}/index.m3u8`);
  return core;
}

/** A broadcast with three complete segments of a new stream that needs a token; `viewer` is one for it. */
export async function closedStream(edge, name, viewer) {
  const entry = await newStream(edge, name);
  const settings = await internal(edge.url, SECRET, "PUT", `/internal/streams/${name}/settings`, JSON.stringify({ visibility: "token" }));
  assert.equal(settings.status, 204, await settings.text());
  const core = new Core({ edge: edge.url, secret: SECRET, stream: name });
  await core.open();
  await core.dial();
  core.opened();
  await core.track("v-720p30");
  await core.track("a-aac-128k");
  for (const msn of [0, 1, 2]) await core.wholeSegment(msn);
  core.entry = entry;
  await until("it can be watched", async () => (await fetch(`${edge.url}/live/${name}/index.m3u8?token=${viewer}`)).status === 200);
  return core;
}

/** A broadcast whose publisher came with that key or token, and says so. */
export async function publishing(edge, stream, key) {
  const admitted = await internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream: null, peer: "192.0.2.1:5000" }));
  const { credential } = await admitted.json();
  const core = new Core({ edge: edge.url, secret: SECRET, stream });
  core.publisher = credential;
  await core.open();
  await core.dial();
  core.opened();
  await core.track("v-720p30");
  await core.wholeSegment(0);
  core.heartbeat();
  await core.until(({ type }) => type === "ack");
  return core;
}

/** Begins a session: what it is called, and where it plays. */
export async function enterStream(edge, stream, viewer, headers = {}) {
  const token = viewer === undefined ? "" : `?token=${viewer}`;
  const [response, text] = await answered(fetch(`${edge.url}/live/${stream}/index.m3u8${token}`, { headers }));
  assert.equal(response.status, 200, text);
  assert.equal(response.headers.get("cache-control"), "no-store");
  assert.equal(response.headers.get("x-ghost-live-revoked"), null);
  const [broadcast, session] = text.split("\n").find((line) => line !== "" && !line.startsWith("#")).split("/");
  const at = `/live/${stream}/${broadcast}/${session}`;
  return { session, at, playlist: (query = "", track = "v-720p30") => `${at}/${track}/index.m3u8${query}`, segment: (msn) => `${at}/v-720p30/${msn}.m4s` };
}

/** A body's pieces, on a connection of its own: workerd closes the one on which it broke a body, and nothing else may have been asked on it by then. */
export async function pieces(edge, path) {
  const response = await new Promise((resolve, reject) => http.get(edge.url + path, { agent: false }, resolve).on("error", reject));
  assert.equal(response.statusCode, 200);
  return response.setEncoding("utf8")[Symbol.asyncIterator]();
}

/** Asks until `check` gives something truthy of what it gave. */
export async function until(what, check, timeoutMs = 20_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > deadline) assert.fail(`${what}: not within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Asks until it is there: a new broadcast is known everywhere within two seconds. */
export async function found(edge, path, timeoutMs = 5000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const response = await fetch(edge.url + path);
    if (response.status === 200 || Date.now() > deadline) {
      assert.equal(response.status, 200, `${path}: ${await response.clone().text()}`);
      return response;
    }
    await response.arrayBuffer();
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

export const playlistOf = (core, track, query = "") => `/live/${core.stream}/${core.broadcast}/-/${track}/index.m3u8${query}`;

export async function timed(promise) {
  const began = performance.now();
  const value = await promise;
  return { value, ms: performance.now() - began };
}

export function assertProblem(response, body, status) {
  assert.equal(response.status, status, body);
  assert.equal(response.headers.get("content-type"), "application/problem+json");
  assert.equal(response.headers.get("cache-control"), "no-store");
  const problem = JSON.parse(body);
  assert.equal(problem.status, status);
  assert.match(problem.type, /^urn:ghost-live:problem:/);
  return problem;
}

export async function answered(promise) {
  const response = await promise;
  return [response, await response.text()];
}

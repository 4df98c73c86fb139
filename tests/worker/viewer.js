// What the tests ask of an edge as viewers do, and the small broadcast that they watch.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
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

/** Asks until `check` gives something truthy of what it gave. */
export async function until(what, check, timeoutMs = 5000) {
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

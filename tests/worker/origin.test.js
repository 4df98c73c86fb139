// Media read from an S3 origin over HTTP (`MEDIA_ORIGIN`) instead of the bound bucket: a real S3 server, behind a door that can be shut.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { freePort } from "../ports.mjs";
import { newState, startEdge } from "./edge.js";
import { answered, assertProblem, live, SECRET, timed, until } from "./viewer.js";

let state;
let edge;
let store;
let door;
let core;

/** s3s-fs over a new folder with one bucket, `media`. */
async function startStore() {
  const folder = await mkdtemp(path.join(tmpdir(), "ghost-live-s3-"));
  await mkdir(path.join(folder, "media"));
  const port = await freePort();
  const child = spawn("s3s-fs", ["--host", "127.0.0.1", "--port", String(port), folder], { stdio: "ignore" });
  const failed = once(child, "error").then(([error]) => {
    throw new Error(`s3s-fs does not run (${error.message}): tests/tools.sh installs it`);
  });
  const url = `http://127.0.0.1:${port}/media`;
  await Promise.race([failed, until("the store answers", () => fetch(url).then(() => true, () => false))]);
  return {
    url,
    async end() {
      child.kill();
      await once(child, "exit");
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Between the Worker and the store: counts what passes, and on demand refuses, fails, or says nothing. */
async function openDoor(store) {
  const asked = [];
  const held = new Set();
  const door = { asked, is: "open" };
  const server = http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers.range ?? ""}`.trim());
    if (door.is === "refusing") return void request.socket.destroy();
    if (door.is === "failing") return void response.writeHead(500).end("<Error/>");
    if (door.is === "silent") return void held.add(response);
    const passed = http.request(new URL(request.url, store.url), { method: request.method, headers: request.headers }, (given) => {
      response.writeHead(given.statusCode, given.headers);
      given.pipe(response);
    });
    passed.on("error", () => request.socket.destroy());
    request.pipe(passed);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  door.url = `http://127.0.0.1:${server.address().port}/media`;
  door.times = (key) => asked.filter((line) => line.includes(key)).length;
  door.end = () => {
    for (const response of held) response.destroy();
    server.closeAllConnections();
    server.close();
  };
  return door;
}

before(async () => {
  [state, store] = await Promise.all([newState(), startStore()]);
  door = await openDoor(store);
  edge = await startEdge({ state, vars: { LINK_SECRET: SECRET, MEDIA_ORIGIN: `${door.url}/` } });
  core = await live(edge, "origin", { origin: store.url });
});

after(async () => {
  await edge?.stop();
  door?.end();
  await store?.end();
  await state?.remove();
});

const get = (key, headers = {}) => fetch(`${edge.url}/media/${key}`, { headers });

test("init, parts and segments are read from the origin, once", async () => {
  const segment = core.sent.find(({ type, track }) => type === "segment" && track === "a-aac-128k").key;
  const part = core.sent.find(({ type, track }) => type === "part" && track === "v-720p30").key;
  for (const [key, kind] of [[core.tracks[0].init, "video/mp4"], [segment, "audio/mp4"], [part, "video/mp4"]]) {
    const response = await get(key);
    assert.equal(response.status, 200);
    assert.equal(await response.text(), String(core.objects.get(key)));
    assert.equal(response.headers.get("content-type"), kind);
    assert.equal(response.headers.get("cache-control"), "public, max-age=31536000, immutable");
    assert.equal(response.headers.get("accept-ranges"), "bytes");
    assert.equal(response.headers.get("etag"), `"${key.split(".").at(-2)}"`, "the origin's own tag is not passed on");
    assert.equal((await get(key, { "if-none-match": response.headers.get("etag") })).status, 304);
    await until("it comes from the cache", async () => {
      const before = door.times(key);
      assert.equal(await (await get(key)).text(), String(core.objects.get(key)));
      return door.times(key) === before;
    });
  }
});

test("ranges are the origin's to answer, and of what is cached the cache's", async () => {
  const key = core.tracks[1].init;
  const body = String(core.objects.get(key));
  for (const [range, status, text, said] of [
    ["bytes=2-4", 206, body.slice(2, 5), `bytes 2-4/${body.length}`],
    ["bytes=-3", 206, body.slice(-3), `bytes ${body.length - 3}-${body.length - 1}/${body.length}`],
    ["bytes=0-1,4-5", 200, body, null],
  ]) {
    const response = await get(key, { range });
    assert.equal(response.status, status, range);
    assert.equal(await response.text(), text, range);
    assert.equal(response.headers.get("content-range"), said, range);
  }
  assertProblem(...(await answered(get(core.tracks[0].init.replace("v-720p30", "a-aac-128k"), { range: "bytes=1000-" }))), 404);
  assert.ok(door.asked.some((line) => line.endsWith("bytes=2-4")), "the origin was asked for the range alone");
  const cached = await until("the whole is cached", async () => {
    await (await get(key)).text();
    const before = door.times(key);
    const response = await get(key, { range: "bytes=5-" });
    return door.times(key) === before && response;
  });
  assert.deepEqual([cached.status, await cached.text()], [206, body.slice(5)]);
  assertProblem(...(await answered(get(key, { range: "bytes=1000-" }))), 416);
});

test("what is not there is 404, which nobody keeps: once it is there, it is read", async () => {
  const key = core.key("v-720p30", "7.TAG.m4s");
  assertProblem(...(await answered(get(key))), 404);
  assertProblem(...(await answered(get(key))), 404);
  assert.equal(door.times(key), 2, "the origin was asked each time");
  await core.store(key, Buffer.from("here now"));
  const response = await get(key);
  assert.deepEqual([response.status, await response.text()], [200, "here now"]);
});

test("a running DASH segment is put together from the origin's parts", async () => {
  for (const { name } of core.tracks) await core.part(name, 1, 0);
  const running = await fetch(`${edge.url}/live/origin/${core.broadcast}/-/v-720p30/1.m4s`);
  assert.equal(running.status, 200);
  const text = running.text();
  for (let part = 1; part < 6; part++) for (const { name } of core.tracks) await core.part(name, 1, part);
  for (const { name } of core.tracks) await core.segment(name, 1);
  assert.equal(await text, [0, 1, 2, 3, 4, 5].map((part) => `v-720p30 1.${part};`).join(""));
});

test("an origin that is down, fails or says nothing is 503, which nobody keeps: once it is back, all is well", async () => {
  const key = core.key("a-aac-128k", "8.TAG.m4s");
  await core.store(key, Buffer.from("kept safe"));
  for (const trouble of ["refusing", "failing", "silent"]) {
    door.is = trouble;
    const { value, ms } = await timed(answered(get(key)));
    const problem = assertProblem(...value, 503);
    assert.ok(value[0].headers.get("retry-after") > 0);
    assert.ok(!JSON.stringify(problem).includes("127.0.0.1"), "no internals");
    assert.ok(ms < 12_000, `${trouble}: answered after ${ms} ms`);
    // What is cached is served whatever the origin does, and playlists need no media.
    assert.equal((await get(core.tracks[1].init)).status, 200, trouble);
    assert.equal((await fetch(`${edge.url}/live/origin/index.m3u8`)).status, 200, trouble);
  }
  door.is = "open";
  const response = await get(key);
  assert.deepEqual([response.status, await response.text()], [200, "kept safe"]);
});

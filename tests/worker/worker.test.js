// The edge Worker in workerd, from outside: what a box and what viewers ask of it.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { base32, Core, internal, proof } from "./core.js";
import { newState, startByWrangler, startEdge, wrangler } from "./edge.js";
import * as viewer from "./viewer.js";

const { SECRET, answered, assertProblem, newEntry, playlistOf, putEntry, timed, until } = viewer;

let state;
let edge;

before(async () => {
  state = await newState();
  edge = await startEdge({ state, vars: { LINK_SECRET: SECRET } });
});

after(async () => {
  await edge?.stop();
  await state?.remove();
});

const newStream = (name) => viewer.newStream(edge, name);
const live = (stream, options) => viewer.live(edge, stream, options);
const found = (path) => viewer.found(edge, path);
const admit = (key, stream) => internal(edge.url, SECRET, "POST", "/internal/admit", JSON.stringify({ key, stream, peer: "192.0.2.1:5000" }));

async function assertRefused(path, status, init) {
  const response = await fetch(edge.url + path, init);
  assertProblem(response, await response.text(), status);
}

describe("a box", () => {
  test("that does not prove the secret is let in nowhere", async () => {
    const key = `demo/${base32(randomBytes(16))}/v-720p30/0.${base32(randomBytes(12))}.m4s`;
    const { header } = proof("another secret", "POST", "/internal/admit");
    const stale = proof(SECRET, "POST", "/internal/admit", Date.now() - 120_000);
    const elsewhere = proof(SECRET, "POST", "/internal/broadcasts");
    for (const authorization of [undefined, "", "Bearer x", header, stale.header, elsewhere.header]) {
      const headers = authorization === undefined ? {} : { authorization };
      await assertRefused("/internal/admit", 401, { method: "POST", body: "{}", headers });
    }
    await assertRefused("/internal/broadcasts", 401, { method: "POST", body: "{}" });
    await assertRefused(`/internal/media/${key}`, 401, { method: "PUT", body: "x" });
    await assertRefused("/internal/streams/demo", 401, { method: "PUT", body: "{}" });
    await assertRefused(`/internal/link/${base32(randomBytes(16))}`, 401);
  });

  test("with a wrong secret gets no link", async () => {
    const core = new Core({ edge: edge.url, secret: "another secret", stream: "nobody" });
    await assert.rejects(core.dial(), /401/);
  });

  test("is told which stream a key is for, and nothing for a wrong one", async () => {
    const { key } = await newStream("keyed");
    await newStream("other");
    const admitted = await admit(key, "keyed");
    assert.equal(admitted.status, 200);
    assert.equal((await admitted.json()).stream, "keyed");
    assert.equal((await admit(key, null)).status, 200);
    for (const [wrong, stream] of [[key, "other"], [key.replace(/.$/, (c) => (c === "a" ? "b" : "a")), null], ["", null], ["nobody_aaaaaaaaaaaaaaaaaaaaaaaaaa", null]]) {
      const refused = await admit(wrong, stream);
      assertProblem(refused, await refused.text(), 403);
    }
  });

  test("whose key could not be told from another stream's is refused as natively, and changes nothing", async () => {
    const holder = await newStream("holder");
    const problem = assertProblem(...(await answered(putEntry(edge, "thief", newEntry("thief", "holder")))), 403);
    assert.equal(problem.detail, "the key id of stream thief belongs to another stream");
    assert.equal((await fetch(`${edge.url}/api/streams/thief`)).status, 404);
    assert.equal((await (await admit(holder.key, null)).json()).stream, "holder");
    // The same for a stream that exists already under another key; its own key it may have again.
    const other = await newStream("rightful");
    assertProblem(...(await answered(putEntry(edge, "rightful", newEntry("rightful", "holder")))), 403);
    assert.equal((await putEntry(edge, "rightful", newEntry("rightful"))).status, 204);
    assert.equal((await admit(other.key, null)).status, 403);
    assertProblem(...(await answered(putEntry(edge, "rightful", newEntry("holder")))), 400);
    assertProblem(...(await answered(putEntry(edge, "rightful", { name: "rightful" }))), 400);
  });

  test("whose clock goes wrong takes the timelines' clock with it, until its broadcast is over", async () => {
    const ahead = async () => (await (await fetch(`${edge.url}/api/time`)).json()).unix_ms - Date.now();
    assert.ok(Math.abs(await ahead()) < 1000, "no box that is off the mark is live");
    const core = await live("skewed", { skewMs: 90_000 });
    core.heartbeat();
    await until("the clock is the box's", async () => Math.abs((await ahead()) - 90_000) < 1000);
    const iso = await (await fetch(`${edge.url}/api/time?iso`)).text();
    assert.ok(Math.abs(Date.parse(iso) - Date.now() - 90_000) < 1000, iso);
    // One that is set again is followed.
    core.skewMs = -20_000;
    core.heartbeat();
    await until("the clock follows the box's", async () => Math.abs((await ahead()) + 20_000) < 1000);
    core.closed();
    await until("the clock is the platform's again", async () => Math.abs(await ahead()) < 1000);
  });

  test("cannot open a broadcast of a stream that does not exist", async () => {
    const core = new Core({ edge: edge.url, secret: SECRET, stream: "nothing-here" });
    await assert.rejects(core.open(), /403/);
  });

  test("that sends nonsense over the link is refused with a sentence", async () => {
    await newStream("nonsense");
    const core = new Core({ edge: edge.url, secret: SECRET, stream: "nonsense" });
    await core.open();
    await core.dial();
    core.send({ type: "closed", reason: "lost" });
    const { reason } = await core.until((message) => message.type === "refused");
    assert.equal(reason, "a broadcast begins with `opened`");
  });

  test("whose stream is opened anew while its link stands is refused", async () => {
    const first = await live("superseded");
    const second = new Core({ edge: edge.url, secret: SECRET, stream: "superseded" });
    assert.deepEqual(await second.open(), { resume: null });
    await second.dial();
    second.opened();
    await first.until((message) => message.type === "refused");
    const ended = await (await fetch(edge.url + playlistOf(first, "v-720p30"))).text();
    assert.match(ended, /#EXT-X-ENDLIST/);
  });

  test("that was restarted goes on with its broadcast", async () => {
    const first = await live("restarted");
    await first.part("v-720p30", 1, 0);
    await first.hangUp();
    const second = new Core({ edge: edge.url, secret: SECRET, stream: "restarted" });
    let answer;
    for (let tries = 0; tries < 20 && !answer?.resume; tries++) answer = await second.open();
    assert.equal(answer.resume.broadcast, first.broadcast);
    assert.equal(answer.resume.next_msn, 2, "segment 1 had begun, so its number is used up");
    assert.equal(answer.resume.tracks.length, 2);
    Object.assign(second, { broadcast: first.broadcast, seq: answer.resume.seq });
    assert.equal((await second.dial()).seq, answer.resume.seq);
    second.opened({ epoch: answer.resume.epoch_unix_ms, firstMsn: 2 });
    await second.track("v-720p30", { msn: 2, init: 1 });
    await second.track("a-aac-128k", { msn: 2, init: 1 });
    await second.wholeSegment(2);
    const text = await (await fetch(edge.url + playlistOf(second, "v-720p30", "?_HLS_msn=2"))).text();
    assert.match(text, /#EXT-X-GAP/);
    assert.match(text, /#EXT-X-DISCONTINUITY\n/);
  });
});

describe("a viewer", () => {
  let core;

  before(async () => {
    core = await live("show");
  });

  test("gets the multivariant playlist, the MPD and the list of streams", async () => {
    const multivariant = await found("/live/show/index.m3u8");
    assert.equal(multivariant.headers.get("content-type"), "application/vnd.apple.mpegurl");
    assert.equal(multivariant.headers.get("access-control-allow-origin"), "*");
    assert.match(multivariant.headers.get("cache-control"), /max-age=0/);
    assert.match(await multivariant.text(), new RegExp(`${core.broadcast}/-/v-720p30/index.m3u8`));
    const mpd = await found("/live/show/manifest.mpd");
    assert.match(await mpd.text(), /<SegmentTimeline/);
    const { streams } = await (await found("/api/streams")).json();
    const show = streams.find(({ name }) => name === "show");
    assert.equal(show.live, true);
    assert.equal(show.tracks.length, 2);
    assert.equal((await (await found("/api/streams/show")).json()).live, true);
  });

  test("waits for a playlist and is woken by the part", async () => {
    const waiting = timed(fetch(edge.url + playlistOf(core, "v-720p30", "?_HLS_msn=1&_HLS_part=0")));
    const other = fetch(edge.url + playlistOf(core, "v-720p30", "?_HLS_msn=1&_HLS_part=1"));
    await new Promise((resolve) => setTimeout(resolve, 400));
    await core.part("v-720p30", 1, 0);
    const { value: response, ms } = await waiting;
    assert.equal(response.status, 200);
    assert.ok(ms > 390, `it was answered after ${ms} ms, before the part came`);
    assert.equal(response.headers.get("cache-control"), "public, max-age=24");
    assert.match(await response.text(), /#EXT-X-PART:[^\n]*INDEPENDENT=YES[^\n]*\n#EXT-X-PRELOAD-HINT/);
    await core.part("a-aac-128k", 1, 0);
    await core.part("v-720p30", 1, 1);
    assert.equal((await other).status, 200);
  });

  test("gets the same body from the cache as from the object", async () => {
    const path = playlistOf(core, "v-720p30", "?_HLS_msn=1&_HLS_part=1");
    const first = await (await fetch(edge.url + path)).text();
    const { value, ms } = await timed(fetch(edge.url + path));
    assert.equal(await value.text(), first);
    assert.ok(ms < 500, `a body that is there took ${ms} ms`);
    await assertRefused(path.replace("/-/", "/somebody/"), 401);
  });

  test("who asks absurdly gets 400 at once", async () => {
    for (const query of ["?_HLS_msn=99", "?_HLS_msn=1&_HLS_part=999", "?_HLS_part=1", "?_HLS_msn=-1", "?_HLS_msn=x", "?_HLS_skip=maybe"]) {
      const { value, ms } = await timed(fetch(edge.url + playlistOf(core, "v-720p30", query)));
      assertProblem(value, await value.text(), 400);
      assert.ok(ms < 1000, `${query} took ${ms} ms`);
    }
  });

  test("who asks for the hinted part waits for it and gets it", async () => {
    const hinted = core.hints.get("v-720p30");
    const waiting = timed(fetch(`${edge.url}/media/${hinted}`));
    await new Promise((resolve) => setTimeout(resolve, 400));
    await core.part("v-720p30", 1, 2);
    const { value, ms } = await waiting;
    assert.equal(value.status, 200);
    assert.ok(ms > 390);
    assert.equal(await value.text(), "v-720p30 1.2;");
    assert.equal(value.headers.get("cache-control"), "public, max-age=31536000, immutable");
    assert.equal(value.headers.get("content-type"), "video/mp4");
    const again = await fetch(`${edge.url}/media/${hinted}`, { headers: { range: "bytes=2-4" } });
    assert.equal(again.status, 206);
    assert.equal(await again.text(), "720");
    assert.match(again.headers.get("content-range"), /^bytes 2-4\/13$/);
    const tag = value.headers.get("etag");
    assert.equal(tag, `"${hinted.split(".").at(-2)}"`);
    const unchanged = await fetch(`${edge.url}/media/${hinted}`, { headers: { "if-none-match": tag } });
    assert.equal(unchanged.status, 304);
    assert.equal(unchanged.headers.get("cache-control"), "public, max-age=31536000, immutable");
  });

  test("gets init and segment, whole or in part", async () => {
    const init = core.tracks[0].init;
    assert.equal(await (await fetch(`${edge.url}/media/${init}`)).text(), "init of v-720p30");
    const segment = core.sent.find(({ type, track }) => type === "segment" && track === "a-aac-128k").key;
    const part = await fetch(`${edge.url}/media/${segment}`, { headers: { range: "bytes=-3" } });
    assert.equal(part.status, 206);
    assert.equal(await part.text(), ".5;");
    const whole = await fetch(`${edge.url}/media/${segment}`);
    assert.equal(whole.headers.get("content-type"), "audio/mp4");
    assert.equal(createHash("sha256").update(Buffer.from(await whole.arrayBuffer())).digest("hex"), createHash("sha256").update(core.objects.get(segment)).digest("hex"));
    await assertRefused(`/media/${core.tracks[1].init}`, 416, { headers: { range: "bytes=1000-" } });
    const spare = core.key("v-720p30", "77.TAG.m4s");
    await core.store(spare, Buffer.from("soon gone"));
    assert.equal((await internal(edge.url, SECRET, "DELETE", `/internal/media/${spare}`)).status, 204);
    await assertRefused(`/media/${spare}`, 404);
  });

  test("strangers who come all at once share one look into the directory, and each gets an answer", async () => {
    // Old enough that a name which is not known is looked up.
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    const asked = Array.from({ length: 30 }, (_, n) => timed(answered(fetch(`${edge.url}/api/streams/stranger-${n}`))));
    for (const { value, ms } of await Promise.all(asked)) {
      assertProblem(...value, 404);
      assert.ok(ms < 2000, `answered after ${ms} ms`);
    }
  });

  test("who asks for what nobody knows gets 404 at once", async () => {
    const unknown = base32(randomBytes(16));
    const tag = base32(randomBytes(12));
    for (const path of [
      "/live/nobody/index.m3u8",
      "/live/nobody/manifest.mpd",
      `/live/show/${unknown}/-/v-720p30/index.m3u8?_HLS_msn=1`,
      `/live/other/${core.broadcast}/-/v-720p30/index.m3u8`,
      `/live/show/${core.broadcast}/-/v-nothing/index.m3u8`,
      `/live/show/${core.broadcast}/-/v-720p30/999.m4s`,
      `/media/show/${unknown}/v-720p30/0.${tag}.m4s`,
      `/media/show/${core.broadcast}/v-720p30/0.${tag}.m4s`,
      `/media/show/${core.broadcast}/v-720p30/1.3.${tag}.m4s`,
      "/media/x",
      "/api/streams/nobody",
      "/nothing/here",
    ]) {
      const { value, ms } = await timed(fetch(edge.url + path));
      assertProblem(value, await value.text(), 404);
      assert.ok(ms < 2000, `${path} took ${ms} ms`);
    }
    await assertRefused("/live/show/index.m3u8", 405, { method: "POST" });
  });

  test("of DASH gets a running segment part by part, and a complete one whole", async () => {
    const complete = await fetch(`${edge.url}/live/show/${core.broadcast}/-/v-720p30/0.m4s`);
    assert.equal(complete.headers.get("cache-control"), "public, max-age=31536000, immutable");
    assert.equal(await complete.text(), [0, 1, 2, 3, 4, 5].map((part) => `v-720p30 0.${part};`).join(""));
    const running = await fetch(`${edge.url}/live/show/${core.broadcast}/-/v-720p30/1.m4s`);
    assert.equal(running.status, 200);
    assert.equal(running.headers.get("cache-control"), "no-store");
    const reader = running.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    const upTo = async (end) => {
      while (!text.endsWith(end)) {
        const { value, done } = await reader.read();
        assert.ok(!done, `the segment ended after ${text}`);
        text += value;
      }
    };
    await upTo("1.2;");
    await core.part("v-720p30", 1, 3);
    await upTo("1.3;");
    for (const part of [4, 5]) await core.part("v-720p30", 1, part);
    await upTo("1.5;");
    await core.segment("v-720p30", 1);
    assert.equal((await reader.read()).done, true);
    assert.equal(text, [0, 1, 2, 3, 4, 5].map((part) => `v-720p30 1.${part};`).join(""));
  });

  test("may read everything from another site, and every answer says how long it may be kept", async () => {
    const preflight = await fetch(edge.url + playlistOf(core, "v-720p30"), { method: "OPTIONS" });
    assert.equal(preflight.status, 204);
    assert.match(preflight.headers.get("access-control-allow-methods"), /GET/);
    for (const path of ["/live/show/index.m3u8", playlistOf(core, "v-720p30"), "/live/show/manifest.mpd", "/api/streams", "/api/time", "/api/time?iso", "/healthz", "/readyz", `/media/${core.tracks[0].init}`]) {
      for (const method of ["GET", "HEAD"]) {
        const response = await fetch(edge.url + path, { method });
        assert.equal(response.status, 200, `${method} ${path}`);
        assert.ok(response.headers.get("cache-control"), `${method} ${path} has no Cache-Control`);
        assert.equal(response.headers.get("x-content-type-options"), "nosniff", path);
        await response.arrayBuffer();
      }
    }
  });

  test("gets the pages and their files by the Worker: each with its policy and its caching, and none under its file's name", async () => {
    const page = await fetch(`${edge.url}/watch/show`);
    assert.equal(page.status, 200);
    assert.equal(page.headers.get("cache-control"), "no-cache");
    assert.match(page.headers.get("content-security-policy"), /^default-src 'none'; script-src 'self'/);
    const html = await page.text();
    const unchanged = await fetch(`${edge.url}/watch/show`, { headers: { "if-none-match": page.headers.get("etag") } });
    assert.equal(unchanged.status, 304);
    assert.equal(unchanged.headers.get("cache-control"), "no-cache");
    const files = [...html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map((match) => match[1]);
    assert.ok(files.some((file) => file.endsWith(".js")) && files.some((file) => file.endsWith(".css")), html);
    for (const file of files) {
      const response = await fetch(edge.url + file);
      assert.equal(response.status, 200, file);
      assert.equal(response.headers.get("cache-control"), "public, max-age=31536000, immutable", file);
      assert.equal(response.headers.get("access-control-allow-origin"), "*", file);
      assert.equal(response.headers.get("x-content-type-options"), "nosniff", file);
      assert.ok((await response.arrayBuffer()).byteLength > 0, file);
      const head = await fetch(edge.url + file, { method: "HEAD" });
      assert.equal(head.status, 200, file);
      assert.equal(head.headers.get("cache-control"), "public, max-age=31536000, immutable", file);
    }
    for (const file of ["/index.html", "/watch.html", "/embed.html", "/studio.html", "/assets/nothing-here.js"]) await assertRefused(file, 404);
  });

  test("is counted by the player's beacon", async () => {
    const beacon = (body) => fetch(`${edge.url}/api/streams/show/beacon`, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
    assert.equal((await beacon({ viewer: "a-viewer-of-the-test" })).status, 204);
    assertProblem(...(await answered(beacon("x"))), 400);
    assert.equal((await fetch(`${edge.url}/api/streams/nobody/beacon`, { method: "POST", body: "{}" })).status, 404);
    const endless = fetch(`${edge.url}/api/streams/show/beacon`, { method: "POST", body: new Blob(["{}"]).stream(), duplex: "half" });
    assertProblem(...(await answered(endless)), 413);
    const deadline = Date.now() + 5000;
    let viewers = 0;
    while (viewers === 0 && Date.now() < deadline) {
      viewers = (await (await fetch(`${edge.url}/api/streams/show`)).json()).viewers;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.equal(viewers, 1);
  });

  test("hears the end: every playlist has its EXT-X-ENDLIST, and a waiter is woken by it", async () => {
    const waiting = fetch(edge.url + playlistOf(core, "v-720p30", "?_HLS_msn=3"));
    await new Promise((resolve) => setTimeout(resolve, 300));
    core.closed();
    assert.match(await (await waiting).text(), /#EXT-X-ENDLIST/);
    assert.match(await (await fetch(edge.url + playlistOf(core, "a-aac-128k"))).text(), /#EXT-X-ENDLIST/);
    const deadline = Date.now() + 5000;
    for (;;) {
      const status = await (await fetch(`${edge.url}/api/streams/show`)).json();
      if (!status.live) break;
      assert.ok(Date.now() < deadline, "the directory never heard of the end");
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  });
});

describe("a recorded broadcast", () => {
  test("is rendered as the native edge renders it, byte for byte", async () => {
    const folder = new URL("golden/", import.meta.url);
    const messages = JSON.parse(await readFile(new URL("messages.json", folder), "utf8"));
    const { stream, broadcast } = messages[0];
    await newStream(stream);
    const core = new Core({ edge: edge.url, secret: SECRET, stream });
    Object.assign(core, { broadcast, sent: messages, seq: messages.length });
    await core.open();
    await core.dial();
    const at = (path) => `/live/${stream}/${path}`;
    await found(at("index.m3u8"));
    const track = (name, query = "") => at(`${broadcast}/-/${name}/index.m3u8?_HLS_msn=16&_HLS_part=1${query}`);
    // The last message is an audio part: until it is here, the other tracks report an earlier one.
    await found(track("a-aac-128k"));
    for (const [file, path] of [
      ["v-720p30.m3u8", track("v-720p30")],
      ["v-720p30.delta.m3u8", track("v-720p30", "&_HLS_skip=YES")],
      ["a-aac-128k.m3u8", track("a-aac-128k")],
      ["a-aac-128k.delta.m3u8", track("a-aac-128k", "&_HLS_skip=YES")],
      ["index.m3u8", at("index.m3u8")],
      ["manifest.mpd", at("manifest.mpd")],
    ]) {
      const text = await (await found(path)).text();
      if (process.env.UPDATE_GOLDEN) await writeFile(new URL(file, folder), text);
      else assert.equal(text, await readFile(new URL(file, folder), "utf8"), file);
    }
  });
});

describe("the studio", () => {
  test("opens with its secret only, shows the key and rotates it", async () => {
    const { key, studio_secret } = await newStream("owned");
    const ask = (path, method, secret) => fetch(edge.url + path, { method, headers: secret ? { authorization: `Bearer ${secret}` } : {} });
    assertProblem(...(await answered(ask("/api/studio/nobody", "GET", studio_secret))), 401);
    assertProblem(...(await answered(ask("/api/studio/nobody/rotate-key", "POST", studio_secret))), 401);
    for (const secret of [undefined, "wrong"]) {
      assertProblem(...(await answered(ask("/api/studio/owned", "GET", secret))), 401);
      assertProblem(...(await answered(ask("/api/studio/owned/rotate-key", "POST", secret))), 401);
    }
    const shown = await ask("/api/studio/owned", "GET", studio_secret);
    assert.equal(shown.headers.get("cache-control"), "no-store");
    assert.equal((await shown.json()).key, key);
    const rotated = (await (await ask("/api/studio/owned/rotate-key", "POST", studio_secret)).json()).key;
    assert.notEqual(rotated, key);
    assert.equal((await admit(key, null)).status, 403);
    assert.equal((await admit(rotated, null)).status, 200);
  });
});

describe("two streams", () => {
  test("that are live at once do not disturb each other", async () => {
    const [one, two] = [await live("one"), await live("two")];
    const waiting = fetch(edge.url + playlistOf(one, "v-720p30", "?_HLS_msn=1&_HLS_part=0"));
    for (let part = 0; part < 6; part++) await two.part("v-720p30", 1, part);
    const early = await Promise.race([waiting.then(() => "answered"), new Promise((resolve) => setTimeout(resolve, 500, "waits"))]);
    assert.equal(early, "waits");
    await one.part("v-720p30", 1, 0);
    const text = await (await waiting).text();
    assert.ok(!text.includes(two.broadcast));
    one.closed();
    assert.match(await (await fetch(edge.url + playlistOf(two, "v-720p30", "?_HLS_msn=1&_HLS_part=5"))).text(), /PRELOAD-HINT/);
  });
});

describe("workerd killed and started again on the same state", () => {
  test("goes on: the link is welcomed with what was stored, and viewers go on without a reload", async () => {
    const core = await live("survivor");
    for (let part = 0; part < 3; part++) for (const { name } of core.tracks) await core.part(name, 1, part);
    const before = await (await fetch(edge.url + playlistOf(core, "v-720p30", "?_HLS_msn=1&_HLS_part=2"))).text();
    const { port } = edge;
    await edge.kill();
    edge = await startEdge({ state, port, vars: { LINK_SECRET: SECRET } });
    const welcome = await core.dial();
    assert.ok(welcome.seq > 0, "what was stored before the kill is known");
    assert.ok(welcome.seq < core.seq, "what came after the last snapshot is sent again");
    // The viewer's next request, as it would have been without the kill.
    const next = fetch(edge.url + playlistOf(core, "v-720p30", "?_HLS_msn=1&_HLS_part=3"));
    for (let part = 3; part < 6; part++) for (const { name } of core.tracks) await core.part(name, 1, part);
    for (const { name } of core.tracks) await core.segment(name, 1);
    const response = await next;
    assert.equal(response.status, 200);
    const text = await response.text();
    for (const line of before.split("\n").filter((line) => line.startsWith("#EXT-X-PART:"))) {
      assert.ok(text.includes(line), `a part that was announced before the kill is missing: ${line}`);
    }
    assert.doesNotMatch(text, /#EXT-X-(GAP|DISCONTINUITY\n)/);
    core.closed();
    await core.until((message) => message.type === "ack" && message.seq === core.seq);
  });
});

describe("a stream key in D1", () => {
  const SHOW = "/api/studio/sealed";
  const ROTATE = "/api/studio/sealed/rotate-key";
  let entry;
  const studio = async (address, method = "GET") => {
    const response = await fetch(edge.url + address, { method, headers: { authorization: `Bearer ${entry.studio_secret}` } });
    assert.equal(response.status, 200, await response.clone().text());
    return (await response.json()).key;
  };
  const secretOf = (key) => key.slice("sealed_".length);

  test("is nowhere in its files, and neither is the studio's secret", async () => {
    entry = await newStream("sealed");
    const rotated = await studio(ROTATE, "POST");
    const files = await readdir(path.join(state.path, "v3/d1"), { recursive: true, withFileTypes: true });
    const contents = await Promise.all(files.filter((file) => file.isFile()).map((file) => readFile(path.join(file.parentPath, file.name))));
    // The row is there.
    const digest = createHash("sha256").update(rotated).digest("hex");
    assert.ok(contents.some((bytes) => bytes.includes(digest)));
    for (const secret of [secretOf(entry.key), secretOf(rotated), entry.studio_secret]) {
      assert.ok(!contents.some((bytes) => bytes.includes(secret)));
    }
    entry.key = rotated;
  });

  test("admits under another link secret, and is shown again once there is a new one or the box has brought it", async () => {
    const OTHER = "another link secret, of 32 bytes and more";
    const other = (method, address, body) => internal(edge.url, OTHER, method, address, JSON.stringify(body));
    const admitted = async (key) => (await other("POST", "/internal/admit", { key, stream: null, peer: "" })).status;
    const { port } = edge;
    await edge.stop();
    edge = await startEdge({ state, port, vars: { LINK_SECRET: OTHER } });
    assert.equal(await studio(SHOW), null);
    assert.equal(await admitted(entry.key), 200);
    assert.equal((await other("PUT", "/internal/streams/sealed", entry)).status, 204);
    assert.equal(await studio(SHOW), entry.key);
    await edge.stop();
    edge = await startEdge({ state, port, vars: { LINK_SECRET: SECRET } });
    assert.equal(await studio(SHOW), null);
    const rotated = await studio(ROTATE, "POST");
    assert.equal(await studio(SHOW), rotated);
    assert.equal((await admit(rotated, null)).status, 200);
    assert.equal((await admit(entry.key, null)).status, 403);
  });
});

describe("wrangler", () => {
  test("deploy --dry-run passes without the network", async () => {
    assert.match(await wrangler("deploy", "--dry-run"), /exiting now|dry-run/);
  });

  test("dev serves it on what an earlier run left", async () => {
    const dev = await startByWrangler({ state, vars: { LINK_SECRET: SECRET } });
    try {
      const { streams } = await (await fetch(`${dev.url}/api/streams`)).json();
      assert.ok(streams.some(({ name }) => name === "sealed"));
    } finally {
      await dev.stop();
    }
  });
});

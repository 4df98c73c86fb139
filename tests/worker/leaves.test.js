// Several leaf objects a broadcast: viewers are spread over them, and each is as good as any other.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { newState, startEdge } from "./edge.js";
import { live, playlistOf, SECRET, until } from "./viewer.js";

const LEAVES = 4;
// So many questions leave one of four leaves out once in ten million runs.
const MANY = 60;

let state;
let edge;
/** A broadcast that nobody asks for again, and when it was asked for last. */
let quiet;
let asked;

const start = (port) => startEdge({ state, port, vars: { LINK_SECRET: SECRET, LEAVES: String(LEAVES) } });

/** The leaves of a broadcast of which the log says so. */
const leavesThat = (core, said) => new Set([...edge.log().matchAll(/leaf (\S+)\/(\d+): ([^,\n]+)/g)].filter(([, id, , what]) => id === core.broadcast && what.startsWith(said)).map(([, , n]) => Number(n)));

/** What `count` viewers get who ask the same at once. */
const all = (path, count = MANY) => Promise.all(Array.from({ length: count }, async () => {
  const response = await fetch(edge.url + path);
  return { status: response.status, text: await response.text(), came: performance.now() };
}));

before(async () => {
  state = await newState();
  edge = await start();
  quiet = await live(edge, "quiet");
  await all(playlistOf(quiet, "v-720p30"));
  asked = Date.now();
});

after(async () => {
  await edge?.stop();
  await state?.remove();
});

test("viewers are spread over all leaves, and all of those see the same", async () => {
  const core = await live(edge, "spread");
  const answers = await all(playlistOf(core, "v-720p30"));
  assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]));
  assert.equal(new Set(answers.map(({ text }) => text)).size, 1);
  await until("every leaf has said that it follows", () => leavesThat(core, "follows").size === LEAVES);
  core.closed();
});

test("one part wakes those who wait, in whichever leaf", async (t) => {
  const core = await live(edge, "woken");
  const playlists = all(playlistOf(core, "v-720p30", "?_HLS_msn=1&_HLS_part=0"));
  const hinted = all(`/media/${core.hints.get("v-720p30")}`, 12);
  await until("every leaf follows", () => leavesThat(core, "follows").size === LEAVES);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const message = await core.part("v-720p30", 1, 0, { announce: false });
  const sent = performance.now();
  core.send(message);
  const answers = await playlists;
  for (const { status, text, came } of answers) {
    assert.equal(status, 200);
    assert.ok(came > sent, "nobody was answered before the part came");
    assert.ok(text.includes(message.key) && text.includes(`PRELOAD-HINT:TYPE=PART,URI="/media/${message.next}"`));
  }
  for (const { status, text } of await hinted) assert.deepEqual([status, text], [200, "v-720p30 1.0;"]);
  const worst = Math.max(...answers.map(({ came }) => came)) - sent;
  t.diagnostic(`${MANY} waiters of ${LEAVES} leaves were answered within ${Math.round(worst)} ms of the part`);
  assert.ok(worst < 3000, `the last waiter was answered after ${worst} ms`);
  core.closed();
});

test("a leaf that nobody asks hangs up, and is back at the next question", { timeout: 150_000 }, async () => {
  assert.equal(leavesThat(quiet, "follows").size, LEAVES);
  await until("every leaf hangs up", () => leavesThat(quiet, "hangs up").size === LEAVES, 75_000);
  assert.ok(Date.now() - asked > 59_000, `they hung up after ${Date.now() - asked} ms`);
  await quiet.part("v-720p30", 1, 0);
  for (const { status, text } of await all(playlistOf(quiet, "v-720p30", "?_HLS_msn=1&_HLS_part=0"))) {
    assert.equal(status, 200);
    assert.match(text, /\/1\.0\.[a-z2-7]{20}\.m4s",INDEPENDENT=YES/);
  }
});

test("the end reaches every leaf, and those that come up after it", async () => {
  const core = await live(edge, "over");
  const waiting = all(playlistOf(core, "v-720p30", "?_HLS_msn=2"));
  await until("every leaf follows", () => leavesThat(core, "follows").size === LEAVES);
  await new Promise((resolve) => setTimeout(resolve, 500));
  core.closed();
  for (const { status, text } of await waiting) assert.ok(status === 200 && text.includes("#EXT-X-ENDLIST"), `${status}: ${text}`);
  await core.until(({ type, seq }) => type === "ack" && seq === core.seq);
  // The leaves of a new process know nothing: they dial, and hear of the end.
  const { port } = edge;
  await edge.kill();
  edge = await start(port);
  for (const track of ["v-720p30", "a-aac-128k"]) {
    for (const { status, text } of await all(playlistOf(core, track))) assert.ok(status === 200 && text.includes("#EXT-X-ENDLIST"), `${status}: ${text}`);
  }
  assert.equal(leavesThat(core, "follows").size, LEAVES);
  // Nobody waits for what cannot come.
  for (const { status } of await all(`/media/${core.hints.get("v-720p30")}`, 12)) assert.equal(status, 404);
});

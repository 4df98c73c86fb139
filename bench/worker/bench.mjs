// What one Durable Object of the edge Worker bears, in workerd on this machine, the client beside it: prints one table.
//
//   bench/worker/run.sh [SECONDS]     seconds a throughput row (default 5)
import { readFile, readdir } from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { Core, internal } from "../../tests/worker/core.js";
import { ROOT } from "../../tests/worker/edge.js";

const { Miniflare } = createRequire(path.join(ROOT, "tests/worker/package.json"))("miniflare");
const SECRET = "a link secret for the bench, of more than 32 bytes";
const seconds = Number(process.argv[2] ?? 5);
const CONNECTIONS = 32;
const [before] = os.loadavg();

// A full window: 30 segments of 2 s.
const WINDOW = 30;
const TRACKS = ["v-source", "v-720p30", "v-480p30", "v-360p30", "a-aac-128k"];
const worker = path.join(ROOT, "build/worker");

/** The Worker in workerd with a broadcast of five tracks on it. */
async function start({ leaves, put }) {
  const miniflare = new Miniflare({
    host: "127.0.0.1",
    port: 0,
    modulesRoot: worker,
    modules: [
      { type: "ESModule", path: path.join(worker, "index.js") },
      { type: "CompiledWasm", path: path.join(worker, "index_bg.wasm") },
    ],
    compatibilityDate: "2026-04-01",
    bindings: { LINK_SECRET: SECRET, LEAVES: String(leaves), MEDIA_ORIGIN: "" },
    durableObjects: Object.fromEntries(["Broadcast", "Leaf", "Stream"].map((name) => [name.toUpperCase(), { className: `${name}Object`, useSQLite: true }])),
    d1Databases: ["DIRECTORY"],
    r2Buckets: ["MEDIA"],
    cf: false,
    // What objects log is not part of the table.
    handleRuntimeStdio: (out, err) => {
      out.resume();
      err.resume();
    },
  });
  const edge = (await miniflare.ready).origin;
  const database = await miniflare.getD1Database("DIRECTORY");
  for (const file of (await readdir(path.join(ROOT, "edge-worker/migrations"))).sort()) {
    const sql = (await readFile(path.join(ROOT, "edge-worker/migrations", file), "utf8")).replace(/--.*$/gm, "");
    for (const statement of sql.split(";").map((text) => text.trim()).filter(Boolean)) await database.prepare(statement).run();
  }
  const entry = { name: "bench", key: `bench_${"a".repeat(26)}`, studio_secret: "x", created_unix_ms: 0 };
  await internal(edge, SECRET, "PUT", "/internal/streams/bench", JSON.stringify(entry));
  const core = new Core({ edge, secret: SECRET, stream: "bench", put });
  await core.open();
  await core.dial();
  core.opened();
  for (const name of TRACKS) await core.track(name);
  for (let msn = 0; msn < WINDOW; msn++) await core.wholeSegment(msn);
  await core.until(({ type, seq }) => type === "ack" && seq >= core.seq - 5, 30_000);
  return { miniflare, core, port: new URL(edge).port };
}

let { miniflare, core, port } = await start({ leaves: 1, put: true });

function get(agent, target, whole = false) {
  return new Promise((resolve, reject) => {
    const request = http.get({ host: "127.0.0.1", port, path: target, agent }, (response) => {
      let size = 0;
      let last;
      const kept = [];
      response.on("data", (chunk) => {
        size += chunk.length;
        last = chunk;
        if (whole) kept.push(chunk);
      });
      response.on("end", () => resolve({ status: response.statusCode, size, last, body: Buffer.concat(kept).toString() }));
      response.on("error", reject);
    });
    request.on("error", reject);
  });
}

async function until200(target) {
  const agent = new http.Agent();
  for (let tries = 0; tries < 50; tries++) {
    const { status, size } = await get(agent, target);
    if (status === 200) return size;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`${target} was never answered with 200`);
}

const playlist = (query = "") => `/live/bench/${core.broadcast}/-/v-720p30/index.m3u8${query}`;

/** Requests a second over so many connections, and the median and 99th percentile of one, ms. */
async function throughput(target) {
  const size = await until200(target);
  const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const times = [];
  const before = await usage();
  const end = performance.now() + seconds * 1000;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      while (performance.now() < end) {
        const start = performance.now();
        const { status } = await get(agent, target);
        if (status !== 200) throw new Error(`${target} was answered with ${status}`);
        times.push(performance.now() - start);
      }
    }),
  );
  const elapsed = performance.now() - began;
  agent.destroy();
  const cpu = ((await usage()).cpuMs - before.cpuMs) / times.length;
  times.sort((a, b) => a - b);
  return { cpu, rate: (times.length / elapsed) * 1000, p50: times[times.length >> 1], p99: times[Math.floor(times.length * 0.99)], size };
}

/** What workerd has used so far: CPU time, ms, and resident memory, MB. CPU time says what wall time cannot on a busy machine. */
async function usage() {
  let [ticks, pages] = [0, 0];
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (!stat.includes("(workerd)") || fields[1] !== String(process.pid)) continue;
    ticks += Number(fields[11]) + Number(fields[12]);
    pages += Number(fields[21]);
  }
  return { cpuMs: ticks * 10, residentMb: (pages * 4096) / 1e6 };
}

/** What workerd has used when it has done nothing for half a second. */
async function settled() {
  let last = await usage();
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const now = await usage();
    if (now.cpuMs - last.cpuMs < 20) return now;
    last = now;
  }
}

let msn = WINDOW;
let part = 0;
/** From sending a part's message to the last of the waiters' answers, ms. */
async function wakeUp(count) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
  const [times, cpu] = [[], []];
  for (let round = 0; round < 6; round++) {
    const waiting = Promise.all(Array.from({ length: count }, () => get(agent, playlist(`?_HLS_msn=${msn}&_HLS_part=${part}`))));
    await new Promise((resolve) => setTimeout(resolve, 500 + count * 2));
    const message = await core.part("v-720p30", msn, part, { announce: false });
    const before = await usage();
    const start = performance.now();
    core.send(message);
    const answers = await waiting;
    times.push(performance.now() - start);
    cpu.push((await usage()).cpuMs - before.cpuMs);
    for (const { status, last } of answers) if (status !== 200) throw new Error(`one of ${count} waiters was answered with ${status}: ${last}`);
    await nextPart();
  }
  agent.destroy();
  // The first round opens the connections.
  for (const list of [times, cpu]) list.shift();
  times.sort((a, b) => a - b);
  // The clock of CPU time ticks every 10 ms: all rounds together say more than any one.
  const spent = cpu.reduce((sum, ms) => sum + ms, 0) / (cpu.length * count);
  return { p50: times[times.length >> 1], worst: times.at(-1), cpu: spent };
}

/** What one viewer waits for, ms: from a part's message to its playlist, from there to its bytes, and from the message to the hinted part. */
async function followed() {
  const agent = new http.Agent({ keepAlive: true });
  const times = { playlist: [], bytes: [], hinted: [] };
  for (let round = 0; round < 30; round++) {
    const came = {};
    const waiting = Promise.all([
      (async () => {
        const { status, body } = await get(agent, playlist(`?_HLS_msn=${msn}&_HLS_part=${part}`), true);
        came.playlist = performance.now();
        if (status !== 200) throw new Error(`a waiter was answered with ${status}: ${body}`);
        const listed = [...body.matchAll(/#EXT-X-PART:[^\n]*URI="([^"]+)"/g)].at(-1)[1];
        if ((await get(agent, listed)).status !== 200) throw new Error(`${listed} is listed and not there`);
        came.bytes = performance.now();
      })(),
      get(agent, `/media/${core.hints.get("v-720p30")}`).then(({ status }) => {
        came.hinted = performance.now();
        if (status !== 200) throw new Error(`the hinted part was answered with ${status}`);
      }),
    ]);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const message = await core.part("v-720p30", msn, part, { announce: false });
    const sent = performance.now();
    core.send(message);
    await waiting;
    times.playlist.push(came.playlist - sent);
    times.bytes.push(came.bytes - came.playlist);
    times.hinted.push(came.hinted - sent);
    await nextPart();
  }
  agent.destroy();
  return Object.entries(times).map(([what, list]) => {
    list.sort((a, b) => a - b);
    return [what, list[list.length >> 1], list.at(-1)];
  });
}

/** The other tracks' parts, and the segment where it is complete. */
async function nextPart() {
  for (const { name } of core.tracks) if (name !== "v-720p30") await core.part(name, msn, part);
  if (++part === 6) {
    for (const { name } of core.tracks) await core.segment(name, msn);
    part = 0;
    msn++;
  }
}

/** CPU time of one message while so many leaves follow and nobody waits, ms. */
async function fedLeaves(leaves) {
  await miniflare.dispose();
  ({ miniflare, core, port } = await start({ leaves, put: false }));
  const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  await until200(playlist());
  // Each question goes to a leaf by chance: so many leave none out.
  await Promise.all(Array.from({ length: leaves * 15 }, () => get(agent, playlist())));
  const before = await settled();
  const from = core.seq;
  const SEGMENTS = 10;
  for (let n = WINDOW; n < WINDOW + SEGMENTS; n++) await core.wholeSegment(n);
  await core.until(({ type, seq }) => type === "ack" && seq >= core.seq - 5, 60_000);
  const after = await settled();
  agent.destroy();
  core.socket.terminate();
  return { cpu: (after.cpuMs - before.cpuMs) / (core.seq - from), messages: core.seq - from, residentMb: after.residentMb };
}

const rows = [];
const table = (...cells) => rows.push(cells.map(String));
table("what", "answers/s", "p50 ms", "p99 ms", "CPU ms each", "bytes");
for (const [what, target] of [
  ["plain Worker (/healthz)", "/healthz"],
  ["playlist through the leaf object", playlist()],
  ["blocked playlist's body from the Cache API", playlist(`?_HLS_msn=${WINDOW - 1}&_HLS_part=5`)],
  ["init from the Cache API", `/media/${core.tracks[0].init}`],
]) {
  const { rate, p50, p99, cpu, size } = await throughput(target);
  table(what, rate.toFixed(0), p50.toFixed(1), p99.toFixed(1), cpu.toFixed(2), size);
}
table("", "", "", "", "", "");
table("one viewer of an object", "", "p50 ms", "worst ms", "", "");
const said = { playlist: "from a part's message to the playlist", bytes: "from there to the part's bytes", hinted: "from the message to the hinted part" };
for (const [what, p50, worst] of await followed()) table(said[what], "", p50.toFixed(0), worst.toFixed(0), "", "");
table("", "", "", "", "", "");
table("one part wakes all waiters of an object", "waiters", "p50 ms", "worst ms", "CPU ms each", "workerd MB");
for (const count of [10, 100, 1000]) {
  const { p50, worst, cpu } = await wakeUp(count);
  table("", count, p50.toFixed(0), worst.toFixed(0), cpu.toFixed(2), (await usage()).residentMb.toFixed(0));
}

core.socket.terminate();
table("", "", "", "", "", "");
table("a message, while nobody waits", "leaves", "", "", "CPU ms each", "workerd MB");
for (const leaves of [1, 10, 60]) {
  const { cpu, residentMb } = await fedLeaves(leaves);
  table("", leaves, "", "", cpu.toFixed(2), residentMb.toFixed(0));
}

const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
console.log(`workerd on ${os.cpus().length} × ${os.cpus()[0].model.trim()}, ${CONNECTIONS} connections, client on the same machine, load average ${before.toFixed(1)} before, ${os.loadavg()[0].toFixed(1)} after`);
for (const row of rows) console.log(row.map((cell, column) => (column ? cell.padStart(widths[column]) : cell.padEnd(widths[column]))).join("  ").trimEnd());
await miniflare.dispose();

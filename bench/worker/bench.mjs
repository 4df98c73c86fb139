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

const worker = path.join(ROOT, "build/worker");
const miniflare = new Miniflare({
  host: "127.0.0.1",
  port: 0,
  modulesRoot: worker,
  modules: [
    { type: "ESModule", path: path.join(worker, "index.js") },
    { type: "CompiledWasm", path: path.join(worker, "index_bg.wasm") },
  ],
  compatibilityDate: "2026-04-01",
  bindings: { LINK_SECRET: SECRET, LEAVES: "1", MEDIA_ORIGIN: "" },
  durableObjects: Object.fromEntries(["Broadcast", "Leaf", "Stream"].map((name) => [name.toUpperCase(), { className: `${name}Object`, useSQLite: true }])),
  d1Databases: ["DIRECTORY"],
  r2Buckets: ["MEDIA"],
  cf: false,
});

const edge = (await miniflare.ready).origin;
const port = new URL(edge).port;
const database = await miniflare.getD1Database("DIRECTORY");
for (const file of (await readdir(path.join(ROOT, "edge-worker/migrations"))).sort()) {
  const sql = (await readFile(path.join(ROOT, "edge-worker/migrations", file), "utf8")).replace(/--.*$/gm, "");
  for (const statement of sql.split(";").map((text) => text.trim()).filter(Boolean)) await database.prepare(statement).run();
}

const entry = { name: "bench", key_id: "bench", key_sha256: "0".repeat(64), key: "bench_x", studio_secret: "x", created_unix_ms: 0 };
await internal(edge, SECRET, "PUT", "/internal/streams/bench", JSON.stringify(entry));
const core = new Core({ edge, secret: SECRET, stream: "bench" });
await core.open();
await core.dial();
core.opened();
for (const name of ["v-source", "v-720p30", "v-480p30", "v-360p30", "a-aac-128k"]) await core.track(name);
// A full window: 30 segments of 2 s.
const WINDOW = 30;
for (let msn = 0; msn < WINDOW; msn++) await core.wholeSegment(msn);
await core.until(({ type, seq }) => type === "ack" && seq >= core.seq - 5, 30_000);

function get(agent, target) {
  return new Promise((resolve, reject) => {
    const request = http.get({ host: "127.0.0.1", port, path: target, agent }, (response) => {
      let size = 0;
      let last;
      response.on("data", (chunk) => {
        size += chunk.length;
        last = chunk;
      });
      response.on("end", () => resolve({ status: response.statusCode, size, last }));
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
    cpu.push(((await usage()).cpuMs - before.cpuMs) / count);
    for (const { status, last } of answers) if (status !== 200) throw new Error(`one of ${count} waiters was answered with ${status}: ${last}`);
    for (const { name } of core.tracks) if (name !== "v-720p30") await core.part(name, msn, part);
    if (++part === 6) {
      for (const { name } of core.tracks) await core.segment(name, msn);
      part = 0;
      msn++;
    }
  }
  agent.destroy();
  // The first round opens the connections.
  for (const list of [times, cpu]) {
    list.shift();
    list.sort((a, b) => a - b);
  }
  return { p50: times[times.length >> 1], worst: times.at(-1), cpu: cpu[cpu.length >> 1] };
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
table("one part wakes all waiters of an object", "waiters", "p50 ms", "worst ms", "CPU ms each", "workerd MB");
for (const count of [10, 100, 1000]) {
  const { p50, worst, cpu } = await wakeUp(count);
  table("", count, p50.toFixed(0), worst.toFixed(0), cpu.toFixed(2), (await usage()).residentMb.toFixed(0));
}

const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
const [load] = os.loadavg();
console.log(`workerd on ${os.cpus().length} × ${os.cpus()[0].model.trim()}, ${CONNECTIONS} connections, client on the same machine, load average ${load.toFixed(1)}`);
for (const row of rows) console.log(row.map((cell, column) => (column ? cell.padStart(widths[column]) : cell.padEnd(widths[column]))).join("  ").trimEnd());
core.socket.terminate();
await miniflare.dispose();

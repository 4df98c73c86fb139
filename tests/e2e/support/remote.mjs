// Two ways to have the edge elsewhere: `ghost-live edge`, and the Worker in workerd. And the box, `ghost-live media-core`, for both.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { newState, ROOT, startEdge } from '../../worker/edge.js';
import { freePort } from '../../ports.mjs';
import { BINARY, PATIENT, until } from './server.mjs';

const SECRET = 'a link secret for the tests, of more than 32 bytes';

/** A part of `ghost-live` as a process of its own, with its output kept. */
function part(name, folder, file) {
  const child = spawn(BINARY, [name, '--config', file, '--data', folder], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { output += chunk; });
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
  return {
    output: () => output,
    running: () => child.exitCode === null && child.signalCode === null,
    async end(signal) {
      child.kill(signal);
      return exited;
    },
  };
}

/** What both edges are configured to tell encoders. */
export const INGEST_SERVER = 'rtmps://box.example.org:1936/live';

/** `ghost-live edge` on a free port; `config` is more of its TOML. */
export async function nativeEdge({ config = '' } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'ghost-live-edge-'));
  const file = join(folder, 'ghost-live.toml');
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  await writeFile(file, `[web]\nlisten = "127.0.0.1:${port}"\ntls_listen = "off"\ningest_servers = ["${INGEST_SERVER}"]\n${config}`);
  let process;
  const start = async () => {
    process = part('edge', folder, file);
    await until('the edge is ready', async () => {
      if (!process.running()) throw new Error(`it ended: ${process.output()}`);
      return (await fetch(`${url}/readyz`)).ok;
    });
  };
  await start();
  return {
    url, start, folder,
    kill: () => process.end('SIGKILL'),
    log: () => process.output(),
    secretFile: join(folder, 'link-secret'),
    async remove() {
      await process.end('SIGTERM');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The Worker in workerd, with state that outlives it; `more` are variables and secrets. */
export async function workerEdge({ vars: more = {} } = {}) {
  for (const [path, command] of [
    ['build/worker/index.js', 'edge-worker/build-worker.sh'],
    ['tests/worker/node_modules/.bin/wrangler', 'edge-worker/build-worker.sh --tools'],
    ['player/dist/watch.html', 'npm --prefix player run build'],
  ]) {
    if (!existsSync(join(ROOT, path))) throw new Error(`${path} is missing, which the tests against the Worker need: run ${command}`);
  }
  const state = await newState();
  const secretFile = join(state.path, 'link-secret');
  await writeFile(secretFile, SECRET, { mode: 0o600 });
  const vars = { LINK_SECRET: SECRET, INGEST_SERVERS: INGEST_SERVER, ...more };
  let edge = await startEdge({ state, vars });
  const { url, port } = edge;
  return {
    url, secretFile,
    start: async () => { edge = await startEdge({ state, vars, port }); },
    kill: () => edge.kill(),
    log: () => edge.log(),
    async remove() {
      await edge.stop();
      await state.remove();
    },
  };
}

/** `ghost-live media-core` that puts its objects through the edge, or where `store` says. */
export async function startBox(edge, { store = '[store]\nkind = "edge"' } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'ghost-live-box-'));
  const file = join(folder, 'ghost-live.toml');
  const rtmps = await freePort();
  await writeFile(file, [
    `[ingest]\nrtmp = "off"\nrtmps = "127.0.0.1:${rtmps}"`,
    '[webrtc]\nlisten = "127.0.0.1:0"',
    `[edge]\nurl = "${edge.url}"\nlink_secret_file = "${edge.secretFile}"`,
    PATIENT,
    store,
  ].join('\n'));
  const process = part('media-core', folder, file);
  const ready = () => new Promise((resolve, reject) => {
    if (!process.running()) throw new Error(`it ended: ${process.output()}`);
    const socket = connect(rtmps, '127.0.0.1', () => { socket.destroy(); resolve(true); });
    socket.once('error', reject);
  });
  try {
    await until('the box takes connections', ready, 40);
    // What is for the streamer is printed behind that.
    await until('the panel', () => process.output().includes('Ghost Live is running'));
  } catch (error) {
    await process.end('SIGKILL');
    throw new Error(`${error.message}\n${process.output()}`);
  }
  const run = async (...args) => {
    const child = spawn(BINARY, [...args, '--data', folder, '--config', file], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk) => { text += chunk; });
    await new Promise((resolve) => child.on('close', resolve));
    return text.trim();
  };
  return {
    output: process.output,
    key: () => run('key', 'show', 'main'),
    rotate: (...flags) => run('key', 'rotate', 'main', ...flags),
    publishUrl: (key) => `rtmps://127.0.0.1:${rtmps}/live/${key}`,
    configFile: () => readFile(file, 'utf8'),
    async stop(signal = 'SIGTERM') {
      const end = await process.end(signal);
      await rm(folder, { recursive: true, force: true });
      return end;
    },
  };
}

// Starts the real binary on free ports with a data folder of its own, and ends it with the test.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';

import { freePort } from '../../ports.mjs';

const cache = process.env.GHOST_LIVE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ghost-live');
export const BINARY = process.env.GHOST_LIVE_BINARY ?? join(process.env.CARGO_TARGET_DIR ?? join(cache, 'target'), 'release', 'ghost-live');

/** Where tests/tools.sh puts what only the tests need. */
export const TOOLS = process.env.GHOST_LIVE_TOOLS ?? join(cache, 'tools');

/** Encoders, servers and browsers share what may be two cores, and how fast those are is no question of these tests: no rung is shed for it. */
export const PATIENT = '[transcode]\nshed_after_ms = 5000\n';

/** One small rung: what a test needs that is not about qualities, so that two of them have room on two cores. */
export const SHORT_LADDER = '[[transcode.ladder]]\nheight = 240\nfps = 15\nbitrate_bps = 400_000\n';

/** Polls until `check` gives something truthy; fails with `what` after `seconds`. */
export async function until(what, check, seconds = 60) {
  const deadline = performance.now() + seconds * 1000;
  let last;
  for (;;) {
    try {
      const value = await check();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) throw new Error(`${what}: not within ${seconds} s${last ? ` (${last.message})` : ''}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** `ghost-live up` with the given TOML after the ports; `ingest` is more of that section. */
export async function startServer({ config = '', ingest = '', webrtc = '127.0.0.1:0', args = [], data, ports } = {}) {
  const folder = data ?? (await mkdtemp(join(tmpdir(), 'ghost-live-')));
  const port = ports ?? { web: await freePort(), rtmp: await freePort(), rtmps: await freePort() };
  const file = join(folder, 'ghost-live.toml');
  const listen = [
    `[web]\nlisten = "127.0.0.1:${port.web}"`,
    `[ingest]\nrtmp = "127.0.0.1:${port.rtmp}"\nrtmps = "127.0.0.1:${port.rtmps}"\n${ingest}`,
    // A browser keeps to loopback as well; any free port.
    `[webrtc]\nlisten = "${webrtc}"`,
    PATIENT,
  ].join('\n');
  await writeFile(file, `${listen}\n${config}`);
  const child = spawn(BINARY, ['up', '--config', file, '--data', folder, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (chunk) => { output += chunk; });
  child.stderr.on('data', (chunk) => { output += chunk; });
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
  const url = `http://127.0.0.1:${port.web}`;
  const server = {
    child, folder, ports: port, url, exited,
    output: () => output,
    /** The key of a stream, as the owner reads it. */
    async key(stream = 'main') {
      const shown = spawn(BINARY, ['key', 'show', stream, '--data', folder, '--config', file], { stdio: ['ignore', 'pipe', 'inherit'] });
      let text = '';
      shown.stdout.on('data', (chunk) => { text += chunk; });
      await new Promise((resolve) => shown.on('exit', resolve));
      return text.trim();
    },
    async rtmps(stream = 'main') { return `rtmps://127.0.0.1:${port.rtmps}/live/${await server.key(stream)}`; },
    async rtmp(stream = 'main') { return `rtmp://127.0.0.1:${port.rtmp}/live/${await server.key(stream)}`; },
    async json(path) {
      const response = await fetch(url + path);
      if (!response.ok) throw new Error(`${path}: ${response.status}`);
      return response.json();
    },
    async text(path) {
      const response = await fetch(url + path);
      if (!response.ok) throw new Error(`${path}: ${response.status}`);
      return response.text();
    },
    live: (stream = 'main') => until(`${stream} is live`, async () => (await server.json(`/api/streams/${stream}`)).live),
    async stop(signal = 'SIGTERM') {
      child.kill(signal);
      const end = await exited;
      if (!data) await rm(folder, { recursive: true, force: true });
      return end;
    },
    configFile: () => readFile(file, 'utf8'),
  };
  try {
    await until('the server is ready', async () => {
      if (child.exitCode !== null) throw new Error(`it ended: ${output}`);
      return (await fetch(`${url}/readyz`)).ok;
    });
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`${error.message}\n${output}`);
  }
  return server;
}

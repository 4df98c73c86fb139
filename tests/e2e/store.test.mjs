// The object store goes away in mid-stream, under the whole binary and a browser: nothing is lost, and viewers go on by themselves.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock, readDelay } from './support/clock.mjs';
import { nativeEdge, startBox } from './support/remote.mjs';
import { freePort } from '../ports.mjs';
import { SHORT_LADDER, startServer, until } from './support/server.mjs';

const tools = process.env.GHOST_LIVE_TOOLS ?? join(process.env.GHOST_LIVE_CACHE ?? join(homedir(), '.cache', 'ghost-live'), 'tools');
const [ACCESS_KEY, SECRET_KEY] = ['ghost', 'live-secret-of-the-tests'];
const OUTAGE_S = 20;

/** s3s-fs over a folder. */
async function s3(folder, port) {
  const args = ['--host', '127.0.0.1', '--port', String(port), '--access-key', ACCESS_KEY, '--secret-key', SECRET_KEY, folder];
  const child = spawn(join(tools, 'bin', 's3s-fs'), args, { stdio: 'ignore', env: { ...process.env, RUST_LOG: 'error' } });
  const exited = new Promise((resolve, reject) => child.on('exit', resolve).on('error', reject));
  await until('the S3 server answers', () => fetch(`http://127.0.0.1:${port}/`));
  return {
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** A bucket in a folder of its own, with the configuration that names it. */
async function bucket() {
  const folder = await mkdtemp(join(tmpdir(), 'ghost-live-store-'));
  const objects = join(folder, 's3', 'media');
  await mkdir(objects, { recursive: true });
  await writeFile(join(folder, 'secret'), SECRET_KEY);
  const port = await freePort();
  let store = await s3(join(folder, 's3'), port);
  return {
    objects,
    config: `[store]\nkind = "s3"\n[store.s3]\nendpoint = "http://127.0.0.1:${port}"\nbucket = "media"\nregion = "auto"\n`
      + `access_key_id = "${ACCESS_KEY}"\nsecret_access_key_file = "${join(folder, 'secret')}"\n`,
    kill: () => store.kill(),
    async start() { store = await s3(join(folder, 's3'), port); },
    async remove() {
      await store.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The segments that a media playlist lists, by media sequence number, with their tags. */
function segments(text) {
  let msn = Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(text)[1]);
  const listed = new Map();
  let tags = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('#EXTINF') || line.startsWith('#EXT-X-GAP') || line === '#EXT-X-DISCONTINUITY') tags.push(line);
    if (line.startsWith('/media/')) {
      listed.set(msn, { uri: line, tags: tags.join(' ') });
      msn += 1;
      tags = [];
    }
  }
  return listed;
}

test(`an S3 store that is down for ${OUTAGE_S} s in mid-stream: nothing is lost, playlists stay consistent, the page goes on`, async (t) => {
  const store = await bucket();
  const server = await startServer({ config: `${store.config}[broadcast]\nwindow_s = 120\n` });
  const encoder = publishClock(await server.rtmps());
  const browser = await launch();
  try {
    await server.live();
    const page = await open(browser, `${server.url}/watch/main?protocol=hls`);
    const stats = () => page.evaluate(() => window.ghostLive.player.stats);
    const delay = () => page.evaluate(`(${readDelay})(window.ghostLive.player)`);
    await until('the page plays', async () => (await stats()).framesDecoded > 60 && (await delay()) !== null, 40);

    const master = await server.text('/live/main/index.m3u8');
    const tracks = [...master.matchAll(/^(?:#EXT-X-MEDIA:.*URI="([^"]+)".*|([^#\n]+index\.m3u8))$/gm)].map((m) => m[1] ?? m[2]);
    assert.equal(tracks.length, 4, `three qualities and the sound:\n${master}`);
    // What was ever listed, by track: a number keeps its object, and none goes back.
    const known = new Map(tracks.map((track) => [track, new Map()]));
    let newest = 0;
    const look = async () => {
      for (const track of tracks) {
        const listed = segments(await server.text(`/live/main/${track}`));
        const before = known.get(track);
        for (const [msn, { uri, tags }] of listed) {
          assert.ok(!before.has(msn) || before.get(msn) === uri, `${track}: segment ${msn} was ${before.get(msn)}, is ${uri}`);
          assert.ok(!/GAP|DISCONTINUITY/.test(tags), `${track}: segment ${msn}: ${tags}`);
          before.set(msn, uri);
        }
        assert.ok(Math.max(...listed.keys()) >= Math.max(...before.keys()), `${track} goes back`);
        newest = Math.max(newest, ...listed.keys());
      }
    };
    await until('three segments', async () => {
      await look();
      return newest >= 3;
    }, 30);

    await store.kill();
    const down = performance.now();
    const at = newest;
    while (performance.now() - down < OUTAGE_S * 1000) {
      await look();
      // What is not in the store is not listed: no more than what was under way came since.
      assert.ok(newest <= at + 1, `segment ${newest} was listed while the store was down`);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    const frames = (await stats()).framesDecoded;
    await store.start();
    const back = performance.now();

    await until('the playlists have caught up', async () => {
      await look();
      return newest >= at + Math.floor(OUTAGE_S / 2) + 2;
    }, 60);
    const caught = performance.now() - back;
    await until('the page goes on by itself, near the live edge', async () => {
      const ms = await delay();
      return (await stats()).framesDecoded > frames + 60 && ms !== null && ms < 8_000;
    }, 60);
    t.diagnostic(`caught up ${(caught / 1000).toFixed(1)} s after the store was back; the page then plays ${await delay()} ms behind`);

    // Nothing was lost: every number from the first, in every track, readable and as long as the timeline says.
    await look();
    for (const [track, listed] of known) {
      const numbers = [...listed.keys()].sort((a, b) => a - b);
      assert.deepEqual(numbers, numbers.map((_, i) => numbers[0] + i), `${track} has a hole`);
      const sizes = await Promise.all(numbers.map(async (msn) => {
        const response = await fetch(server.url + listed.get(msn));
        assert.equal(response.status, 200, `${track}: segment ${msn}`);
        return (await response.arrayBuffer()).byteLength;
      }));
      assert.ok(sizes.every((size) => size > 1_000), `${track}: ${sizes.join(' ')}`);
    }
    // A reader that has nothing to do with us finds every frame of them: 30 a second, none missing.
    const probe = spawn('ffprobe', ['-v', 'error', '-select_streams', 'v', '-show_entries', 'packet=pts_time', '-of', 'csv=p=0', '-read_intervals', '%+30', '-live_start_index', '0', new URL(tracks.find((track) => track.includes('/v-360p')), `${server.url}/live/main/`).href], { stdio: ['ignore', 'pipe', 'inherit'] });
    let out = '';
    probe.stdout.on('data', (chunk) => { out += chunk; });
    await new Promise((resolve) => probe.on('close', resolve));
    const times = out.split('\n').map(parseFloat).filter(Number.isFinite).sort((a, b) => a - b);
    const longest = Math.max(...times.slice(1).map((time, i) => time - times[i]));
    assert.ok(times.at(-1) - times[0] > 25, `${times.length} frames over ${times.at(-1) - times[0]} s`);
    assert.ok(longest < 0.1, `a hole of ${longest} s`);
  } finally {
    await encoder.kill();
    await browser.close();
    await server.stop();
    await store.remove();
  }
});

test('a box and an edge elsewhere share a bucket by configuration alone: the page plays what the box put there', async () => {
  const store = await bucket();
  const edge = await nativeEdge({ config: store.config });
  const browser = await launch();
  let box;
  let encoder;
  try {
    box = await startBox(edge, { store: store.config + SHORT_LADDER });
    encoder = publishClock(box.publishUrl(await box.key()));
    await until('the stream is live', async () => (await (await fetch(`${edge.url}/api/streams/main`)).json()).live, 60);
    const page = await open(browser, `${edge.url}/watch/main?protocol=hls`);
    await until('the page plays', () => page.evaluate(() => window.ghostLive.player.stats.framesDecoded > 60), 40);
    await until('the clock can be read', async () => (await page.evaluate(`(${readDelay})(window.ghostLive.player)`)) !== null);
    const kept = await readdir(store.objects, { recursive: true });
    assert.ok(kept.some((name) => /^main\/[a-z2-7]{26}\/v-source\/\d+\.[a-z2-7]{20}\.m4s$/.test(name)), kept.slice(0, 5).join(' '));
  } finally {
    await encoder?.kill();
    await browser.close();
    await box?.stop();
    await edge.remove();
    await store.remove();
  }
});

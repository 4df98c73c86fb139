// OBS Studio itself publishes, with the defaults that it has on a custom server: a key frame every 250 frames, B-frames, scene cuts.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { run } from './support/edge-checks.mjs';
import { HEIGHT, startObs } from './support/obs.mjs';
import { SHORT_LADDER, startServer, until } from './support/server.mjs';
import { viewer } from './support/viewer.mjs';

const shots = process.env.GHOST_LIVE_SHOTS ?? join(tmpdir(), 'ghost-live-shots');

describe('OBS on a custom server, at its defaults', () => {
  let server;
  let obs;
  let browser;
  let media;
  const body = async () => (await fetch(media)).text();
  const start = async () => startObs({ server: `rtmp://127.0.0.1:${server.ports.rtmp}/live`, key: await server.key() });

  before(async () => {
    await mkdir(shots, { recursive: true });
    server = await startServer({ config: SHORT_LADDER });
    browser = await launch();
    obs = await start();
  });

  after(async () => {
    await obs?.kill();
    await browser?.close();
    await server?.stop();
  });

  test('goes live, and is cut although its key frames are 8.3 s apart', async (t) => {
    await until('OBS streams', async () => (await obs.ask('GetStreamStatus')).outputActive, 60);
    assert.match(obs.output(), /keyint: +250/);
    await server.live();
    const master = await until('the multivariant playlist', () => server.text('/live/main/index.m3u8'));
    media = new URL(master.split('\n').find((line) => line.includes('/v-source/')), `${server.url}/live/main/index.m3u8`);
    const text = await until('segments behind the forced cut', async () => {
      const playlist = await body();
      return playlist.split('#EXTINF').length > 3 && playlist;
    }, 60);

    const durations = [...text.matchAll(/#EXTINF:([0-9.]+)/g)].map((match) => Number(match[1]));
    assert.ok(durations.every((seconds) => seconds < 4.5), durations.join(' '));
    const [untouched, encoded] = text.split('#EXT-X-DISCONTINUITY\n');
    assert.equal(untouched.split('#EXTINF').length - 1, 1, `one segment before the discontinuity:\n${text}`);
    assert.match(encoded ?? '', /^#EXT-X-MAP:/, `a new header behind it:\n${text}`);

    // What stands before the discontinuity is what OBS sent.
    const uris = [/#EXT-X-MAP:URI="([^"]+)"/.exec(untouched)[1], /^\/media\/\S+$/m.exec(untouched)[0]];
    const bytes = await Promise.all(uris.map(async (uri) => Buffer.from(await (await fetch(new URL(uri, media))).arrayBuffer())));
    const file = join(server.folder, 'untouched.mp4');
    await writeFile(file, Buffer.concat(bytes));
    const { code, stdout, stderr } = await run('ffprobe', ['-v', 'error', '-show_entries', 'frame=pict_type,key_frame', '-of', 'csv=p=0', file]);
    assert.equal(code, 0, stderr);
    const frames = stdout.trim().split('\n');
    assert.ok(frames.some((frame) => /B/.test(frame)), `B-frames: ${frames.join(' ')}`);
    assert.equal(frames.filter((frame) => /^1/.test(frame)).length, 1, `one key frame: ${frames.join(' ')}`);
    t.diagnostic(`OBS ${(await obs.ask('GetVersion')).obsVersion}: first segment ${durations[0]} s, ${frames.length} frames, `
      + `${frames.filter((frame) => /B/.test(frame)).length} of them B-frames`);
  });

  test('FFmpeg reads the playlists', async () => {
    // FFmpeg 5.1 starts three segments before the end and keeps the first header that it meets.
    await until('three segments behind the discontinuity', async () => (await body()).split('#EXT-X-DISCONTINUITY\n').at(-1).split('#EXTINF').length > 3, 40);
    for (const url of [media.href, `${server.url}/live/main/index.m3u8`]) {
      const { code, stderr } = await run('ffmpeg', ['-hide_banner', '-v', 'warning', '-xerror', '-i', url, '-t', '6', '-f', 'null', '-']);
      assert.equal(code, 0, stderr);
      assert.ok(!/non.monoton|Invalid|corrupt|error/i.test(stderr), stderr);
    }
  });

  test('plays in Chromium, goes on after a crash of OBS, and ends when the streamer stops', async (t) => {
    const page = await open(browser, `${server.url}/watch/main?protocol=hls`);
    const watching = viewer((expression) => page.evaluate(expression));
    await watching.playing();
    await watching.advances();
    const { levels } = await watching.stats();
    assert.deepEqual(levels.map((level) => level.height).sort((a, b) => b - a), [HEIGHT, 240]);
    for (const level of levels) await watching.choose(level);
    const { delayS, stalls } = await watching.stats();
    const { outputSkippedFrames, outputTotalFrames } = await obs.ask('GetStreamStatus');
    t.diagnostic(`from ingest to the painted frame ${delayS.toFixed(1)} s, ${stalls} stalls; OBS skipped ${outputSkippedFrames} of ${outputTotalFrames} frames`);
    await page.screenshot({ path: join(shots, 'obs.png') });

    // Its connection is cut; the broadcast has 30 s to go on.
    await obs.kill();
    assert.equal((await server.json('/api/streams/main')).live, true);
    const broadcast = media.pathname.split('/')[3];
    obs = await start();
    await until('OBS streams again', async () => (await obs.ask('GetStreamStatus')).outputActive, 60);
    await until('the page plays on without a reload', async () => {
      const before = await watching.video('currentTime');
      await new Promise((resolve) => setTimeout(resolve, 500));
      return (await watching.stats()).state === 'playing' && (await watching.video('currentTime')) > before;
    }, 60);
    await watching.advances();
    assert.ok((await server.text('/live/main/index.m3u8')).includes(broadcast), 'it is the same broadcast');

    await obs.ask('StopStream');
    // On a starved machine what OBS sent has still to be encoded.
    await until('EXT-X-ENDLIST', async () => (await body()).includes('#EXT-X-ENDLIST'), 60);
    await until('the page says that the stream has ended', async () => /has ended/.test(await watching.words()), 60);
    assert.match(server.output(), /the encoder unpublished/);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });
});

describe('OBS is refused', () => {
  let server;
  before(async () => { server = await startServer({ config: SHORT_LADDER }); });
  after(async () => { await server?.stop(); });

  /** Starts OBS, waits until it has given up, and hands over what it logged. */
  async function givesUp(target) {
    const obs = await startObs(target);
    try {
      await until('OBS gives up', () => /Connection to \S+ failed/.test(obs.output()), 60);
      assert.equal((await obs.ask('GetStreamStatus')).outputActive, false);
      assert.equal((await server.json('/api/streams/main')).live, false);
      return obs.output();
    } finally {
      await obs.kill();
    }
  }

  test('with a wrong key, and told so', async () => {
    const log = await givesUp({ server: `rtmp://127.0.0.1:${server.ports.rtmp}/live`, key: `main_${'a'.repeat(26)}` });
    assert.match(log, /NetStream\.Publish\.\w+ \(the stream key is wrong/);
    assert.match(server.output(), /publisher cut off.*the stream key is wrong/);
  });

  test('by itself over rtmps:// with a certificate that nobody vouches for', async () => {
    await givesUp({ server: `rtmps://127.0.0.1:${server.ports.rtmps}/live`, key: await server.key() });
    assert.match(server.output(), /publisher cut off.*BadCertificate/);
  });
});

// A streamer publishes over RTMPS and a browser plays it: LL-HLS and DASH, every quality, with the delay read off the picture.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock, readDelay } from './support/clock.mjs';
import { startServer, until } from './support/server.mjs';

const shots = process.env.GHOST_LIVE_SHOTS ?? join(tmpdir(), 'ghost-live-shots');
const stats = (page) => page.evaluate(() => window.ghostLive.player.stats);
const delay = (page) => page.evaluate(`(${readDelay})(window.ghostLive.player)`);

async function playing(page) {
  await until('the page plays', async () => {
    const { state, framesDecoded } = await stats(page);
    return state === 'playing' && framesDecoded > 0;
  });
}

/** Delays read off the picture over `seconds`, ascending, milliseconds. */
async function delays(page, seconds) {
  const read = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const ms = await delay(page);
    if (ms !== null) read.push(ms);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return read.sort((a, b) => a - b);
}

const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];

describe('an RTMPS publish plays in the browser', () => {
  let server;
  let encoder;
  let browser;

  before(async () => {
    await mkdir(shots, { recursive: true });
    server = await startServer({ config: '[streams.main]\n[streams.demo]\n' });
    encoder = publishClock(await server.rtmps());
    browser = await launch();
    await server.live();
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    await server?.stop();
  });

  for (const protocol of ['hls', 'dash']) {
    test(`over ${protocol}, frames advance and the delay is read off the picture`, async (t) => {
      const page = await open(browser, `${server.url}/watch/main${protocol === 'dash' ? '?protocol=dash' : ''}`);
      await playing(page);
      const first = (await stats(page)).framesDecoded;
      await until('frames advance', async () => (await stats(page)).framesDecoded > first + 30);
      await until('the clock can be read', async () => (await delay(page)) !== null);
      // The player may still be on its way from the join to its target delay.
      await delays(page, 8);
      const read = await delays(page, 10);
      assert.ok(read.length > 20, `the clock was read ${read.length} times only`);
      const { transport } = await stats(page);
      assert.equal(transport, protocol === 'dash' ? 'dash' : 'll-hls');
      t.diagnostic(`${protocol}: delay p50 ${quantile(read, 0.5)} ms, p95 ${quantile(read, 0.95)} ms (${read.length} frames read)`);
      // Wide on purpose: how low it is belongs into the bench; that it is live at all belongs here.
      assert.ok(quantile(read, 0.5) < 8_000, `median delay ${quantile(read, 0.5)} ms`);
      await page.screenshot({ path: join(shots, `watch-${protocol}.png`) });
      await page.context().close();
    });
  }

  test('every quality is reached by choice', async () => {
    const page = await open(browser, `${server.url}/watch/main`);
    await playing(page);
    const { levels } = await stats(page);
    assert.deepEqual(levels.map((level) => level.height).sort((a, b) => b - a), [720, 480, 360]);
    for (const level of levels) {
      await page.evaluate((name) => window.ghostLive.player.setQuality(name), level.name);
      await until(`${level.name} is painted`, async () => {
        const height = await page.evaluate(() => window.ghostLive.player.shadowRoot.querySelector('video').videoHeight);
        return height === level.height && (await delay(page)) !== null;
      });
    }
    await page.context().close();
  });

  test('two tabs of one profile over HTTP/1.1 both play', async () => {
    const first = await open(browser, `${server.url}/watch/main`);
    const second = await first.context().newPage();
    await second.goto(`${server.url}/watch/main`);
    await Promise.all([playing(first), playing(second)]);
    for (const page of [first, second]) {
      const { framesDecoded } = await stats(page);
      await page.bringToFront();
      await until('frames advance', async () => (await stats(page)).framesDecoded > framesDecoded + 30);
    }
    await first.context().close();
  });

  test('the page of a stream that is not live waits, and plays by itself when it goes live', async () => {
    const page = await open(browser, `${server.url}/watch/demo`);
    await until('the page waits', async () => (await stats(page)).state === 'waiting');
    await page.screenshot({ path: join(shots, 'waiting.png') });
    const other = publishClock(await server.rtmps('demo'), { fps: 15 });
    try {
      await until('it plays', async () => (await stats(page)).state === 'playing', 40);
      // The stream beside it goes on undisturbed.
      assert.equal((await server.json('/api/streams/main')).live, true);
    } finally {
      await other.stop();
    }
    await until('the page says that it ended', async () => ['ended', 'waiting'].includes((await stats(page)).state), 30);
    await page.screenshot({ path: join(shots, 'ended.png') });
    await page.context().close();
  });

  test('the home page lists what is live', async () => {
    const page = await open(browser, server.url);
    await page.getByRole('link', { name: /main/ }).first().waitFor();
    await page.screenshot({ path: join(shots, 'home.png') });
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });
});

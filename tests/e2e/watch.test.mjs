// A streamer publishes over RTMPS and a browser plays it: LL-HLS and DASH, every quality, with the delay read off the picture.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { startServer, until } from './support/server.mjs';
import { quantile, viewer } from './support/viewer.mjs';

const shots = process.env.GHOST_LIVE_SHOTS ?? join(tmpdir(), 'ghost-live-shots');
const watcher = (page) => viewer((expression) => page.evaluate(expression));

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
      const watching = watcher(page);
      await watching.playing();
      await watching.advances();
      await until('the clock can be read', async () => (await watching.delay()) !== null);
      // The player may still be on its way from the join to its target delay.
      await watching.delays(8);
      const read = await watching.delays(10);
      const { transport } = await watching.stats();
      assert.equal(transport, protocol === 'dash' ? 'dash' : 'll-hls');
      t.diagnostic(`${protocol}: delay p50 ${quantile(read, 0.5)} ms, p95 ${quantile(read, 0.95)} ms (${read.length} frames read)`);
      // Wide on purpose: how low it is belongs into the bench; that it is live at all belongs here.
      assert.ok(quantile(read, 0.5) < 8_000, `median delay ${quantile(read, 0.5)} ms`);
      await page.screenshot({ path: join(shots, `watch-${protocol}.png`) });
      await page.context().close();
    });
  }

  test('the page of a stream that is not live waits, and plays by itself when it goes live', async () => {
    const page = await open(browser, `${server.url}/watch/demo`);
    await until('the page waits', async () => (await watcher(page).stats()).state === 'waiting');
    await page.screenshot({ path: join(shots, 'waiting.png') });
    const other = publishClock(await server.rtmps('demo'), { fps: 15 });
    try {
      await until('it plays', async () => (await watcher(page).stats()).state === 'playing', 40);
      // The stream beside it goes on undisturbed.
      assert.equal((await server.json('/api/streams/main')).live, true);
    } finally {
      await other.stop();
    }
    await until('the page says that it ended', async () => ['ended', 'waiting'].includes((await watcher(page).stats()).state), 30);
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

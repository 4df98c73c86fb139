// Firefox plays the watch page: LL-HLS by hls.js over its own Media Source, with the delay read off the picture.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { publishClock } from './support/clock.mjs';
import { launchFirefox, openFirefox } from './support/firefox.mjs';
import { startServer, until } from './support/server.mjs';
import { quantile, viewer } from './support/viewer.mjs';

const shots = process.env.GHOST_LIVE_SHOTS ?? join(tmpdir(), 'ghost-live-shots');

describe('Firefox', () => {
  let server;
  let encoder;
  let browser;

  before(async () => {
    await mkdir(shots, { recursive: true });
    server = await startServer();
    encoder = publishClock(await server.rtmps());
    browser = await launchFirefox();
    await server.live();
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    await server?.stop();
  });

  test('plays an RTMPS publish, changes quality and shows the end', async (t) => {
    const { page, complaints } = await openFirefox(browser, `${server.url}/watch/main?protocol=hls`);
    const watching = viewer((expression) => page.evaluate(expression));
    await watching.playing();
    await watching.advances();
    // On its way from the join to the target delay.
    await watching.delays(5);
    const delays = await watching.delays(5);
    const { transport, levels, stalls, framesDropped, framesDecoded } = await watching.stats();
    assert.equal(transport, 'll-hls');
    t.diagnostic(
      `${await browser.version()}: delay p50 ${quantile(delays, 0.5)} ms, p95 ${quantile(delays, 0.95)} ms; `
      + `${stalls} stalls, ${framesDropped} of ${framesDecoded} frames dropped`,
    );
    // Wide on purpose, as for Chromium: how low it is belongs into the bench.
    assert.ok(quantile(delays, 0.5) < 8_000, `median delay ${quantile(delays, 0.5)} ms`);
    await page.screenshot({ path: join(shots, 'firefox.png') });

    assert.deepEqual(levels.map((level) => level.height).sort((a, b) => b - a), [720, 480, 360]);
    for (const level of levels) {
      await watching.choose(level);
      await until(`the clock is read off ${level.name}`, async () => (await watching.delay()) !== null);
    }

    await encoder.stop();
    await until('the page says that the stream has ended', async () => /has ended/.test(await watching.words()), 30);
    assert.equal((await watching.stats()).state, 'ended');
    await page.screenshot({ path: join(shots, 'firefox-ended.png') });
    assert.deepEqual(complaints, []);
  });
});

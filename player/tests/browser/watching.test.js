// The watch page in a real browser, against the mock edge: it plays every way there is.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { frames, level, state, stats, until } from './browser.js';
import { stage } from './stage.js';

const on = stage();

describe('watching', () => {
  it('plays in low delay, reaches every quality, and keeps to the content security policy', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await frames(page, 60);
    const first = await stats(page);
    assert.equal(first.transport, 'll-hls');
    assert.ok(first.delayS !== null && first.delayS > 0.5, `delay ${first.delayS}`);
    // To the live edge, not to the clock: the mock's encoder shares the machine with the browser and may lag.
    await until(page, ({ distanceS, targetS }) => distanceS !== null && targetS !== null && distanceS < targetS + 0.7);
    assert.deepEqual(first.levels.map(({ name }) => name).sort(), ['v-240p30', 'v-source']);

    for (const [asked, name] of /** @type {[string, string | null][]} */ ([['v-240p30', 'v-240p30'], ['480p', 'v-source'], ['auto', null]])) {
      await page.evaluate((quality) => window.ghostLive.player.setQuality(quality), asked);
      if (name) await level(page, name);
      await frames(page, 20);
    }
    assert.deepEqual(on.complaints, []);
  });

  it('plays DASH on request', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo?protocol=dash');
    await frames(page, 150);
    assert.equal((await stats(page)).transport, 'dash');
    await until(page, ({ delayS }) => delayS !== null && delayS < 6);
    await page.evaluate(() => window.ghostLive.player.setQuality('v-240p30'));
    await level(page, 'v-240p30');
    assert.deepEqual(on.complaints, []);
  });

  it('waits for the stream, plays it by itself, says that it ended, and plays the next', async () => {
    const page = await on.open('/watch/demo');
    await state(page, 'waiting');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /Not live yet/);
    await on.server.start('demo');
    await frames(page);
    on.server.stop('demo');
    await state(page, 'ended');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /has ended/);
    await on.server.start('demo');
    await frames(page);
    assert.deepEqual(on.complaints, []);
  });

  it('never asks for the same part over and over, wherever in a segment it begins', async () => {
    await on.server.start('demo');
    for (let visit = 0; visit < 4; visit++) {
      const page = await on.context().newPage();
      /** @type {Map<string, number>} */
      const asked = new Map();
      page.on('request', (request) => {
        const url = request.url();
        if (url.includes('/media/')) asked.set(url, (asked.get(url) ?? 0) + 1);
      });
      await page.goto(`${on.base}/watch/demo`);
      await frames(page, 30);
      const most = Math.max(...asked.values());
      assert.ok(most <= 3, `a part was asked for ${most} times`);
      await page.close();
      await new Promise((resolve) => setTimeout(resolve, 300 * visit));
    }
  });

  it('plays in two tabs of one profile over six connections', async () => {
    await on.server.start('demo');
    const pages = [await on.open('/watch/demo'), await on.open('/watch/demo')];
    for (const page of pages) await frames(page, 60);
    for (const page of pages) await frames(page, 60);
    assert.ok(on.server.mostOpen <= 6, `${on.server.mostOpen} requests at once`);
  });

  it('says in words what is wrong', async () => {
    const page = await on.open('/watch/nobody');
    await state(page, 'missing');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /no such stream/);
    await page.getByRole('button', { name: 'Look again' }).waitFor();
    const odd = await on.open('/watch/UPPER');
    assert.match(await odd.locator('main').innerText(), /no such stream/);
  });
});

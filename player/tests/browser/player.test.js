// The pages in a real browser against the mock edge.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { MockServer, SECRET } from '../../mock/server.js';
import { frames, launch, state, stats } from './browser.js';

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {import('playwright-core').BrowserContext} */
let context;
/** @type {MockServer} */
let server;
/** @type {string} */
let base;
/** @type {string[]} */
let complaints;

before(async () => {
  browser = await launch();
});

after(() => browser.close());

beforeEach(async () => {
  server = new MockServer(['demo', 'other']);
  base = await server.listen();
  context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  complaints = [];
});

afterEach(async () => {
  await context.close();
  await server.close();
});

/** @param {string} path */
async function open(path) {
  const page = await context.newPage();
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => /Content.Security.Policy/i.test(message.text()) && complaints.push(message.text()));
  page.on('request', (request) => request.url().startsWith(base) || /^(data|blob):/.test(request.url()) || complaints.push(`left the server: ${request.url()}`));
  await page.goto(base + path);
  return page;
}

describe('watching', () => {
  it('plays in low delay, reaches every quality, and keeps to the content security policy', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 60);
    const first = await stats(page);
    assert.equal(first.transport, 'll-hls');
    assert.ok(first.delayS > 0.5, `delay ${first.delayS}`);
    // To the live edge, not to the clock: the mock's encoder shares the machine with the browser and may lag.
    await page.waitForFunction(
      () => {
        const { distanceS, targetS } = /** @type {any} */ (window).ghostLive.player.stats;
        return distanceS !== null && distanceS < targetS + 0.7;
      },
      null,
      { timeout: 40_000, polling: 250 },
    );
    assert.deepEqual(first.levels.map((/** @type {{ name: string }} */ { name }) => name).sort(), ['v-240p30', 'v-source']);

    for (const [asked, name] of [['v-240p30', 'v-240p30'], ['480p', 'v-source'], ['auto', null]]) {
      await page.evaluate((quality) => /** @type {any} */ (window).ghostLive.player.setQuality(quality), asked);
      if (name) await page.waitForFunction((level) => /** @type {any} */ (window).ghostLive.player.stats.level === level, name, { timeout: 15_000 });
      await frames(page, 20);
    }
    assert.deepEqual(complaints, []);
  });

  it('plays DASH on request', async () => {
    await server.start('demo');
    const page = await open('/watch/demo?protocol=dash');
    await frames(page, 150, 20_000);
    const now = await stats(page);
    assert.equal(now.transport, 'dash');
    assert.ok(now.delayS < 6, `delay ${now.delayS}`);
    await page.evaluate(() => /** @type {any} */ (window).ghostLive.player.setQuality('v-240p30'));
    await page.waitForFunction(() => /** @type {any} */ (window).ghostLive.player.stats.level === 'v-240p30', null, { timeout: 15_000 });
    assert.deepEqual(complaints, []);
  });

  it('waits for the stream, plays it by itself, says that it ended, and plays the next', async () => {
    const page = await open('/watch/demo');
    await state(page, 'waiting');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /Not live yet/);
    await server.start('demo');
    await frames(page);
    server.stop('demo');
    await state(page, 'ended', 20_000);
    assert.match(await page.locator('ghost-live-player h2').innerText(), /has ended/);
    await server.start('demo');
    await frames(page);
    assert.deepEqual(complaints, []);
  });

  it('never asks for the same part over and over, wherever in a segment it begins', async () => {
    await server.start('demo');
    for (let visit = 0; visit < 4; visit++) {
      const page = await context.newPage();
      /** @type {Map<string, number>} */
      const asked = new Map();
      page.on('request', (request) => {
        const url = request.url();
        if (url.includes('/media/')) asked.set(url, (asked.get(url) ?? 0) + 1);
      });
      await page.goto(`${base}/watch/demo`);
      await frames(page, 30);
      const most = Math.max(...asked.values());
      assert.ok(most <= 3, `a part was asked for ${most} times`);
      await page.close();
      await new Promise((resolve) => setTimeout(resolve, 300 * visit));
    }
  });

  it('goes on without a reload when the server died and came back', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await page.evaluate(() => (/** @type {any} */ (window).untouched = true));
    await frames(page, 60);
    server.die();
    await state(page, 'reconnecting', 20_000);
    await page.waitForTimeout(3000);
    server.revive();
    await frames(page, 60, 30_000);
    assert.equal(await page.evaluate(() => /** @type {any} */ (window).untouched), true);
    // Back at the target, not merely alive.
    await page.waitForFunction(
      () => {
        const { distanceS, targetS } = /** @type {any} */ (window).ghostLive.player.stats;
        return distanceS !== null && distanceS < targetS + 1;
      },
      null,
      { timeout: 40_000, polling: 250 },
    );
    assert.deepEqual(complaints, []);
  });

  it('goes on over DASH as well, and notices its end', async () => {
    await server.start('demo');
    const page = await open('/watch/demo?protocol=dash');
    await frames(page, 60, 20_000);
    server.die();
    await page.waitForTimeout(4000);
    server.revive();
    await frames(page, 60, 40_000);
    assert.equal((await stats(page)).transport, 'dash');
    server.stop('demo');
    await state(page, 'ended', 25_000);
    assert.deepEqual(complaints, []);
  });

  it('goes on behind a discontinuity when the encoder came back within the grace period', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 60);
    server.cut('demo');
    await state(page, 'buffering', 20_000);
    await page.waitForTimeout(6000);
    assert.match(await page.locator('ghost-live-player .busy').innerText(), /cut/);
    server.comeBack('demo');
    await frames(page, 60, 40_000);
    assert.deepEqual(complaints, []);
  });

  it('changes over when the broadcast was replaced after a cut', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 60);
    server.cut('demo');
    await state(page, 'buffering', 20_000);
    await page.waitForTimeout(1500);
    await server.start('demo');
    await frames(page, 60, 40_000);
    assert.deepEqual(complaints, []);
  });

  it('returns to its delay after a stall', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 90);
    server.hold();
    await page.waitForFunction(() => /** @type {any} */ (window).ghostLive.player.stats.stalls > 0, null, { timeout: 30_000, polling: 100 });
    await page.waitForTimeout(1500);
    server.release();
    await frames(page, 30, 30_000);
    await page.waitForFunction(
      () => {
        const { distanceS, targetS } = /** @type {any} */ (window).ghostLive.player.stats;
        return distanceS !== null && Math.abs(distanceS - targetS) < 0.3 && targetS < 1.6;
      },
      null,
      { timeout: 60_000, polling: 250 },
    );
  });

  it('plays in two tabs of one profile over six connections', async () => {
    await server.start('demo');
    const pages = [await open('/watch/demo'), await open('/watch/demo')];
    for (const page of pages) await frames(page, 60, 20_000);
    const before = await Promise.all(pages.map(stats));
    await new Promise((resolve) => setTimeout(resolve, 6000));
    for (const [index, page] of pages.entries()) {
      const now = await stats(page);
      assert.ok(now.framesDecoded > before[index]?.framesDecoded + 60, 'frames advance');
    }
    assert.ok(server.mostOpen <= 6, `${server.mostOpen} requests at once`);
  });

  it('obeys the keyboard and remembers the volume', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page);
    const video = (/** @type {string} */ property) => page.evaluate((name) => /** @type {any} */ (window).ghostLive.player.video[name], property);
    await page.keyboard.press('k');
    assert.equal(await video('paused'), true);
    await page.keyboard.press('Space');
    assert.equal(await video('paused'), false);
    const muted = await video('muted');
    await page.keyboard.press('m');
    assert.equal(await video('muted'), !muted);
    await page.evaluate(() => {
      const { video } = /** @type {any} */ (window).ghostLive.player;
      video.muted = false;
      video.volume = 0.6;
    });
    await page.keyboard.press('ArrowUp');
    assert.equal(await video('volume'), 0.7);
    await page.keyboard.press('ArrowLeft');
    await page.getByRole('button', { name: /Jump to live/ }).waitFor({ timeout: 5000 });
    await page.keyboard.press('l');
    await page.getByRole('button', { name: /^Live/ }).waitFor({ timeout: 5000 });
    await page.reload();
    await state(page, 'playing');
    assert.equal(await video('volume'), 0.7);
  });

  it('offers its qualities in a menu that the keyboard reaches', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page);
    await page.getByRole('button', { name: 'Settings' }).focus();
    await page.keyboard.press('Enter');
    const item = page.getByRole('menuitemradio', { name: /240p/ });
    await item.waitFor();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => /** @type {any} */ (window).ghostLive.player.stats.level === 'v-240p30', null, { timeout: 15_000 });
    assert.equal(await page.getByRole('menu').count(), 0);
  });

  it('says in words what is wrong', async () => {
    const page = await open('/watch/nobody');
    await state(page, 'missing');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /no such stream/);
    await page.getByRole('button', { name: 'Look again' }).waitFor();
    const odd = await open('/watch/UPPER');
    assert.match(await odd.locator('main').innerText(), /no such stream/);
  });
});

describe('the other pages', () => {
  it('home lists what is live and keeps up', async () => {
    await server.start('demo');
    const page = await open('/');
    await page.getByRole('link', { name: /demo/ }).waitFor();
    assert.equal(await page.locator('.card').count(), 1);
    await page.getByRole('link', { name: 'other' }).waitFor();
    assert.deepEqual(complaints, []);
  });

  it('embed is the player alone', async () => {
    await server.start('demo');
    const page = await open('/embed/demo');
    await frames(page);
    assert.deepEqual(complaints, []);
  });

  it('studio keeps its secret out of the address, shows and rotates the key', async () => {
    await server.start('demo');
    const page = await open(`/studio/demo#${SECRET}`);
    const key = page.getByLabel('Stream key', { exact: true });
    await key.waitFor();
    assert.equal(new URL(page.url()).hash, '');
    await page.waitForFunction(() => /** @type {HTMLInputElement} */ (document.querySelector('#key')).value !== '');
    const before = await key.inputValue();
    assert.equal(await key.getAttribute('type'), 'password');
    await page.getByRole('button', { name: 'Show', exact: true }).click();
    assert.equal(await key.getAttribute('type'), 'text');
    await page.getByRole('button', { name: 'New key…' }).click();
    await page.getByRole('button', { name: 'Make a new key' }).click();
    await page.waitForFunction((old) => /** @type {HTMLInputElement} */ (document.querySelector('#key')).value !== old, before);
    await page.reload();
    await key.waitFor();
    await frames(page);
    assert.deepEqual(complaints, []);
  });

  it('studio without its link says how to open it', async () => {
    for (const path of ['/studio/demo', '/studio/demo#wrong']) {
      const page = await open(path);
      await page.getByText('This studio opens with its link').waitFor();
    }
  });
});

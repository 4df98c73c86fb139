// The pages in a real browser against the mock edge.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { MockServer, SECRET } from '../../mock/server.js';
import { DEADLINE_MS, frames, launch, state, stats, until } from './browser.js';

/** @typedef {import('playwright-core').Page} Page */

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
  context.setDefaultTimeout(DEADLINE_MS);
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

/** Waits until the focus is on a control with these words. @param {Page} page @param {RegExp} words */
async function focused(page, words) {
  await page.waitForFunction(
    ({ source, flags }) => {
      let element = document.activeElement;
      while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
      return new RegExp(source, flags).test(element?.getAttribute('aria-label') ?? element?.textContent.trim() ?? '');
    },
    { source: words.source, flags: words.flags },
    { polling: 50 },
  );
}

/** @param {Page} page @param {string} name */
async function level(page, name) {
  await page.waitForFunction((wanted) => window.ghostLive.player.stats.level === wanted, name);
}

describe('watching', () => {
  it('plays in low delay, reaches every quality, and keeps to the content security policy', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
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
    assert.deepEqual(complaints, []);
  });

  it('plays DASH on request', async () => {
    await server.start('demo');
    const page = await open('/watch/demo?protocol=dash');
    await frames(page, 150);
    assert.equal((await stats(page)).transport, 'dash');
    await until(page, ({ delayS }) => delayS !== null && delayS < 6);
    await page.evaluate(() => window.ghostLive.player.setQuality('v-240p30'));
    await level(page, 'v-240p30');
    assert.deepEqual(complaints, []);
  });

  it('waits for the stream, plays it by itself, says that it ended, and plays the next', async () => {
    const page = await open('/watch/demo');
    await state(page, 'waiting');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /Not live yet/);
    await server.start('demo');
    await frames(page);
    server.stop('demo');
    await state(page, 'ended');
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
    await page.evaluate(() => (window.untouched = true));
    await frames(page, 60);
    server.die();
    await state(page, 'reconnecting');
    await page.waitForTimeout(3000);
    server.revive();
    await frames(page, 60);
    assert.equal(await page.evaluate(() => window.untouched), true);
    // Back at the target, not merely alive.
    await until(page, ({ distanceS, targetS }) => distanceS !== null && targetS !== null && distanceS < targetS + 1);
    assert.deepEqual(complaints, []);
  });

  it('goes on over DASH as well, and notices its end', async () => {
    await server.start('demo');
    const page = await open('/watch/demo?protocol=dash');
    await frames(page, 60);
    server.die();
    await page.waitForTimeout(4000);
    server.revive();
    await frames(page, 60);
    assert.equal((await stats(page)).transport, 'dash');
    server.stop('demo');
    await state(page, 'ended');
    assert.deepEqual(complaints, []);
  });

  it('goes on behind a discontinuity when the encoder came back within the grace period', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 60);
    server.cut('demo');
    await state(page, 'buffering');
    await page.locator('ghost-live-player .busy', { hasText: /cut/ }).waitFor();
    server.comeBack('demo');
    await frames(page, 60);
    assert.deepEqual(complaints, []);
  });

  it('changes over when the broadcast was replaced after a cut', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 60);
    server.cut('demo');
    await state(page, 'buffering');
    await page.waitForTimeout(1500);
    await server.start('demo');
    await frames(page, 60);
    assert.deepEqual(complaints, []);
  });

  it('returns to its delay after a stall', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page, 90);
    server.hold();
    await until(page, ({ stalls }) => stalls > 0);
    await page.waitForTimeout(1500);
    server.release();
    await frames(page, 30);
    // Each further stall, as a busy machine has them, doubles the time before what it added is taken back.
    await until(page, ({ distanceS, targetS }) => distanceS !== null && targetS !== null && Math.abs(distanceS - targetS) < 0.3 && targetS < 1.6, 400_000);
  });

  it('plays in two tabs of one profile over six connections', async () => {
    await server.start('demo');
    const pages = [await open('/watch/demo'), await open('/watch/demo')];
    for (const page of pages) await frames(page, 60);
    for (const page of pages) await frames(page, 60);
    assert.ok(server.mostOpen <= 6, `${server.mostOpen} requests at once`);
  });

  it('obeys the keyboard and remembers the volume', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page);
    const video = (/** @type {'paused' | 'muted' | 'volume'} */ property) => page.evaluate((name) => window.ghostLive.player.video[name], property);
    // Frames are decoded before playback has begun; the key does what the button says.
    const button = (/** @type {string} */ name) => page.getByRole('button', { name, exact: true }).first().waitFor({ state: 'attached' });
    await button('pause');
    await page.keyboard.press('k');
    assert.equal(await video('paused'), true);
    await button('play');
    await page.keyboard.press('Space');
    await button('pause');
    assert.equal(await video('paused'), false);
    const muted = await video('muted');
    await page.keyboard.press('m');
    assert.equal(await video('muted'), !muted);
    await page.evaluate(() => {
      const { video } = window.ghostLive.player;
      video.muted = false;
      video.volume = 0.6;
    });
    await page.keyboard.press('ArrowUp');
    assert.equal(await video('volume'), 0.7);
    await page.keyboard.press('ArrowLeft');
    await page.getByRole('button', { name: 'seek to live' }).waitFor();
    await page.keyboard.press('l');
    await page.getByRole('button', { name: 'playing live' }).waitFor();
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
    await focused(page, /^Quality/);
    await page.keyboard.press('Enter');
    await focused(page, /480p source/);
    await page.keyboard.press('ArrowDown');
    await focused(page, /^240p/);
    await page.keyboard.press('Enter');
    await level(page, 'v-240p30');
    await page.getByRole('menu').waitFor({ state: 'hidden' });
    await focused(page, /settings/);
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('menuitem', { name: /Quality.*240p/ }).waitFor();
  });

  it('leaves an open menu as it is when the quality changes by itself', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page);
    await page.getByRole('button', { name: 'Settings' }).focus();
    await page.keyboard.press('Enter');
    await focused(page, /^Quality/);
    await page.keyboard.press('Enter');
    await focused(page, /480p source/);
    // What media-chrome sets when the picture has another size.
    await page.evaluate(() => {
      const menu = window.ghostLive.player.shadowRoot?.querySelector('ghost-live-quality-menu');
      menu?.setAttribute('mediawidth', '426');
      menu?.setAttribute('mediaheight', '240');
    });
    await focused(page, /480p source/);
    await page.keyboard.press('Escape');
    await page.getByRole('menuitemradio', { name: 'Auto (240p)', includeHidden: true }).waitFor({ state: 'attached' });
    assert.deepEqual(complaints, []);
  });

  it('leaves the browser its shortcuts, text its letters and buttons their space', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page);
    const fullscreen = () => page.evaluate(() => document.fullscreenElement?.localName ?? null);
    await page.keyboard.press('Control+f');
    await page.evaluate(() => document.body.append(document.createElement('input')));
    await page.locator('body > input').pressSequentially('kmf');
    await page.getByRole('button', { name: 'enter fullscreen mode' }).focus();
    assert.equal(await fullscreen(), null);
    assert.equal(await page.evaluate(() => window.ghostLive.player.video.paused), false);
    await page.keyboard.press('Space');
    await page.waitForFunction(() => document.fullscreenElement?.localName === 'ghost-live-player');
    await page.getByRole('button', { name: 'exit fullscreen mode' }).waitFor();
    await page.keyboard.press('F');
    await page.waitForFunction(() => !document.fullscreenElement);
    assert.equal(await page.evaluate(() => window.ghostLive.player.video.paused), false);
    assert.deepEqual(complaints, []);
  });

  it('plays muted where no sound is allowed, offers to unmute, and does not take that for a wish', async () => {
    await server.start('demo');
    const page = await open('/watch/demo');
    await frames(page);
    const muted = () => page.evaluate(() => window.ghostLive.player.muted);
    assert.equal(await muted(), true);
    await page.locator('ghost-live-player .unmute').click();
    assert.equal(await muted(), false);
    await page.locator('ghost-live-player .unmute').waitFor({ state: 'hidden' });
    await page.keyboard.press('m');
    assert.equal(await muted(), true);
    // A wish is kept, but not one for a player that the page has muted.
    const preview = await open('/watch/demo?muted');
    await frames(preview);
    await preview.keyboard.press('m');
    assert.equal(await preview.evaluate(() => window.ghostLive.player.muted), false);
    await preview.goto(`${base}/watch/demo`);
    await frames(preview);
    assert.equal(await preview.evaluate(() => window.ghostLive.player.muted), true);
    assert.equal(await preview.locator('ghost-live-player .unmute').isVisible(), false);
  });

  it('plays at the first press where the page does not by itself', async () => {
    await server.start('demo');
    const page = await open('/watch/demo?autoplay=0');
    await state(page, 'idle');
    await page.getByRole('button', { name: 'play' }).click();
    await frames(page);
    assert.equal(await page.evaluate(() => window.ghostLive.player.muted), false);
    assert.deepEqual(complaints, []);
  });

  it('fits a small phone, bar and menu', async () => {
    await server.start('demo');
    await context.close();
    context = await browser.newContext({ viewport: { width: 320, height: 568 }, hasTouch: true, isMobile: true });
    context.setDefaultTimeout(DEADLINE_MS);
    const page = await open('/watch/demo');
    await frames(page);
    /** Waits until it has slid into the window. @param {import('playwright-core').Locator} locator */
    const fits = async (locator) => {
      const element = await locator.elementHandle();
      await page.waitForFunction((it) => {
        const { left, top, right, bottom } = /** @type {HTMLElement} */ (it).getBoundingClientRect();
        return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight && right > left;
      }, element);
    };
    // Paused, the bar stays.
    await page.getByRole('button', { name: 'pause', exact: true }).tap();
    for (const name of ['play', 'unmute', 'seek to live', 'settings', 'enter fullscreen mode']) {
      await fits(page.getByRole('button', { name, exact: true }).last());
    }
    await page.getByRole('button', { name: 'settings' }).tap();
    await page.getByRole('menuitem', { name: /Quality/ }).tap();
    for (const name of [/480p source/, /^240p/, /^Auto/]) await fits(page.getByRole('menuitemradio', { name }));
    await page.getByRole('menuitemradio', { name: /^240p/ }).tap();
    await page.getByRole('menu').waitFor({ state: 'hidden' });
    await page.getByRole('button', { name: 'play', exact: true }).tap();
    await level(page, 'v-240p30');
    assert.deepEqual(complaints, []);
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

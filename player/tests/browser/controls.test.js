// The controls and the other pages in a real browser, against the mock edge.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SECRET } from '../../mock/server.js';
import { focused, frames, level, state } from './browser.js';
import { stage } from './stage.js';

const on = stage();

describe('controls', () => {
  it('obeys the keyboard and remembers the volume', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
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
    // The key goes by what the controls know, and they hear of it with an event.
    await page.locator('media-volume-range[mediavolume="0.6"]').first().waitFor({ state: 'attached' });
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
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
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
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
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
    assert.deepEqual(on.complaints, []);
  });

  it('leaves the browser its shortcuts, text its letters and buttons their space', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
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
    assert.deepEqual(on.complaints, []);
  });

  it('plays muted where no sound is allowed, offers to unmute, and does not take that for a wish', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await frames(page);
    const muted = () => page.evaluate(() => window.ghostLive.player.muted);
    assert.equal(await muted(), true);
    await page.locator('ghost-live-player .unmute').click();
    assert.equal(await muted(), false);
    await page.locator('ghost-live-player .unmute').waitFor({ state: 'hidden' });
    await page.keyboard.press('m');
    assert.equal(await muted(), true);
    // A wish is kept, but not one for a player that the page has muted.
    const preview = await on.open('/watch/demo?muted');
    await frames(preview);
    await preview.keyboard.press('m');
    assert.equal(await preview.evaluate(() => window.ghostLive.player.muted), false);
    await preview.goto(`${on.base}/watch/demo`);
    await frames(preview);
    assert.equal(await preview.evaluate(() => window.ghostLive.player.muted), true);
    assert.equal(await preview.locator('ghost-live-player .unmute').isVisible(), false);
  });

  it('plays at the first press where the page does not by itself', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo?autoplay=0');
    await state(page, 'idle');
    await page.getByRole('button', { name: 'play' }).click();
    await frames(page);
    assert.equal(await page.evaluate(() => window.ghostLive.player.muted), false);
    assert.deepEqual(on.complaints, []);
  });

  it('fits a small phone, bar and menu', async () => {
    await on.server.start('demo');
    await on.renew({ viewport: { width: 320, height: 568 }, hasTouch: true, isMobile: true });
    const page = await on.open('/watch/demo');
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
    assert.deepEqual(on.complaints, []);
  });
});

describe('the other pages', () => {
  it('home lists what is live and keeps up', async () => {
    await on.server.start('demo');
    const page = await on.open('/');
    await page.getByRole('link', { name: /demo/ }).waitFor();
    assert.equal(await page.locator('.card').count(), 1);
    await page.getByRole('link', { name: 'other' }).waitFor();
    assert.deepEqual(on.complaints, []);
  });

  it('embed is the player alone', async () => {
    await on.server.start('demo');
    const page = await on.open('/embed/demo');
    await frames(page);
    assert.deepEqual(on.complaints, []);
  });

  it('studio keeps its secret out of the address, shows and rotates the key', async () => {
    await on.server.start('demo');
    const page = await on.open(`/studio/demo#${SECRET}`);
    const key = page.getByLabel('Stream key', { exact: true });
    await key.waitFor();
    assert.equal(new URL(page.url()).hash, '');
    await page.waitForFunction(() => /** @type {HTMLInputElement} */ (document.querySelector('#key')).value !== '');
    const before = await key.inputValue();
    assert.equal(await key.getAttribute('type'), 'password');
    await page.getByRole('button', { name: 'Show stream key' }).click();
    assert.equal(await key.getAttribute('type'), 'text');
    await page.getByRole('button', { name: 'New key…' }).click();
    await page.getByRole('button', { name: 'Make a new key' }).click();
    await page.waitForFunction((old) => /** @type {HTMLInputElement} */ (document.querySelector('#key')).value !== old, before);
    await page.reload();
    await key.waitFor();
    await frames(page);
    assert.deepEqual(on.complaints, []);
  });

  it('studio says of a key that cannot be shown that it still works, and offers a new one', async () => {
    await on.server.start('demo');
    const stream = on.server.streams.get('demo');
    assert.ok(stream);
    stream.key = null;
    const page = await on.open(`/studio/demo#${SECRET}`);
    const key = page.getByLabel('Stream key', { exact: true });
    const hidden = page.getByText('The server can no longer show this key');
    await hidden.waitFor();
    assert.equal(await key.isVisible(), false);
    await page.getByRole('button', { name: 'New key…' }).click();
    await page.getByRole('button', { name: 'Make a new key' }).click();
    await hidden.waitFor({ state: 'hidden' });
    await key.waitFor();
    assert.equal(await key.inputValue(), /** @type {string | null} */ (stream.key));
    assert.deepEqual(on.complaints, []);
  });

  it('studio without its link says how to open it', async () => {
    for (const path of ['/studio/demo', '/studio/demo#wrong']) {
      const page = await on.open(path);
      await page.getByText('This studio opens with its link').waitFor();
    }
  });
});

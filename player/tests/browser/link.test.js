// Watch links in a real browser, against the mock edge: a token lets in, runs out, is taken back, and is for so many devices.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { frames, level, state, stats } from './browser.js';
import { stage } from './stage.js';

const on = stage();
const TOKEN = 'header.claims.signature';
const LINK = `/watch/demo#token=${TOKEN}`;

/** What stands in place of the picture. @param {import('playwright-core').Page} page */
const words = (page) => page.locator('ghost-live-player .card:not([hidden])').innerText();

/** The requests that carry the token, from now on, and where it leaks. @param {import('playwright-core').Page} page */
function carriers(page) {
  const found = { carried: /** @type {string[]} */ ([]), leaked: /** @type {string[]} */ ([]), all: 0 };
  page.on('request', (request) => {
    found.all++;
    const { pathname } = new URL(request.url());
    if (request.headers().authorization === `Bearer ${TOKEN}`) found.carried.push(pathname);
    if (request.url().split('#')[0]?.includes(TOKEN) || request.headers().referer?.includes(TOKEN) || request.postData()?.includes(TOKEN)) found.leaked.push(request.url());
  });
  return found;
}

describe('a watch link', () => {
  for (const [protocol, query] of /** @type {const} */ ([['ll-hls', ''], ['dash', '?protocol=dash']])) {
    it(`plays over ${protocol}, in every quality, and shows its token where it is needed only`, async () => {
      on.server.ticket('demo', TOKEN, { max: 1 });
      const page = await on.context().newPage();
      const found = carriers(page);
      await on.server.start('demo');
      await page.goto(`${on.base}/watch/demo${query}#token=${TOKEN}`);
      await frames(page, 60);
      assert.equal((await stats(page)).transport, protocol);
      await page.evaluate(() => window.ghostLive.player.setQuality('v-240p30'));
      await level(page, 'v-240p30');
      const file = protocol === 'dash' ? 'manifest.mpd' : 'index.m3u8';
      const whep = protocol === 'dash' ? [] : ['/whep/demo'];
      assert.deepEqual([...new Set(found.carried)].sort(), ['/api/streams/demo', `/live/demo/${file}`, ...whep]);
      assert.equal(found.carried.filter((path) => path.startsWith('/live/')).length, 1, 'one session was begun');
      assert.deepEqual(found.leaked, []);
      assert.ok(!(await page.content()).includes(TOKEN), 'the document has the token');
      assert.equal(await page.evaluate((token) => JSON.stringify([localStorage, sessionStorage]).includes(token), TOKEN), false);
      // It is not for others.
      assert.equal(await page.getByRole('button', { name: 'Share' }).isVisible(), false);

      // A reload is no second device, for the page says that it is left; and the link has outlived it.
      await page.reload();
      await frames(page, 30);
      assert.equal(on.server.stream('demo').sessions.size, 2);
      assert.deepEqual(found.leaked, []);
    });
  }

  it('goes on with its session after an outage, and into the next broadcast', async () => {
    on.server.ticket('demo', TOKEN, { max: 1 });
    await on.server.start('demo');
    const page = await on.open(LINK);
    await frames(page, 60);
    on.server.die();
    await state(page, 'reconnecting');
    on.server.revive();
    await frames(page, 60);
    on.server.stop('demo');
    await state(page, 'ended');
    await on.server.start('demo');
    await frames(page, 30);
    // Its token has run out meanwhile: who is in may stay, and reconnect.
    on.server.ticket('demo', TOKEN, { good: 'expired', max: 1 });
    on.server.die();
    await state(page, 'reconnecting');
    on.server.revive();
    await frames(page, 60);
    assert.equal(on.server.stream('demo').sessions.size, 1);
    assert.deepEqual(on.complaints, []);
  });

  it('waits for the stream as any page does', async () => {
    on.server.ticket('demo', TOKEN);
    const page = await on.open(LINK);
    await state(page, 'waiting');
    await on.server.start('demo');
    await frames(page);
    assert.deepEqual(on.complaints, []);
  });

  it('says what is wrong with it, and what to do', async () => {
    await on.server.start('demo');
    on.server.ticket('demo', 'old', { good: 'expired' });
    on.server.ticket('demo', 'gone', { good: 'revoked' });
    on.server.ticket('demo', 'good');
    for (const [link, title] of /** @type {const} */ ([['', 'You need a link'], ['#token=wrong', 'does not work'], ['#token=old', 'has expired'], ['#token=gone', 'no longer valid']])) {
      const page = await on.open(`/watch/demo${link}`);
      await state(page, 'denied');
      assert.match(await words(page), new RegExp(title));
      await page.close();
    }
    // Another link, opened in the same tab, is taken up.
    const page = await on.open('/watch/demo#token=old');
    await state(page, 'denied');
    await page.evaluate(() => (location.hash = '#token=good'));
    await frames(page);
    assert.deepEqual(on.complaints, []);
  });

  it('is in use on as many devices as it is for, until one makes room', async () => {
    on.server.ticket('demo', TOKEN, { max: 1 });
    await on.server.start('demo');
    const first = await on.open(LINK);
    await frames(first);
    const second = await on.open(LINK);
    await state(second, 'denied');
    assert.match(await words(second), /in use elsewhere/);
    await second.getByRole('button', { name: 'Try again' }).click();
    await second.waitForTimeout(1000);
    await state(second, 'denied');
    await first.goto('about:blank');
    await second.getByRole('button', { name: 'Try again' }).click();
    await frames(second);
    assert.deepEqual(on.complaints, []);
  });

  for (const [protocol, query] of /** @type {const} */ ([['ll-hls', ''], ['dash', '?protocol=dash']])) {
    it(`stops over ${protocol} when it is taken back, and asks for nothing more`, async () => {
      on.server.ticket('demo', TOKEN);
      await on.server.start('demo');
      const page = await on.context().newPage();
      await page.goto(`${on.base}/watch/demo${query}#token=${TOKEN}`);
      await frames(page, 60);
      on.server.ticket('demo', TOKEN, { good: 'revoked' });
      const begun = performance.now();
      await state(page, 'denied');
      const tookMs = performance.now() - begun;
      assert.ok(tookMs < 8000, `${Math.round(tookMs)} ms`);
      assert.match(await words(page), /no longer valid/);
      assert.equal(await page.evaluate(() => window.ghostLive.player.video.readyState), 0, 'the picture is gone');
      const found = carriers(page);
      await page.waitForTimeout(5000);
      // The clock is asked, which tells nobody anything.
      assert.ok(found.all <= 1, `${found.all} requests after the end`);
    });
  }

  it('outlives the end of one playback by the streamer', async () => {
    on.server.ticket('demo', TOKEN, { max: 1 });
    await on.server.start('demo');
    const page = await on.open(LINK);
    await frames(page, 30);
    for (const session of on.server.stream('demo').sessions.values()) session.ended = true;
    await state(page, 'denied');
    assert.match(await words(page), /asked to leave/);
    await page.getByRole('button', { name: 'Watch again' }).click();
    await frames(page, 30);
    assert.deepEqual(on.complaints, []);
  });

  it('is needed by those who are watching when the streamer says so, and no more when all may', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await frames(page, 30);
    on.server.ticket('demo', TOKEN, { good: 'expired' });
    await state(page, 'denied');
    assert.match(await words(page), /You need a link/);
    const other = await on.open(LINK);
    await state(other, 'denied');
    on.server.stream('demo').tickets = null;
    await page.getByRole('button', { name: 'Try again' }).click();
    await frames(page);
    await other.getByRole('button', { name: 'Try again' }).click();
    await frames(other);
    assert.deepEqual(on.complaints, []);
  });

  it('stays out of the document where the element is given it as an attribute', async () => {
    on.server.ticket('demo', TOKEN);
    await on.server.start('demo');
    const page = await on.open('/embed/other');
    await page.evaluate((token) => {
      const player = document.createElement('ghost-live-player');
      for (const [name, value] of [['stream', 'demo'], ['autoplay', ''], ['muted', ''], ['token', token]]) player.setAttribute(name ?? '', value ?? '');
      document.body.replaceChildren(player);
      window.ghostLive.player = player;
    }, TOKEN);
    await frames(page);
    assert.ok(!(await page.content()).includes(TOKEN));
    assert.deepEqual(on.complaints, []);
  });
});

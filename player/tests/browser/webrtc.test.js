// WebRTC in a real browser: a second page is the media server, the mock edge passes on what both say.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { focused, frames, level, state, stats, until } from './browser.js';
import { sender } from './sender.js';
import { stage } from './stage.js';

const on = stage();
const TOKEN = 'header.claims.signature';

/** @typedef {{ atMs: number, width: number, luma: number, time: number, transport: string | null, state: string }} Glance */

/** Looks at the picture on screen 20 times a second, from its first frame on. @param {import('playwright-core').Page} page */
async function watch(page) {
  await page.evaluate(() => {
    const canvas = new OffscreenCanvas(16, 9);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d', { willReadFrequently: true }));
    /** @type {Glance[]} */
    const seen = [];
    Object.assign(window, { seen });
    setInterval(() => {
      const { player } = window.ghostLive;
      const { video } = player;
      context.clearRect(0, 0, 16, 9);
      context.drawImage(video, 0, 0, 16, 9);
      const { data } = context.getImageData(0, 0, 16, 9);
      seen.push({ atMs: performance.now(), width: video.videoWidth, luma: Math.max(...data.filter((_, index) => index % 4 < 3)), time: video.currentTime, transport: player.stats.transport, state: player.state });
    }, 50);
  });
}

/** What was seen since `watch`. @param {import('playwright-core').Page} page @returns {Promise<Glance[]>} */
const seen = (page) => page.evaluate(() => /** @type {{ seen: Glance[] }} */ (/** @type {unknown} */ (window)).seen);

/** @param {Glance[]} glances */
function neverBlack(glances) {
  assert.ok(glances.length > 10, `${glances.length} glances`);
  const black = glances.find(({ width, luma }) => width === 0 || luma < 40);
  assert.equal(black, undefined, JSON.stringify(black));
}

/** @param {import('playwright-core').Page} page @param {string} kind */
const plays = async (page, kind, deadlineMs = 30_000) => {
  await until(page, ({ transport, state }) => transport === kind && state === 'playing', deadlineMs).catch((/** @type {unknown} */ error) => {
    throw new Error(`it does not play by ${kind}`, { cause: error });
  });
};

describe('WebRTC', () => {
  /** @type {Awaited<ReturnType<typeof sender>>} */
  let far;
  beforeEach(async () => {
    const browser = on.context().browser();
    if (!browser) throw new Error('no browser');
    far = await sender(browser);
    on.server.whep = far;
    await on.server.start('demo');
  });
  afterEach(() => far.close());

  it('plays first, says so and how late it is, and ends its session on leaving', async () => {
    const page = await on.open('/watch/demo');
    await plays(page, 'webrtc');
    await frames(page, 60);
    await until(page, ({ delayS, fps, details }) => delayS !== null && fps !== null && fps > 5 && details?.rtc?.rttS !== null && details?.bitrate !== null);
    const now = await stats(page);
    assert.ok(now.delayS !== null && now.delayS < 2, `delay ${now.delayS}`);
    assert.equal(now.delayEstimated, false);
    assert.match(now.details?.codec ?? '', /H264 \w{6}, opus/);
    assert.match(now.details?.rtc?.pair ?? '', /host|prflx/);
    assert.match(await page.locator('ghost-live-player .delay').innerText(), /\d\.\d s.*WebRTC/s);
    assert.equal(far.offers.length, 1);
    assert.match(far.offers[0] ?? '', /stereo=1/);
    assert.ok(!/VP8|AV1/.test(far.offers[0] ?? ''));
    await page.goto('about:blank');
    while (!far.gone.length) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual(far.gone, ['anonymous-0']);
    assert.deepEqual(on.complaints, []);
  });

  it('gives way to LL-HLS within three seconds when its offer is never answered', async () => {
    far.refuse = 'silence';
    const page = await on.open('/watch/demo');
    await page.waitForRequest(/\/whep\/demo/).catch(() => undefined);
    await plays(page, 'll-hls');
    // From the load on, with all of the page's own start in it.
    const tookMs = await page.evaluate(() => {
      const found = performance.getEntriesByType('resource').filter(({ name }) => name.includes('/media/'));
      return found[0]?.startTime ?? Infinity;
    });
    assert.ok(tookMs < 3500, `${tookMs} ms`);
    await frames(page, 30);
    assert.deepEqual(on.complaints, []);
  });

  for (const status of [404, 406, 503]) {
    it(`gives way to LL-HLS at once when it is answered ${status}`, async () => {
      far.refuse = { status, kind: 'unavailable' };
      const page = await on.open('/watch/demo');
      await plays(page, 'll-hls');
      const [asked, began] = await page.evaluate(() =>
        ['/whep/', '/index.m3u8'].map((part) => performance.getEntriesByType('resource').find(({ name }) => name.includes(part))?.startTime ?? NaN),
      );
      assert.ok(asked !== undefined && began !== undefined && began - asked < 1000, `${asked} to ${began}`);
      await frames(page, 30);
      assert.equal(far.offers.length, 1);
    });
  }

  it('asks for no WHEP where LL-HLS is asked for, or a browser has no H.264 for it', async () => {
    const page = await on.open('/watch/demo?transport=hls');
    await plays(page, 'll-hls');
    await on.context().addInitScript(() => {
      RTCRtpReceiver.getCapabilities = (kind) => ({ headerExtensions: [], codecs: [{ clockRate: 90000, mimeType: `${kind}/VP8` }] });
    });
    const without = await on.open('/watch/demo');
    await plays(without, 'll-hls');
    await frames(without, 30);
    assert.equal(far.offers.length, 0);
    assert.equal(await without.locator('media-chrome-menu-item.webrtc').getAttribute('hidden'), '');
    assert.deepEqual(on.complaints, []);
  });

  for (const [how, cause] of /** @type {const} */ ([['hangUp', 'is closed'], ['freeze', 'goes silent']])) {
    it(`is taken over by LL-HLS without a black frame when it ${cause}, and takes over again when the network heals`, async () => {
      const page = await on.open('/watch/demo');
      await plays(page, 'webrtc');
      await frames(page, 30);
      await watch(page);
      const beganMs = await page.evaluate(() => performance.now());
      await far[how]();
      await plays(page, 'll-hls');
      await frames(page, 30);
      const down = await seen(page);
      neverBlack(down);
      const took = (down.find(({ transport }) => transport === 'll-hls')?.atMs ?? Infinity) - beganMs;
      assert.ok(took < 4500, `${Math.round(took)} ms`);
      assert.deepEqual(far.gone, ['anonymous-0'], 'the session was left');
      assert.equal(await page.evaluate(() => window.ghostLive.player.shadowRoot?.querySelectorAll('video:not(.front)').length), 1);
      // The device says that it is on a network again.
      await page.evaluate(() => window.dispatchEvent(new Event('online')));
      await plays(page, 'webrtc');
      await frames(page, 30);
      neverBlack(await seen(page));
      assert.equal(far.offers.length, 2);
      assert.equal((await seen(page)).every(({ state }) => ['playing', 'buffering', 'reconnecting'].includes(state)), true);
      assert.deepEqual(on.complaints, []);
    });
  }

  it('keeps the volume and the sound over both ways', async () => {
    const page = await on.open('/watch/demo');
    // It has been told to play by then; a look into the page before would count as a gesture, which lets it play with sound.
    while (!far.offers.length) await new Promise((resolve) => setTimeout(resolve, 50));
    await plays(page, 'webrtc');
    await page.locator('ghost-live-player .unmute').click();
    await page.evaluate(() => (window.ghostLive.player.volume = 0.4));
    for (const [act, kind] of /** @type {const} */ ([['hls', 'll-hls'], ['auto', 'webrtc']])) {
      await page.evaluate((protocol) => (window.ghostLive.player.protocol = protocol), act);
      await plays(page, kind);
      const now = await page.evaluate(() => {
        const { muted, volume, video } = window.ghostLive.player;
        return { muted, volume, paused: video.paused };
      });
      assert.deepEqual(now, { muted: false, volume: 0.4, paused: false });
      // What left the screen is silent.
      await page.waitForFunction(() => [...(window.ghostLive.player.shadowRoot?.querySelectorAll('video') ?? [])].filter(({ muted }) => !muted).length === 1);
      assert.equal(await page.locator('media-mute-button[mediavolumelevel="off"]').count(), 0);
    }
    assert.deepEqual(on.complaints, []);
  });

  const RUNGS = [
    { name: 'v-source', height: 480, bps: 2_500_000 },
    { name: 'v-240p30', height: 240, bps: 400_000 },
  ];

  it('has the server send the rendition of the viewer’s choice, and keeps the wish over LL-HLS and back', async () => {
    await far.say({ rungs: RUNGS, current: 'v-source', choice: null, paused: false });
    const page = await on.open('/watch/demo');
    await plays(page, 'webrtc');
    await level(page, 'v-source');
    assert.deepEqual(await far.chosen(), []);
    await page.getByRole('button', { name: 'Settings' }).focus();
    await page.keyboard.press('Enter');
    await focused(page, /^Quality/);
    await page.keyboard.press('Enter');
    await focused(page, /480p source · 2.5 Mbit/);
    await page.keyboard.press('ArrowDown');
    await focused(page, /^240p · 400 kbit/);
    await page.keyboard.press('Enter');
    while (!(await far.chosen()).length) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual(await far.chosen(), [{ choose: 'v-240p30' }]);
    // Nothing that cannot be read changes anything, and neither does what is too long.
    for (const bad of ['{', '[]', '{"rungs": 1}', JSON.stringify({ rungs: [], more: 'x'.repeat(5000) })]) await far.say(bad);
    await far.say({ rungs: RUNGS, current: 'v-240p30', choice: 'v-240p30', paused: false, unknown: 1 });
    await level(page, 'v-240p30');
    assert.equal((await stats(page)).transport, 'webrtc');
    await page.evaluate(() => (window.ghostLive.player.protocol = 'hls'));
    await plays(page, 'll-hls');
    await level(page, 'v-240p30');
    await page.evaluate(() => (window.ghostLive.player.protocol = 'auto'));
    await plays(page, 'webrtc');
    while ((await far.chosen()).length < 2) await new Promise((resolve) => setTimeout(resolve, 50));
    await page.evaluate(() => window.ghostLive.player.setQuality('auto'));
    while ((await far.chosen()).length < 3) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual(await far.chosen(), [{ choose: 'v-240p30' }, { choose: 'v-240p30' }, { choose: null }]);
    assert.equal((await stats(page)).transport, 'webrtc');
    assert.deepEqual(on.complaints, []);
  });

  it('says that only the sound is sent while the server pauses the picture, stays, and goes on with it', async () => {
    await far.say({ rungs: RUNGS, current: 'v-240p30', choice: null, paused: false });
    const page = await on.open('/watch/demo');
    await plays(page, 'webrtc');
    await frames(page, 30);
    const words = page.locator('ghost-live-player .busy').getByText('The sound goes on');
    assert.equal(await words.isVisible(), false);
    await far.picture(false);
    await far.say({ rungs: RUNGS, current: null, choice: null, paused: true });
    await words.waitFor();
    await watch(page);
    // Longer than the picture of a connection in trouble is waited for.
    await new Promise((resolve) => setTimeout(resolve, 5000));
    assert.ok((await seen(page)).every(({ transport, state }) => transport === 'webrtc' && state === 'playing'));
    neverBlack(await seen(page));
    assert.equal((await stats(page)).stalls, 0);
    await far.picture(true);
    await far.say({ rungs: RUNGS, current: 'v-240p30', choice: null, paused: false });
    await words.waitFor({ state: 'hidden' });
    await frames(page, 30);
    assert.equal((await stats(page)).transport, 'webrtc');
    assert.equal(far.offers.length, 1);
    assert.deepEqual(on.complaints, []);
  });

  it('plays a rendition of the viewer’s choice by LL-HLS where the server says no rungs, and goes back when they leave it to the player', async () => {
    const page = await on.open('/watch/demo');
    await plays(page, 'webrtc');
    assert.deepEqual((await stats(page)).levels.map(({ name }) => name).sort(), ['v-240p30', 'v-source']);
    await watch(page);
    await page.evaluate(() => window.ghostLive.player.setQuality('240p'));
    await level(page, 'v-240p30');
    await plays(page, 'll-hls');
    await page.evaluate(() => window.ghostLive.player.setQuality('auto'));
    await plays(page, 'webrtc');
    neverBlack(await seen(page));
    assert.deepEqual(on.complaints, []);
  });

  it('ends with the broadcast, and plays the next', async () => {
    const page = await on.open('/watch/demo');
    await plays(page, 'webrtc');
    await frames(page, 30);
    on.server.stop('demo');
    await far.hangUp();
    await state(page, 'ended');
    assert.match(await page.locator('ghost-live-player h2').innerText(), /has ended/);
    await on.server.start('demo');
    await plays(page, 'webrtc');
    await frames(page, 30);
    assert.deepEqual(on.complaints, []);
  });

  it('goes by the viewer’s link: one device over both ways, and out when it is taken back', async () => {
    on.server.ticket('demo', TOKEN, { max: 1 });
    const page = await on.open(`/watch/demo#token=${TOKEN}`);
    await plays(page, 'webrtc');
    await far.hangUp();
    await plays(page, 'll-hls');
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await plays(page, 'webrtc');
    assert.equal(on.server.stream('demo').sessions.size, 1, 'one session went on');
    // The streamer ends this playback alone.
    for (const session of on.server.stream('demo').sessions.values()) session.ended = true;
    await far.hangUp();
    await state(page, 'denied');
    assert.match(await page.locator('ghost-live-player .card').innerText(), /asked to leave/);
    await page.getByRole('button', { name: 'Watch again' }).click();
    await plays(page, 'webrtc');
    on.server.ticket('demo', TOKEN, { good: 'revoked' });
    await far.hangUp();
    await state(page, 'denied');
    assert.match(await page.locator('ghost-live-player .card').innerText(), /no longer valid/);
    for (const [link, title] of /** @type {const} */ ([['', 'You need a link'], ['#token=wrong', 'does not work']])) {
      for (const query of ['', '?transport=webrtc']) {
        const other = await on.open(`/watch/demo${query}${link}`);
        await state(other, 'denied');
        assert.match(await other.locator('ghost-live-player .card').innerText(), new RegExp(title));
        await other.close();
      }
    }
    assert.deepEqual(on.complaints, []);
  });
});

// An independent player reads both manifests: shaka-player, in Chromium, with its defaults and, for DASH, in low-latency mode.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';

import { launch } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { startServer, until } from './support/server.mjs';

const shaka = createRequire(import.meta.url).resolve('shaka-player/dist/shaka-player.compiled.js');

describe('shaka-player', () => {
  let server;
  let encoder;
  let browser;

  before(async () => {
    server = await startServer();
    encoder = publishClock(await server.rtmps());
    browser = await launch();
    await server.live();
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    await server?.stop();
  });

  // Not LL-HLS: shaka-player 5.2 throws ("reading 'match'" of a segment without a URI) when it loads a playlist in the moment in which
  // the running segment has a preload hint and no part yet. Now and then, and the playlist is what the draft asks for.
  for (const [manifest, modes] of [['/live/main/index.m3u8', [false]], ['/live/main/manifest.mpd', [false, true]]]) {
    for (const lowLatencyMode of modes) {
      test(`plays ${manifest}${lowLatencyMode ? ' in low-latency mode' : ''}`, async (t) => {
        // The pages' policy allows no script but their own; this one is a visitor's.
        const context = await browser.newContext({ bypassCSP: true });
        const page = await context.newPage();
        await page.goto(server.url);
        await page.addScriptTag({ path: shaka });
        await page.evaluate(async ([uri, low]) => {
          document.body.innerHTML = '<video muted></video>';
          const video = document.querySelector('video');
          const player = new window.shaka.Player();
          window.errors = [];
          player.addEventListener('error', (event) => window.errors.push(`${event.detail.category}/${event.detail.code}`));
          await player.attach(video);
          player.configure({ streaming: { lowLatencyMode: low } });
          await player.load(uri);
          await video.play();
          window.player = player;
        }, [manifest, lowLatencyMode]);
        const frames = () => page.evaluate(() => document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames);
        const first = await frames();
        await until('frames advance', async () => (await frames()) > first + 60, 30);
        const { errors, variants, behind } = await page.evaluate(() => ({
          errors: window.errors,
          variants: window.player.getVariantTracks().map((track) => track.height).sort((a, b) => b - a),
          behind: (Date.now() - window.player.getPlayheadTimeAsDate().getTime()) / 1000,
        }));
        assert.deepEqual(errors, []);
        assert.deepEqual(variants, [720, 480, 360]);
        t.diagnostic(`${behind.toFixed(1)} s behind`);
        assert.ok(behind > 0 && behind < 30, `${behind} s behind`);
        await context.close();
      });
    }
  }
});

// What a test asks of a watch page, whichever driver its browser has: `evaluate` runs an expression in the page and gives its value.
import assert from 'node:assert/strict';

import { readDelay } from './clock.mjs';
import { until } from './server.mjs';

export const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];

/** Runs in the page: counts the frames that are handed to the compositor, into `window.painted`. */
function countPainted(video) {
  window.painted = 0;
  const next = () => {
    window.painted += 1;
    video.requestVideoFrameCallback(next);
  };
  video.requestVideoFrameCallback(next);
}

export function viewer(evaluate) {
  const player = 'window.ghostLive.player';
  const self = {
    stats: () => evaluate(`${player}.stats`),
    /** Milliseconds between the clock in the painted frame and now, or null when it cannot be read. */
    delay: () => evaluate(`(${readDelay})(${player}.video)`),
    video: (property) => evaluate(`${player}.video.${property}`),
    /** What the player says to the viewer, without what is hidden. */
    words: () => evaluate(`${player}.shadowRoot.querySelector('.card:not([hidden])')?.innerText ?? ''`),
    setQuality: (name) => evaluate(`${player}.setQuality(${JSON.stringify(name)})`),
    countPainted: () => evaluate(`(${countPainted})(${player}.video)`),
    painted: () => evaluate('window.painted'),

    /** The page has come to play, by itself. */
    async playing(seconds = 60) {
      let seen;
      await until('the page plays', async () => {
        seen = await self.stats();
        return seen.state === 'playing' && seen.framesDecoded > 0;
      }, seconds).catch((error) => { throw new Error(`${error.message}: ${JSON.stringify(seen)}`); });
    },

    /** The picture is on the page, and playhead and painted frames go on together. */
    async advances(seconds = 30) {
      assert.ok((await self.video('getBoundingClientRect().width')) > 0, 'the video has no place on the page');
      await self.countPainted();
      const [time, painted] = [await self.video('currentTime'), await self.painted()];
      await until('the playhead advances', async () => (await self.video('currentTime')) > time + 2, seconds);
      await until('painted frames advance', async () => (await self.painted()) > painted + 30, seconds);
    },

    /** Delays read off the picture over `seconds`, ascending, milliseconds. */
    async delays(seconds) {
      const read = [];
      const end = performance.now() + seconds * 1000;
      while (performance.now() < end) {
        const ms = await self.delay();
        if (ms !== null) read.push(ms);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert.ok(read.length > 10, `the clock was read ${read.length} times only`);
      return read.sort((a, b) => a - b);
    },

    /** Chooses a rendition and waits until a frame of its height is on screen. */
    async choose(level, seconds = 30) {
      await self.setQuality(level.name);
      await until(`${level.name} is painted`, async () => (await self.video('videoHeight')) === level.height, seconds);
    },
  };
  return self;
}

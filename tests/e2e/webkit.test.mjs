// WebKitGTK, the nearest that runs on Linux to Safari, plays the watch page: LL-HLS by hls.js, fed by Media Source.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';

import { publishClock } from './support/clock.mjs';
import { startServer, until } from './support/server.mjs';
import { quantile, viewer } from './support/viewer.mjs';
import { launchWebKit } from './support/webkit.mjs';

const shots = process.env.GHOST_LIVE_SHOTS ?? join(tmpdir(), 'ghost-live-shots');

/**
 * Runs in the page before it plays: takes the media sources in `missing` away, and keeps what goes wrong in `window.complaints` and what
 * feeds the video in `window.sources`.
 */
function prepare(missing) {
  window.complaints = [];
  window.addEventListener('error', (event) => window.complaints.push(event.message));
  window.addEventListener('unhandledrejection', (event) => window.complaints.push(String(event.reason)));
  const { error } = console;
  console.error = (...words) => {
    window.complaints.push(words.join(' '));
    error.apply(console, words);
  };
  window.sources = [];
  for (const name of ['MediaSource', 'ManagedMediaSource']) {
    window[name] = missing.includes(name) ? undefined : class extends window[name] {
      constructor() {
        super();
        window.sources.push(name);
      }
    };
  }
}

describe('WebKitGTK', () => {
  let server;
  let encoder;
  let browser;

  before(async () => {
    await mkdir(shots, { recursive: true });
    server = await startServer();
  });

  async function quit() {
    await browser?.close();
    await encoder?.kill();
    [browser, encoder] = [undefined, undefined];
  }

  afterEach(quit);

  /**
   * WebKitGTK 2.50 hangs now and then while it plays: its page then answers no command of WebDriver's, of which each takes milliseconds. That
   * says nothing of the player, so the browser is started again, twice at most, and the output says so.
   */
  async function withoutHanging(t, body) {
    for (let left = 2; ; left -= 1) {
      try {
        return await body();
      } catch (error) {
        if (!browser?.hung() || left === 0) throw error;
        t.diagnostic(`WebKit hung and is started again: ${error.message.slice(0, 200)}`);
        await quit();
      }
    }
  }

  after(async () => { await server?.stop(); });

  /** Publishes, and opens the watch page in a browser that lacks `missing`. */
  async function watch(missing) {
    encoder = publishClock(await server.rtmps());
    browser = await launchWebKit();
    await server.live();
    await browser.open(`${server.url}/watch/main?autoplay=0`);
    await until('the page is there', () => browser.evaluate('window.ghostLive !== undefined'));
    await browser.evaluate(`(${prepare})(${JSON.stringify(missing)})`);
    await browser.evaluate('void window.ghostLive.player.play()');
    const watching = viewer((expression) => browser.evaluate(expression));
    await watching.playing();
    await watching.advances(60);
    return watching;
  }

  async function ends(watching, shot) {
    await encoder.stop();
    await until('the page says that the stream has ended', async () => /has ended/.test(await watching.words()), 90);
    assert.equal((await watching.stats()).state, 'ended');
    await writeFile(join(shots, shot), await browser.screenshot());
    assert.deepEqual(await browser.evaluate('window.complaints'), []);
  }

  for (const [source, missing] of [['MediaSource', []], ['ManagedMediaSource', ['MediaSource']]]) {
    test(`plays by hls.js over ${source}${missing.length ? ', as an iPhone does' : ''}, changes quality and shows the end`, (t) => withoutHanging(t, async () => {
      const watching = await watch(missing);
      const { transport, levels } = await watching.stats();
      assert.equal(transport, 'll-hls');
      // On its way from the join to the target delay.
      await watching.delays(5);
      const delays = await watching.delays(5);
      t.diagnostic(`${browser.version}, ${source}: delay p50 ${quantile(delays, 0.5)} ms, p95 ${quantile(delays, 0.95)} ms; ${(await watching.stats()).stalls} stalls`);
      assert.ok(quantile(delays, 0.5) < 8_000, `median delay ${quantile(delays, 0.5)} ms`);
      assert.deepEqual([...new Set(await browser.evaluate('window.sources'))], [source]);
      await writeFile(join(shots, `webkit-${source}.png`), await browser.screenshot());

      assert.deepEqual(levels.map((level) => level.height).sort((a, b) => b - a), [720, 480, 360]);
      for (const level of levels) {
        await watching.choose(level, 60);
        await until(`the clock is read off ${level.name}`, async () => (await watching.delay()) !== null);
      }
      await ends(watching, `webkit-${source}-ended.png`);
    }));
  }
});

// The delay of LL-HLS from the encoder's clock to the painted frame, with the real binary and Chromium: prints one table.
//
//   node bench/delay.mjs [--minutes 10] [--joins 5] [--config 'TOML of ghost-live.toml']
//
// FFmpeg publishes a picture that carries the time over RTMPS; the watch page plays it; the delay is read off the painted picture. It
// includes capture to FFmpeg's input, the encoder, the network of this machine, and everything of Ghost Live.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';

import { launch, open } from '../tests/e2e/support/browser.mjs';
import { publishClock, readDelay } from '../tests/e2e/support/clock.mjs';
import { startServer, until } from '../tests/e2e/support/server.mjs';

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '10' }, joins: { type: 'string', default: '5' }, config: { type: 'string', default: '' } } });
const minutes = Number(values.minutes);
const joins = Number(values.joins);
if (!(minutes > 0) || !(joins > 1)) throw new Error('--minutes is a number over 0, and --joins one over 1');
// A page that has just joined may still be on its way to its target delay.
const SETTLE_S = 10;

// The bound of a first frame: a page of a video and hls.js that begins with the same guess of the bandwidth, and nothing of ours but what
// the server sends it.
const hls = createRequire(new URL('../tests/e2e/package.json', import.meta.url)).resolve('hls.js/dist/hls.min.js');
const BARE = `<!doctype html><video muted></video><script src="/bare.js"></script><script>
  const video = document.querySelector('video');
  const hls = new Hls({ lowLatencyMode: true, abrEwmaDefaultEstimate: 3_000_000 });
  hls.loadSource('/live/main/index.m3u8');
  hls.attachMedia(video);
  video.play();
</script>`;

const load = loadavg()[0].toFixed(1);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const quantile = (numbers, q) => {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length, Math.max(1, Math.ceil(q * sorted.length))) - 1] : NaN;
};

const server = await startServer({ config: values.config });
let encoder;
let browser;
try {
  encoder = publishClock(await server.rtmps());
  browser = await launch();
  await server.live();
  // The join of a viewer who comes in mid-stream: from the navigation to the first painted frame, with an empty cache each time.
  const [first, bare] = [[], []];
  // Polled in the page at every frame: asking from here would add what the asking takes.
  const painted = (page) => page.waitForFunction(
    () => ((window.ghostLive?.player?.shadowRoot ?? document).querySelector('video')?.currentTime ?? 0) > 0,
    null,
    { polling: 'raf', timeout: 60_000 },
  );
  const join = async () => {
    const began = performance.now();
    const page = await open(browser, `${server.url}/watch/main`);
    await painted(page);
    first.push(performance.now() - began);
    return page;
  };
  const script = await readFile(hls);
  const joinBare = async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    await page.route('**/bare', (route) => route.fulfill({ contentType: 'text/html', body: BARE }));
    await page.route('**/bare.js', (route) => route.fulfill({ contentType: 'text/javascript', body: script }));
    const began = performance.now();
    await page.goto(`${server.url}/bare`);
    await painted(page);
    bare.push(performance.now() - began);
    await context.close();
  };
  // A full window first, as most viewers meet it.
  await sleep(10_000);
  for (let n = 1; n < joins; n += 1) {
    await joinBare();
    await (await join()).context().close();
  }
  const page = await join();
  await sleep(SETTLE_S * 1000);

  const read = [];
  let unreadable = 0;
  const began = performance.now();
  const end = began + minutes * 60_000;
  while (performance.now() < end) {
    const ms = await page.evaluate(`(${readDelay})(window.ghostLive.player)`);
    if (ms === null) unreadable += 1;
    else read.push({ at: performance.now() - began, ms });
    await sleep(100);
  }
  if (read.length === 0) throw new Error('the clock could not be read off any frame');
  const stats = await page.evaluate(() => window.ghostLive.player.stats);
  const minute = Math.min(60_000, (minutes * 60_000) / 2);
  const all = read.map(({ ms }) => ms);
  const span = minutes < 2 ? 'half' : 'minute';
  const opening = read.filter(({ at }) => at < minute).map(({ ms }) => ms);
  const closing = read.filter(({ at }) => at >= minutes * 60_000 - minute).map(({ ms }) => ms);
  const drift = quantile(closing, 0.5) - quantile(opening, 0.5);
  const rows = [
    ['time to first frame, median', first.length, quantile(first, 0.5)],
    ['time to first frame, worst', first.length, quantile(first, 1)],
    ['bound: a page of hls.js alone, median', bare.length, quantile(bare, 0.5)],
    ['delay p50', all.length, quantile(all, 0.5)],
    ['delay p95', all.length, quantile(all, 0.95)],
    ['delay max', all.length, quantile(all, 1)],
    [`first ${span} p50`, opening.length, quantile(opening, 0.5)],
    [`last ${span} p50`, closing.length, quantile(closing, 0.5)],
    ['drift, last minus first', '', drift],
  ].map(([name, count, ms]) => [name, String(count), `${Math.round(ms)}`]);
  console.log(`LL-HLS (${stats.transport}), FFmpeg over RTMPS to headless Chromium on one machine, ${minutes} min; ${cpus().length} cores, load average ${load} at the start, ${loadavg()[0].toFixed(1)} at the end`);
  console.log(`${unreadable} frames without a readable clock${stats.stalls === undefined ? '' : `, ${stats.stalls} stalls`}\n`);
  const table = [['what', 'read', 'ms'], ...rows];
  const widths = [0, 1, 2].map((column) => Math.max(...table.map((row) => row[column].length)));
  const line = (row) => console.log(`| ${row.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`);
  line(table[0]);
  console.log(`|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`);
  rows.forEach(line);
} finally {
  await encoder?.kill();
  await browser?.close();
  await server.stop();
}

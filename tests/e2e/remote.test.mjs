// The edge elsewhere: the same checks against `ghost-live edge` and against the Worker in workerd, with `ghost-live media-core` as a
// process of its own that puts every object through the edge.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { edgeChecks } from './support/edge-checks.mjs';
import { INGEST_SERVER, nativeEdge, startBox, workerEdge } from './support/remote.mjs';
import { until } from './support/server.mjs';
import { quantile, viewer } from './support/viewer.mjs';

const watcher = (page) => viewer((expression) => page.evaluate(expression));

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return response;
}
const text = async (url) => (await get(url)).text();
const bytes = async (url) => Buffer.from(await (await get(url)).arrayBuffer());

/** Where a media playlist ends: the sequence number behind its last complete segment. */
const last = (body) => Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(body)[1]) + body.split('#EXTINF').length - 1;

/** The last part of a media playlist: where it is, and when its last frame came to the box, Unix milliseconds by the box's clock. */
function newest(body) {
  const dated = body.lastIndexOf('#EXT-X-PROGRAM-DATE-TIME:');
  const [, began] = /^#EXT-X-PROGRAM-DATE-TIME:(\S+)/.exec(body.slice(dated));
  const parts = [...body.slice(dated).matchAll(/#EXT-X-PART:DURATION=([\d.]+),URI="([^"]+\/(\d+)\.(\d+)\.[a-z2-7]{20}\.m4s)"/g)];
  if (!parts.length) return null;
  const seconds = parts.reduce((sum, [, duration]) => sum + Number(duration), 0);
  const [, , uri, msn, part] = parts.at(-1);
  return { uri, msn: Number(msn), part: Number(part), endUnixMs: Date.parse(began) + seconds * 1000 };
}

/** Median delay of a page that never stalled, milliseconds: 1.42 to 1.50 s and 2.99 to 3.01 s were measured. */
const LIMIT_MS = { hls: 2_000, dash: 3_600 };

/** What a client of our own sees of `count` parts in a row: milliseconds from a part's end to its playlist, and from that to its bytes. */
async function follow(media, count) {
  let last = await until('a part is listed', async () => newest(await text(media)));
  const [listed, read] = [[], []];
  for (let n = 0; n < count; n += 1) {
    const asked = new URL(media);
    asked.search = `_HLS_msn=${last.msn}&_HLS_part=${last.part + 1}`;
    const found = newest(await text(asked));
    const came = Date.now();
    assert.ok(found && (found.msn > last.msn || found.part > last.part), `${asked.search} was answered with what was known before`);
    last = found;
    assert.ok((await bytes(new URL(found.uri, media))).length > 0);
    listed.push(came - found.endUnixMs);
    read.push(Date.now() - came);
  }
  for (const list of [listed, read]) list.sort((a, b) => a - b);
  return { listed, read };
}

for (const [name, startEdge] of [['ghost-live edge', nativeEdge], ['the Worker in workerd', workerEdge]]) {
  describe(`a box and ${name}`, () => {
    let edge;
    let box;
    let encoder;
    let browser;
    let media;

    before(async () => {
      edge = await startEdge();
      box = await startBox(edge);
      encoder = publishClock(box.publishUrl(await box.key()));
      browser = await launch();
      await until('the stream is live', async () => JSON.parse(await text(`${edge.url}/api/streams/main`)).live, 60)
        .catch((error) => { throw new Error(`${error.message}\n${box.output()}\n${edge.log()}`); });
      const master = await until('the multivariant playlist', () => text(`${edge.url}/live/main/index.m3u8`));
      media = new URL(master.split('\n').find((line) => line.endsWith('index.m3u8')), `${edge.url}/live/main/index.m3u8`);
    });

    after(async () => {
      await encoder?.kill();
      await browser?.close();
      await box?.stop();
      await edge?.remove();
    });

    test('the panel names the edge for viewers and this machine for the encoder', async () => {
      const key = await box.key();
      assert.match(key, /^main_[a-z2-7]{26}$/);
      const panel = box.output();
      assert.ok(panel.includes(key) && panel.includes(`${edge.url}/watch/main`), panel);
      const [, secret] = new RegExp(`${edge.url}/studio/main#(\\S+)`).exec(panel);
      const studio = await fetch(`${edge.url}/api/studio/main`, { headers: { authorization: `Bearer ${secret}` } });
      const shown = await studio.json();
      assert.equal(shown.key, key);
      assert.deepEqual(shown.servers.map((server) => server.url), [INGEST_SERVER]);
    });

    edgeChecks(() => ({ url: edge.url, browser }));

    test('a part is listed as soon as it is made, and its bytes follow at once', async (t) => {
      const { listed, read } = await follow(media, 15);
      const said = (list) => `p50 ${Math.round(quantile(list, 0.5))} ms, worst ${Math.round(list.at(-1))} ms`;
      t.diagnostic(`${name}: from a part's end to its playlist ${said(listed)}; from there to its bytes ${said(read)}`);
      // The box's timeline is anchored at the first frame, whose way was longer than that of those behind it: hence about nothing. Measured
      // were -66 to -14 ms natively and -32 ms in workerd.
      assert.ok(quantile(listed, 0.5) < 700, `a part is listed ${Math.round(quantile(listed, 0.5))} ms after its end`);
      assert.ok(quantile(read, 0.5) < 400, `a listed part takes ${Math.round(quantile(read, 0.5))} ms`);
    });

    for (const protocol of ['hls', 'dash']) {
      test(`a page plays over ${protocol}, and the delay is read off the picture`, async (t) => {
        const page = await open(browser, `${edge.url}/watch/main?protocol=${protocol}`);
        const watching = watcher(page);
        await watching.playing().catch((error) => { throw new Error(`${error.message}; ${page.complaints.slice(0, 5).join('; ')}`); });
        await until('the clock can be read', async () => (await watching.delay()) !== null);
        // The player may still be on its way from the join to its target delay.
        await watching.delays(6);
        const read = await watching.delays(5);
        const { transport, stalls, targetS, distanceS } = await watching.stats();
        assert.equal(transport, protocol === 'dash' ? 'dash' : 'll-hls');
        const said = `delay p50 ${quantile(read, 0.5)} ms, p95 ${quantile(read, 0.95)} ms (${read.length} frames read; ${stalls} stalls, ${distanceS?.toFixed(2)} of ${targetS?.toFixed(2)} s behind the live edge)`;
        t.diagnostic(`${name}, ${protocol}: ${said}`);
        // Encoder, box and edge together add less than half a second to what the player keeps as its distance. A machine on which it
        // stalls makes the player keep up to 3 s more, on purpose, which says nothing of the edge.
        const limit = stalls === 0 ? LIMIT_MS[protocol] : 6_000;
        assert.ok(quantile(read, 0.5) < limit, said);
        await page.context().close();
      });
    }

    test('the edge is killed and starts again in mid-stream: the page goes on without a reload', async (t) => {
      const page = await open(browser, `${edge.url}/watch/main?protocol=hls`);
      const watching = watcher(page);
      await watching.playing();
      await page.evaluate(() => { window.notReloaded = true; });
      const before = last(await text(media));
      await edge.kill();
      const began = performance.now();
      await edge.start();
      const after = await until('the playlist goes on', async () => {
        const now = last(await text(media));
        return now > before + 1 && now;
      }, 60);
      const made = Date.now();
      t.diagnostic(`${name}: media sequence ${before} before, ${after} after, ${Math.round(performance.now() - began)} ms after the kill`);
      await until('the page paints what was made after the restart', async () => {
        const ms = await watching.delay();
        return ms !== null && Date.now() - ms > made;
      }, 60);
      const { framesDecoded } = await watching.stats();
      await until('frames advance', async () => (await watching.stats()).framesDecoded > framesDecoded + 60);
      assert.equal(await page.evaluate(() => window.notReloaded), true);
      await page.context().close();
    });

    const isLive = async () => JSON.parse(await text(`${edge.url}/api/streams/main`)).live;

    test('a key that is rotated with an overlap leaves the broadcast live', async () => {
      const [old, key] = [await box.key(), await box.rotate('--overlap', '1h')];
      assert.notEqual(key, old);
      assert.equal(await box.key(), key);
      const reaches = async () => Number(/MEDIA-SEQUENCE:(\d+)/.exec(await text(media))[1]);
      const before = await reaches();
      await until('the broadcast goes on', async () => (await reaches()) > before + 1, 20);
      assert.equal(await isLive(), true);
    });

    test('a clean unpublish ends the playlists', async () => {
      await encoder.stop();
      await until('EXT-X-ENDLIST', async () => (await text(media)).includes('#EXT-X-ENDLIST'));
    });

    test('a key that is replaced is refused at once, and takes what is live with it', async () => {
      const old = await box.key();
      encoder = publishClock(box.publishUrl(old));
      await until('the stream is live again', isLive, 60);
      assert.notEqual(await box.rotate(), old);
      assert.notEqual(await encoder.exited, 0);
      await until('the broadcast is over', async () => !(await isLive()));
      const refused = publishClock(box.publishUrl(old));
      assert.notEqual(await refused.exited, 0);
      await refused.kill();
      assert.deepEqual(await box.stop(), { code: 0, signal: null });
    });
  });
}

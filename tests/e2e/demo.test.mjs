// `./run --demo`: what somebody sees who has no encoder at hand.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { startServer, until } from './support/server.mjs';
import { viewer } from './support/viewer.mjs';

test('--demo: its stream can be played within 20 s, a page plays it, and Ctrl-C ends it cleanly', async (t) => {
  const server = await startServer({ args: ['--demo'] });
  const ready = performance.now();
  let browser;
  try {
    await until('the panel names it', () => new RegExp(`Demo +${server.url}/watch/demo`).test(server.output()));
    const multivariant = new URL('/live/demo/index.m3u8', server.url);
    const left = () => 20 - (performance.now() - ready) / 1000;
    const master = await until('the multivariant playlist', () => server.text(multivariant.pathname), left());
    const media = new URL(master.split('\n').find((line) => line.endsWith('index.m3u8')), multivariant);
    const uri = await until('a segment', async () => /#EXTINF.*\n(\/media\/\S+)/.exec(await (await fetch(media)).text())?.[1], left());
    const segment = await fetch(new URL(uri, media));
    assert.equal(segment.status, 200);
    assert.ok((await segment.arrayBuffer()).byteLength > 0);
    t.diagnostic(`the first segment could be read ${((performance.now() - ready) / 1000).toFixed(1)} s after the server was ready`);

    browser = await launch();
    const page = await open(browser, `${server.url}/watch/demo`);
    const watching = viewer((expression) => page.evaluate(expression));
    await watching.playing();
    await watching.advances();
    assert.deepEqual(page.complaints, []);
    await page.context().close();

    const text = await (await fetch(media)).text();
    const sequence = Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(text)[1]) + text.split('#EXTINF').length - 1;
    const waiting = fetch(`${media}?_HLS_msn=${sequence + 1}`).then((response) => response.text());
    const stopped = server.stop('SIGINT');
    assert.match(await waiting, /#EXT-X-ENDLIST/);
    assert.deepEqual(await stopped, { code: 0, signal: null });
  } finally {
    await browser?.close();
    await server.stop('SIGKILL');
  }
});

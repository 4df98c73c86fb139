// What becomes of the playlists when a broadcast ends, is cut by force, or the process is killed.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { mediaPlaylist, run } from './support/edge-checks.mjs';
import { SHORT_LADDER, startServer, until } from './support/server.mjs';
import { viewer } from './support/viewer.mjs';

/** What a media playlist says can be read: headers, parts, and segments that are no gaps. */
function listed(text) {
  const [inits, media] = [new Set(), new Set()];
  let gap = false;
  for (const line of text.split('\n')) {
    const [, tag, uri] = /^#EXT-X-(MAP|PART):.*URI="([^"]+)"/.exec(line) ?? [];
    if (tag === 'MAP') inits.add(uri);
    else if (tag === 'PART' && !line.includes('GAP=YES')) media.add(uri);
    else if (line === '#EXT-X-GAP') gap = true;
    else if (line && !line.startsWith('#')) {
      if (!gap) media.add(line);
      gap = false;
    }
  }
  return { inits, media };
}

/** The types of an MP4 file's outermost boxes, which have to fill it to its last byte. */
function boxes(bytes, name) {
  const types = [];
  let at = 0;
  while (at < bytes.length) {
    assert.ok(at + 8 <= bytes.length, `${name}: ${bytes.length - at} bytes behind its last box`);
    const size = bytes.readUInt32BE(at);
    types.push(bytes.toString('latin1', at + 4, at + 8));
    assert.ok(size >= 8 && at + size <= bytes.length, `${name}: a ${types.at(-1)} box of ${size} bytes where ${bytes.length - at} are left`);
    at += size;
  }
  return types.join(' ');
}

describe('the end of a broadcast', () => {
  test('a clean unpublish ends the playlists at once', async () => {
    const server = await startServer({ config: SHORT_LADDER });
    const encoder = publishClock(await server.rtmps());
    try {
      await server.live();
      const media = await mediaPlaylist(server.url, 1);
      await encoder.stop();
      await until('EXT-X-ENDLIST', async () => (await (await fetch(media)).text()).includes('#EXT-X-ENDLIST'), 5);
    } finally {
      await encoder.kill();
      await server.stop();
    }
  });

  for (const signal of ['SIGTERM', 'SIGINT']) {
    test(`${signal} closes the broadcast: a waiting player is told of the end`, async () => {
      const server = await startServer({ config: SHORT_LADDER });
      const encoder = publishClock(await server.rtmps());
      try {
        await server.live();
        const media = await mediaPlaylist(server.url, 1);
        const text = await (await fetch(media)).text();
        const sequence = Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(text)[1]) + text.split('#EXTINF').length - 1;
        const waiting = fetch(`${media}?_HLS_msn=${sequence + 1}`).then((response) => response.text());
        const stopped = server.stop(signal);
        assert.ok((await waiting).includes('#EXT-X-ENDLIST'), 'the blocked request got the end');
        assert.deepEqual(await stopped, { code: 0, signal: null });
      } finally {
        await encoder.kill();
        await server.stop('SIGKILL');
      }
    });
  }
});

describe('an encoder with a key frame every 250 frames and B-frames, as OBS has on a custom server', () => {
  test('is cut all the same: the source goes on as an encode behind a discontinuity', async () => {
    const server = await startServer({ config: SHORT_LADDER });
    const encode = ['-c:v', 'libx264', '-preset', 'ultrafast', '-g', '250', '-bf', '2', '-b:v', '2500k'];
    const encoder = publishClock(await server.rtmps(), { encode });
    try {
      await server.live();
      const master = await until('the multivariant playlist', () => server.text('/live/main/index.m3u8'));
      const relative = master.split('\n').find((line) => line.includes('/v-source/'));
      const media = new URL(relative, `${server.url}/live/main/index.m3u8`);
      const text = await until('segments behind the forced cut', async () => {
        const body = await (await fetch(media)).text();
        return body.split('#EXTINF').length > 3 && body;
      }, 40);
      const durations = [...text.matchAll(/#EXTINF:([0-9.]+)/g)].map((match) => Number(match[1]));
      assert.ok(durations.every((seconds) => seconds < 4.5), durations.join(' '));
      assert.ok(text.includes('#EXT-X-DISCONTINUITY\n'), text);
      assert.ok(new Set([...text.matchAll(/#EXT-X-MAP:URI="([^"]+)"/g)].map((match) => match[1])).size > 1, 'a new header');
      // FFmpeg 5.1 keeps the first header of a playlist, so each header is read with its own segments.
      const groups = [];
      for (const [, map, uri] of text.matchAll(/#EXT-X-MAP:URI="([^"]+)"|^(\/media\/\S+)$/gm)) {
        if (map) groups.push([map]);
        else groups.at(-1).push(uri);
      }
      for (const uris of groups.filter((group) => group.length > 1)) {
        const bytes = await Promise.all(uris.map(async (uri) => Buffer.from(await (await fetch(new URL(uri, media))).arrayBuffer())));
        const file = join(server.folder, 'group.mp4');
        await writeFile(file, Buffer.concat(bytes));
        const { code, stderr } = await run('ffmpeg', ['-hide_banner', '-v', 'error', '-xerror', '-i', file, '-f', 'null', '-']);
        assert.equal(code, 0, stderr);
        assert.equal(stderr, '');
      }
    } finally {
      await encoder.kill();
      await server.stop();
    }
  });
});

describe('a crash', () => {
  test('kill -9 and restart: the page goes on without a reload, no media sequence number goes back, nothing unreadable is listed', async (t) => {
    const first = await startServer({ config: SHORT_LADDER });
    let encoder = publishClock(await first.rtmps());
    let second;
    let browser;
    try {
      browser = await launch();
      await first.live();
      const multivariant = new URL('/live/main/index.m3u8', first.url);
      const playlists = async () => {
        const master = await until('the multivariant playlist', () => first.text(multivariant.pathname));
        const uris = [...master.matchAll(/^(?:#EXT-X-MEDIA:.*URI="([^"]+)".*|([^#\s].*))$/gm)].map((match) => match[1] ?? match[2]);
        return uris.map((uri) => new URL(uri, multivariant));
      };
      const media = (await playlists()).find((url) => url.pathname.includes('/v-'));
      const before = await until('three segments', async () => {
        const body = await (await fetch(media)).text();
        return body.split('#EXTINF').length > 3 && body;
      }, 30);
      const page = await open(browser, `${first.url}/watch/main?protocol=hls`);
      const watching = viewer((expression) => page.evaluate(expression));
      await watching.playing();
      await until('the clock is read off the picture', async () => (await watching.delay()) !== null);
      await page.evaluate(() => { window.notReloaded = true; });

      first.child.kill('SIGKILL');
      await first.exited;
      await encoder.kill();
      second = await startServer({ config: SHORT_LADDER, data: first.folder, ports: first.ports });
      const restarted = Date.now();
      encoder = publishClock(await second.rtmps());
      const after = await until('the same playlist goes on behind a discontinuity', async () => {
        const body = await (await fetch(media)).text();
        return body.includes('#EXT-X-DISCONTINUITY\n') && body.split('#EXT-X-DISCONTINUITY\n')[1].includes('#EXTINF') && body;
      }, 40);
      const last = (body) => Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(body)[1]) + body.split('#EXTINF').length - 1;
      assert.ok(last(after) > last(before), `${last(after)} after ${last(before)}`);

      await until('the page paints what was made after the restart', async () => {
        const ms = await watching.delay();
        return ms !== null && Date.now() - ms > restarted;
      }, 60);
      await watching.advances();
      assert.equal(await page.evaluate(() => window.notReloaded), true);

      let objects = 0;
      const all = await playlists();
      assert.ok(all.length > 1, 'video and audio');
      for (const url of all) {
        const { inits, media: parts } = listed(await (await fetch(url)).text());
        assert.ok(inits.size > 0 && parts.size > 0, url.pathname);
        for (const [uris, whole] of [[inits, /^ftyp moov$/], [parts, /^(styp )?(moof mdat( |$))+$/]]) {
          for (const uri of uris) {
            const response = await fetch(new URL(uri, url));
            assert.equal(response.status, 200, uri);
            assert.match(boxes(Buffer.from(await response.arrayBuffer()), uri), whole, uri);
            objects += 1;
          }
        }
      }
      t.diagnostic(`${objects} objects of ${all.length} playlists were read to their last box`);
    } finally {
      await browser?.close();
      await encoder.kill();
      await second?.stop('SIGKILL');
      // Has ended; its folder goes with it.
      await first.stop('SIGKILL');
    }
  });
});

// What becomes of the playlists when a broadcast ends, is cut by force, or the process is killed.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { publishClock } from './support/clock.mjs';
import { run } from './support/edge-checks.mjs';
import { startServer, until } from './support/server.mjs';

describe('the end of a broadcast', () => {
  test('a clean unpublish ends the playlists at once', async () => {
    const server = await startServer();
    const encoder = publishClock(await server.rtmps());
    try {
      await server.live();
      const master = await until('the multivariant playlist', () => server.text('/live/main/index.m3u8'));
      const media = new URL(master.split('\n').find((line) => line.endsWith('index.m3u8')), `${server.url}/live/main/index.m3u8`);
      await until('a segment', async () => (await (await fetch(media)).text()).includes('#EXTINF'), 30);
      await encoder.stop();
      await until('EXT-X-ENDLIST', async () => (await (await fetch(media)).text()).includes('#EXT-X-ENDLIST'), 5);
    } finally {
      await encoder.kill();
      await server.stop();
    }
  });

  test('SIGTERM closes the broadcast: a waiting player is told of the end', async () => {
    const server = await startServer();
    const encoder = publishClock(await server.rtmps());
    try {
      await server.live();
      const master = await until('the multivariant playlist', () => server.text('/live/main/index.m3u8'));
      const media = new URL(master.split('\n').find((line) => line.endsWith('index.m3u8')), `${server.url}/live/main/index.m3u8`);
      const text = await until('a segment', async () => {
        const body = await (await fetch(media)).text();
        return body.includes('#EXTINF') && body;
      }, 30);
      const sequence = Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(text)[1]) + text.split('#EXTINF').length - 1;
      const waiting = fetch(`${media}?_HLS_msn=${sequence + 1}`).then((response) => response.text());
      const stopped = server.stop('SIGTERM');
      assert.ok((await waiting).includes('#EXT-X-ENDLIST'), 'the blocked request got the end');
      assert.deepEqual(await stopped, { code: 0, signal: null });
    } finally {
      await encoder.kill();
    }
  });
});

describe('an encoder with a key frame every 250 frames and B-frames, as OBS has on a custom server', () => {
  test('is cut all the same: the source goes on as an encode behind a discontinuity', async () => {
    const server = await startServer();
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
  test('kill -9 and restart: the broadcast goes on, no media sequence number goes back, nothing unreadable is listed', async () => {
    const first = await startServer();
    let encoder = publishClock(await first.rtmps());
    let second;
    try {
      await first.live();
      const master = await until('the multivariant playlist', () => first.text('/live/main/index.m3u8'));
      const relative = master.split('\n').find((line) => line.endsWith('index.m3u8'));
      const media = new URL(relative, `${first.url}/live/main/index.m3u8`);
      const before = await until('three segments', async () => {
        const body = await (await fetch(media)).text();
        return body.split('#EXTINF').length > 3 && body;
      }, 30);
      first.child.kill('SIGKILL');
      await first.exited;
      await encoder.kill();
      second = await startServer({ data: first.folder, ports: first.ports });
      encoder = publishClock(await second.rtmps());
      const after = await until('the same playlist goes on behind a discontinuity', async () => {
        const body = await (await fetch(media)).text();
        return body.includes('#EXT-X-DISCONTINUITY\n') && body.split('#EXT-X-DISCONTINUITY\n')[1].includes('#EXTINF') && body;
      }, 40);
      const last = (body) => Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(body)[1]) + body.split('#EXTINF').length - 1;
      assert.ok(last(after) > last(before), `${last(after)} after ${last(before)}`);
      for (const [, uri] of after.matchAll(/^(\/media\/\S+)$/gm)) {
        const gap = after.split(uri)[0].split('#EXTINF').at(-1).includes('#EXT-X-GAP');
        if (!gap) assert.equal((await fetch(new URL(uri, media), { method: 'HEAD' })).status, 200, uri);
      }
    } finally {
      await encoder.kill();
      await (second ?? first).stop('SIGKILL');
    }
  });
});

// The playlists and segments as other readers see them, and the LL-HLS requests that a player makes, by a client of our own.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { publishClock } from './support/clock.mjs';
import { startServer, until } from './support/server.mjs';

async function run(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk) => { stdout += chunk; });
  child.stderr.on('data', (chunk) => { stderr += chunk; });
  const code = await new Promise((resolve) => child.on('exit', resolve));
  return { code, stdout, stderr };
}

describe('playlists of a live stream', () => {
  let server;
  let encoder;
  let master;
  let media;

  before(async () => {
    server = await startServer();
    encoder = publishClock(await server.rtmps());
    await server.live();
    master = await until('the multivariant playlist', () => server.text('/live/main/index.m3u8'));
    const first = master.split('\n').find((line) => line.endsWith('index.m3u8'));
    media = new URL(first, `${server.url}/live/main/index.m3u8`);
    await until('three segments', async () => (await (await fetch(media)).text()).split('#EXTINF').length > 3, 30);
  });

  after(async () => {
    await encoder?.kill();
    await server?.stop();
  });

  test('a blocked reload is answered with the part that it waits for', async () => {
    const text = await (await fetch(media)).text();
    const hint = /#EXT-X-PRELOAD-HINT:TYPE=PART,URI="([^"]+)"/.exec(text)[1];
    const [, msn, part] = /\/(\d+)\.(\d+)\.[a-z2-7]{20}\.m4s$/.exec(hint);
    const url = new URL(media);
    url.searchParams.set('_HLS_msn', msn);
    url.searchParams.set('_HLS_part', part);
    const [playlist, object] = await Promise.all([fetch(url).then((r) => r.text()), fetch(new URL(hint, media)).then((r) => r.arrayBuffer())]);
    assert.ok(playlist.includes(`#EXT-X-PART:`) && playlist.includes(hint), 'the hinted part is listed');
    assert.equal(Buffer.from(object.slice(4, 8)).toString('latin1').match(/moof|styp/)?.length, 1, 'and is CMAF');
  });

  test('every preload hint is answered with the part that is then listed, across segments', async (t) => {
    const hinted = (text) => /#EXT-X-PRELOAD-HINT:TYPE=PART,URI="([^"]+\/(\d+)\.(\d+)\.[a-z2-7]{20}\.m4s)"/.exec(text).slice(1);
    let [hint, msn, part] = hinted(await (await fetch(media)).text());
    const [ahead, segments] = [[], new Set()];
    for (let n = 0; n < 24; n += 1) {
      // Both are asked for before the part exists, as a player does it.
      const url = new URL(media);
      url.search = `_HLS_msn=${msn}&_HLS_part=${part}`;
      const at = {};
      const [playlist, object] = await Promise.all([
        fetch(url).then((r) => r.text()).finally(() => { at.playlist = performance.now(); }),
        fetch(new URL(hint, media)).then(async (r) => {
          assert.equal(r.status, 200, `${hint}: ${r.status}`);
          return Buffer.from(await r.arrayBuffer());
        }).finally(() => { at.object = performance.now(); }),
      ]);
      assert.match(playlist, new RegExp(`#EXT-X-PART:[^\n]*URI="${hint.replaceAll('.', '\\.')}"`), `${hint} is listed`);
      const again = Buffer.from(await (await fetch(new URL(hint, media))).arrayBuffer());
      assert.ok(object.equals(again), `${hint} is the same when it is asked for later`);
      ahead.push(Math.abs(at.object - at.playlist));
      segments.add(msn);
      const next = hinted(playlist);
      assert.ok(Number(next[1]) > Number(msn) || Number(next[2]) > Number(part), `${next[0]} after ${hint}`);
      [hint, msn, part] = next;
    }
    assert.ok(segments.size > 2, 'several segments began meanwhile');
    ahead.sort((a, b) => a - b);
    t.diagnostic(`24 hints in ${segments.size} segments; a part and its playlist came ${ahead[12].toFixed(1)} ms apart, ${ahead.at(-1).toFixed(1)} ms at worst`);
  });

  test('a delta update skips what the player knows', async () => {
    const url = new URL(media);
    url.searchParams.set('_HLS_skip', 'YES');
    await until('enough segments to skip', async () => {
      const text = await (await fetch(url)).text();
      return /#EXT-X-SKIP:SKIPPED-SEGMENTS=\d+/.test(text);
    }, 60);
  });

  test('absurd requests are refused at once', async () => {
    for (const query of ['_HLS_msn=999999', '_HLS_part=1', '_HLS_msn=-1', '_HLS_msn=x', '_HLS_msn=99999999999999999999']) {
      const response = await fetch(`${media}?${query}`, { signal: AbortSignal.timeout(2000) });
      assert.equal(response.status, 400, query);
      assert.equal(response.headers.get('content-type'), 'application/problem+json');
      assert.equal(response.headers.get('cache-control'), 'no-store');
    }
  });

  test('an unknown media key is 404 at once', async () => {
    const text = await (await fetch(media)).text();
    const hint = /URI="([^"]+)"/.exec(text.split('\n').find((line) => line.startsWith('#EXT-X-PRELOAD-HINT')))[1];
    const other = hint.replace(/[a-z2-7]{20}\.m4s$/, `${'a'.repeat(20)}.m4s`);
    const response = await fetch(new URL(other, media), { signal: AbortSignal.timeout(1000) });
    assert.equal(response.status, 404);
  });

  test('a DASH segment is byte for byte its parts in order', async () => {
    const text = await (await fetch(media)).text();
    const part = [...text.matchAll(/#EXT-X-PART:[^\n]*URI="([^"]+\/(\d+)\.(\d+)\.[a-z2-7]{20}\.m4s)"/g)];
    const complete = part.map((m) => m[2]).filter((msn, _, all) => msn < all.at(-1)).at(-1);
    const parts = part.filter((m) => m[2] === complete).sort((a, b) => a[3] - b[3]);
    assert.ok(parts.length > 0 && parts[0][3] === '0', 'a whole segment in parts is listed');
    const bytes = [];
    for (const m of parts) bytes.push(Buffer.from(await (await fetch(new URL(m[1], media))).arrayBuffer()));
    const segment = Buffer.from(await (await fetch(new URL(`${complete}.m4s`, media))).arrayBuffer());
    assert.ok(Buffer.concat(bytes).equals(segment));
  });

  for (const [name, path] of [['HLS', '/live/main/index.m3u8'], ['DASH', '/live/main/manifest.mpd']]) {
    test(`FFmpeg reads ${name} without a complaint`, async () => {
      const { code, stderr } = await run('ffmpeg', ['-hide_banner', '-v', 'warning', '-xerror', '-i', server.url + path, '-t', '6', '-f', 'null', '-']);
      assert.equal(code, 0, stderr);
      assert.ok(!/non.monoton|Invalid|corrupt|error/i.test(stderr), stderr);
    });
  }
});

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

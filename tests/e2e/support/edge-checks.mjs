// What holds of every edge, wherever it runs: the same checks against the one inside `ghost-live up`, `ghost-live edge` and the Worker.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { before, describe, test } from 'node:test';

import { until } from './server.mjs';
import { viewer } from './viewer.mjs';

const shaka = createRequire(import.meta.url).resolve('shaka-player/dist/shaka-player.compiled.js');

/** Parts in a row, of which six make a segment: so many always touch three. */
const HINTS = 15;

/** Runs a command to its end. */
export async function run(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk) => { stdout += chunk; });
  child.stderr.on('data', (chunk) => { stderr += chunk; });
  const code = await new Promise((resolve) => child.on('exit', resolve));
  return { code, stdout, stderr };
}

/** The first video playlist of stream `main`, once it has so many segments. */
export async function mediaPlaylist(url, segments = 3) {
  const multivariant = new URL('/live/main/index.m3u8', url);
  const master = await until('the multivariant playlist', async () => {
    const response = await fetch(multivariant);
    return response.ok && response.text();
  });
  const media = new URL(master.split('\n').find((line) => line.endsWith('index.m3u8')), multivariant);
  await until(`${segments} segments`, async () => (await (await fetch(media)).text()).split('#EXTINF').length > segments, 30);
  return media;
}

/** Tests of an edge on which `main` is live, 720p with a ladder below it. `edge()` gives its `url` and a `browser`. */
export function edgeChecks(edge) {
  describe('what viewers and other readers get', () => {
    let media;

    before(async () => {
      media = await mediaPlaylist(edge().url);
    });

    // Not LL-HLS: shaka-player 5.2 throws ("reading 'match'" of a segment without a URI) when it loads a playlist in the moment in which
    // the running segment has a preload hint and no part yet. Now and then, and the playlist is what the draft asks for.
    for (const [manifest, modes] of [['/live/main/index.m3u8', [false]], ['/live/main/manifest.mpd', [false, true]]]) {
      for (const lowLatencyMode of modes) {
        test(`shaka-player plays ${manifest}${lowLatencyMode ? ' in low-latency mode' : ''}`, async (t) => {
          // The pages' policy allows no script but their own; this one is a visitor's.
          const context = await edge().browser.newContext({ bypassCSP: true });
          const page = await context.newPage();
          // A player that is refused something may drop a quality for it, without an error.
          const refused = [];
          page.on('response', (response) => { if (response.status() >= 400) refused.push(`${response.status()} ${response.url()}`); });
          page.on('requestfailed', (request) => refused.push(`${request.failure()?.errorText} ${request.url()}`));
          await page.goto(edge().url);
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
          assert.deepEqual(variants, [720, 480, 360], `${variants}; refused: ${refused.join(', ')}`);
          t.diagnostic(`${behind.toFixed(1)} s behind`);
          assert.ok(behind > 0 && behind < 30, `${behind} s behind`);
          await context.close();
        });
      }
    }

    const watch = async (context) => {
      const page = await context.newPage();
      await page.goto(`${edge().url}/watch/main?protocol=hls`);
      return { page, watching: viewer((expression) => page.evaluate(expression)) };
    };

    test('every quality is reached by choice', async () => {
      const context = await edge().browser.newContext();
      const { watching } = await watch(context);
      await watching.playing();
      const { levels } = await watching.stats();
      assert.deepEqual(levels.map((level) => level.height).sort((a, b) => b - a), [720, 480, 360]);
      for (const level of levels) {
        await watching.choose(level);
        await until(`the clock is read off ${level.name}`, async () => (await watching.delay()) !== null);
      }
      await context.close();
    });

    test('two tabs of one profile over HTTP/1.1 both play', async () => {
      const context = await edge().browser.newContext();
      const tabs = [await watch(context), await watch(context)];
      await Promise.all(tabs.map(({ watching }) => watching.playing()));
      for (const { page, watching } of tabs) {
        const { framesDecoded } = await watching.stats();
        await page.bringToFront();
        await until('frames advance', async () => (await watching.stats()).framesDecoded > framesDecoded + 30);
      }
      await context.close();
    });

    test('every preload hint is answered with the part that is then listed, across segments', async (t) => {
      const hinted = (text) => /#EXT-X-PRELOAD-HINT:TYPE=PART,URI="([^"]+\/(\d+)\.(\d+)\.[a-z2-7]{20}\.m4s)"/.exec(text).slice(1);
      let [hint, msn, part] = hinted(await (await fetch(media)).text());
      const [ahead, segments] = [[], new Set()];
      for (let n = 0; n < HINTS; n += 1) {
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
        assert.match(object.subarray(4, 8).toString('latin1'), /styp|moof/, 'it is CMAF');
        ahead.push(Math.abs(at.object - at.playlist));
        segments.add(msn);
        const next = hinted(playlist);
        assert.ok(Number(next[1]) > Number(msn) || Number(next[2]) > Number(part), `${next[0]} after ${hint}`);
        [hint, msn, part] = next;
      }
      assert.ok(segments.size > 2, 'several segments began meanwhile');
      ahead.sort((a, b) => a - b);
      t.diagnostic(`${HINTS} hints in ${segments.size} segments; a part and its playlist came ${ahead[HINTS >> 1].toFixed(1)} ms apart, ${ahead.at(-1).toFixed(1)} ms at worst`);
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
        const { code, stderr } = await run('ffmpeg', ['-hide_banner', '-v', 'warning', '-xerror', '-i', edge().url + path, '-t', '6', '-f', 'null', '-']);
        assert.equal(code, 0, stderr);
        assert.ok(!/non.monoton|Invalid|corrupt|error/i.test(stderr), stderr);
      });
    }
  });
}

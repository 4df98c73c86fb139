// A stream that needs a token: its owner makes a watch link in the studio, a browser plays by it, and stops when it is taken back.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { SHORT_LADDER, startServer, until } from './support/server.mjs';
import { viewer } from './support/viewer.mjs';

const shots = process.env.GHOST_LIVE_SHOTS ?? join(tmpdir(), 'ghost-live-shots');
const watcher = (page) => viewer((expression) => page.evaluate(expression));

describe('a watch link', () => {
  let server;
  let encoder;
  let browser;
  let studio;

  before(async () => {
    await mkdir(shots, { recursive: true });
    server = await startServer({ config: `${SHORT_LADDER}[streams.main]\nvisibility = "token"\n` });
    encoder = publishClock(await server.rtmps(), { fps: 15 });
    browser = await launch();
    // The owner has the address that the panel shows.
    studio = await until('the panel shows the studio link', () => /\/studio\/main#([a-z2-7]+)/.exec(server.output())?.[1]);
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    await server?.stop();
  });

  const api = async (path, { secret = studio, ...init } = {}) => fetch(server.url + path, { ...init, headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' } });
  const sessions = async () => (await (await api('/api/streams/main/sessions')).json()).sessions;
  const state = (page, wanted, seconds = 30) => until(`the page is ${wanted}`, async () => (await watcher(page).stats()).state === wanted, seconds)
    .catch(async (error) => { throw new Error(`${error.message}: ${JSON.stringify(await watcher(page).stats())} ${await watcher(page).words()}`); });
  const makeLink = async (body) => {
    const response = await api('/api/streams/main/links', { method: 'POST', body: JSON.stringify(body) });
    assert.equal(response.status, 201);
    return response.json();
  };

  test('is made, seen and revoked in the studio, which every other page is logged out of', async () => {
    await until('the stream is live', async () => (await (await api('/api/streams/main')).json()).live, 40);
    const owner = await open(browser, `${server.url}/studio/main#${studio}`);
    // The stream is closed to all others, and the studio shows it.
    await watcher(owner).playing();
    await owner.getByText('The watch address alone lets nobody in.').waitFor();
    await owner.getByRole('button', { name: 'New watch link…' }).click();
    await owner.getByLabel('Who it is for').fill('The press');
    await owner.getByLabel('Devices at a time').fill('1');
    await owner.getByRole('button', { name: 'Make the link' }).click();
    const link = owner.getByRole('list', { name: 'Watch links' }).getByRole('listitem').filter({ hasText: 'The press' });
    await link.waitFor();
    await owner.evaluate(() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; });
    await link.getByRole('button', { name: /^Copy link/ }).click();
    const copied = await owner.evaluate(() => window.copied);
    assert.ok(copied.startsWith(`${server.url}/watch/main#token=`), copied);
    const address = copied.replace('#', '?protocol=hls#');

    const page = await open(browser, address);
    await watcher(page).playing();
    const other = await open(browser, address);
    await state(other, 'denied');
    assert.match(await watcher(other).words(), /in use elsewhere/);
    const session = owner.getByRole('list', { name: 'Who watches with a link' }).getByRole('listitem');
    await session.filter({ hasText: 'The press' }).waitFor();
    assert.equal(await session.count(), 1);
    assert.match(await session.innerText(), /127\.0\.0\.1 · HLS/);
    await owner.screenshot({ path: join(shots, 'studio-links.png'), fullPage: true });

    await session.getByRole('button', { name: /^End/ }).click();
    await state(page, 'denied', 8);
    assert.match(await watcher(page).words(), /asked to leave/);
    await page.getByRole('button', { name: 'Watch again' }).click();
    await watcher(page).playing();

    await link.getByRole('button', { name: /^Revoke/ }).click();
    await owner.getByRole('button', { name: 'Revoke it' }).click();
    await state(page, 'denied', 8);
    assert.match(await watcher(page).words(), /no longer valid/);
    await link.waitFor({ state: 'detached' });

    const elsewhere = await open(browser, `${server.url}/studio/main#${studio}`);
    await watcher(elsewhere).playing();
    await owner.getByRole('button', { name: 'Log out everywhere…' }).click();
    await owner.getByRole('dialog').getByRole('button', { name: 'Log out everywhere' }).click();
    await elsewhere.getByText('You are logged out').waitFor();
    const shown = await owner.getByLabel('Studio link', { exact: true }).inputValue();
    const old = studio;
    studio = shown.split('#')[1];
    assert.notEqual(studio, old);
    assert.equal((await api('/api/studio/main')).status, 200);
    for (const path of ['/api/studio/main', '/api/streams/main/links']) assert.equal((await api(path, { secret: old })).status, 401);
    await watcher(owner).playing();
    for (const open of [page, other, owner, elsewhere]) await open.context().close();
  });

  test('is played by a player without scripts, which has the token once, and is out when it is revoked', async () => {
    const link = await makeLink({ name: 'A television', for_s: 3600, max: 1 });
    await until('the stream is live', async () => (await (await api('/api/streams/main')).json()).live, 40);
    const player = spawn('ffmpeg', ['-hide_banner', '-loglevel', 'info', '-nostats', '-i', `${server.url}/live/main/index.m3u8?token=${link.token}`, '-map', '0:v:0', '-f', 'framecrc', '-'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    let frames = 0;
    player.stderr.on('data', (text) => { said += text; });
    player.stdout.on('data', (text) => { frames += String(text).split('\n').filter((line) => /^0,/.test(line)).length; });
    const ended = new Promise((resolve) => player.on('exit', resolve));
    try {
      await until('it plays', () => frames > 60, 30).catch((error) => { throw new Error(`${error.message}: ${said}`); });
      const ours = (await sessions()).filter(({ jti }) => jti === link.jti);
      assert.deepEqual(ours.map(({ subject, protocol }) => [subject, protocol]), [['A television', 'hls']]);
      assert.equal((await api(`/api/streams/main/links/${link.jti}`, { method: 'DELETE' })).status, 204);
      await until('it hears that it is out', () => /403/.test(said), 15).catch((error) => { throw new Error(`${error.message}: ${said}`); });
      assert.equal((await sessions()).filter(({ jti }) => jti === link.jti).length, 0);
      assert.ok(!server.output().includes(link.token.split('.')[1]), 'a token is in the log');
    } finally {
      player.kill('SIGKILL');
      await ended;
    }
  });

  for (const [protocol, query] of [['ll-hls', '?protocol=hls'], ['dash', '?protocol=dash']]) {
    test(`plays over ${protocol} on one device, through a reload, and stops when it is revoked`, async () => {
      const link = await makeLink({ name: `Anna, ${protocol}`, for_s: 3600, max: 1 });
      const address = `${server.url}/watch/main${query}#token=${link.token}`;
      await until('the stream is live', async () => (await (await api('/api/streams/main')).json()).live, 40);
      const page = await open(browser, address);
      const watching = watcher(page);
      await watching.playing();
      await watching.advances();
      assert.equal((await watching.stats()).transport, protocol);

      const other = await open(browser, address);
      await state(other, 'denied');
      assert.match(await watcher(other).words(), /in use elsewhere/);
      await other.screenshot({ path: join(shots, `in-use-${protocol}.png`) });

      const ours = (await sessions()).filter(({ jti }) => jti === link.jti);
      assert.equal(ours.length, 1);
      assert.deepEqual([ours[0].subject, ours[0].protocol], [`Anna, ${protocol}`, protocol === 'dash' ? 'dash' : 'hls']);

      // The page that is left says so: neither itself after a reload nor another device waits for its room.
      await page.reload();
      await watching.playing();
      await page.goto('about:blank');
      await other.getByRole('button', { name: 'Try again' }).click();
      await watcher(other).playing();

      const deleted = await api(`/api/streams/main/links/${link.jti}`, { method: 'DELETE' });
      assert.equal(deleted.status, 204);
      await state(other, 'denied', 8);
      assert.match(await watcher(other).words(), /no longer valid/);
      assert.equal(await watcher(other).video('readyState'), 0, 'the picture is gone');
      await other.screenshot({ path: join(shots, `revoked-${protocol}.png`) });
      assert.ok(!server.output().includes(link.token.split('.')[1]), 'a token is in the log');
      await page.context().close();
      await other.context().close();
    });
  }

  test('is needed, and says what is wrong with it', async () => {
    const link = await makeLink({ name: 'soon over', for_s: 0 });
    for (const [hash, words] of [['', /You need a link/], ['#token=a.b.c', /does not work/], [`#token=${link.token}`, /has expired/]]) {
      const page = await open(browser, `${server.url}/watch/main${hash}`);
      await state(page, 'denied');
      assert.match(await watcher(page).words(), words);
      await page.context().close();
    }
  });

  test('goes on with its session when the broadcast is taken up again', async () => {
    const link = await makeLink({ name: 'patient', for_s: 3600, max: 1 });
    await until('the stream is live', async () => (await (await api('/api/streams/main')).json()).live, 40);
    const page = await open(browser, `${server.url}/watch/main?protocol=hls#token=${link.token}`);
    await watcher(page).playing();
    const before = (await sessions()).find(({ jti }) => jti === link.jti);
    await encoder.stop();
    await state(page, 'ended', 60);
    encoder = publishClock(await server.rtmps(), { fps: 15 });
    await watcher(page).playing(60);
    const after = (await sessions()).filter(({ jti }) => jti === link.jti);
    assert.deepEqual(after.map(({ id }) => id), [before.id]);
    await page.context().close();
  });
});

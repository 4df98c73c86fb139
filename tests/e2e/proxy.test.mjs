// The reverse-proxy samples of infra/proxy, as they lie there but for names, ports and certificates: a browser plays through each over
// HTTPS and HTTP/2, and an encoder publishes RTMPS through nginx to plain RTMP behind the PROXY protocol.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:http2';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { publishClock, readDelay } from './support/clock.mjs';
import { freePort } from '../ports.mjs';
import { SHORT_LADDER, startServer, until } from './support/server.mjs';

const tools = process.env.GHOST_LIVE_TOOLS ?? join(process.env.GHOST_LIVE_CACHE ?? join(homedir(), '.cache', 'ghost-live'), 'tools');
const proxies = join(tools, 'proxies');
const samples = new URL('../../infra/proxy/', import.meta.url);

/** The text with each pair's first replaced, which must be in it: the sample may not drift away from the test. */
function replaced(text, pairs) {
  return pairs.reduce((now, [from, to]) => {
    assert.ok(now.includes(from), `the sample has no ${JSON.stringify(from)}`);
    return now.replaceAll(from, to);
  }, text);
}

async function start(command, args, env = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { output += chunk; });
  const exited = new Promise((resolve) => child.on('exit', resolve).on('error', resolve));
  return {
    output: () => output,
    child,
    async stop() {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

async function nginx(folder, server, { certificate, key }) {
  const [https, rtmps] = [await freePort(), await freePort()];
  const sample = replaced(await readFile(new URL('nginx.conf', samples), 'utf8'), [
    ['127.0.0.1:8080', `127.0.0.1:${server.ports.web}`],
    ['listen 443 ssl http2;', `listen 127.0.0.1:${https} ssl http2;`],
    ['    listen [::]:443 ssl http2;\n', ''],
    ['/etc/letsencrypt/live/live.example.org/fullchain.pem', certificate],
    ['/etc/letsencrypt/live/live.example.org/privkey.pem', key],
    ['listen 1937 ssl;', `listen 127.0.0.1:${rtmps} ssl;`],
    ['127.0.0.1:1935', `127.0.0.1:${server.ports.rtmp}`],
  ]);
  // The second half is a comment there, because it belongs into another file.
  const at = sample.indexOf('# stream {');
  assert.ok(at > 0, 'the sample has a stream block');
  const stream = sample.slice(at).replace(/^# ?/gm, '');
  const http = sample.slice(0, at);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ');
  await writeFile(join(folder, 'nginx.conf'), [
    `load_module ${proxies}/usr/lib/nginx/modules/ngx_stream_module.so;`,
    `daemon off; master_process off; pid ${folder}/nginx.pid; error_log stderr warn;`,
    'events { worker_connections 256; }',
    `http { access_log off; ${paths}\n${http}\n}`,
    stream,
  ].join('\n'));
  const process = await start(join(proxies, 'usr/sbin/nginx'), ['-p', folder, '-c', join(folder, 'nginx.conf')]);
  return { ...process, https, rtmps };
}

async function caddy(folder, server, { certificate, key }) {
  const https = await freePort();
  const sample = replaced(await readFile(new URL('Caddyfile', samples), 'utf8'), [
    ['\nlive.example.org {', `\n{\n\tadmin off\n\tauto_https off\n}\nhttps://127.0.0.1:${https} {\n\tbind 127.0.0.1\n\ttls ${certificate} ${key}`],
    ['reverse_proxy 127.0.0.1:8080', `reverse_proxy 127.0.0.1:${server.ports.web}`],
  ]);
  await writeFile(join(folder, 'Caddyfile'), sample);
  const args = ['run', '--config', join(folder, 'Caddyfile'), '--adapter', 'caddyfile'];
  return { ...(await start(join(proxies, 'usr/bin/caddy'), args, { HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder })), https };
}

/** A GET over HTTP/2 and nothing else: headers and body. */
async function get(url, headers = {}) {
  const session = connect(url.origin, { rejectUnauthorized: false });
  try {
    return await new Promise((resolve, reject) => {
      session.on('error', reject);
      const request = session.request({ ':path': url.pathname + url.search, ...headers });
      const chunks = [];
      let head;
      request.on('response', (response) => { head = response; });
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', () => resolve({ head, body: Buffer.concat(chunks) }));
      request.on('error', reject);
    });
  } finally {
    session.close();
  }
}

describe('behind a reverse proxy', () => {
  let folder;
  let server;
  let encoder;
  let browser;
  const running = {};

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ghost-live-proxy-'));
    server = await startServer({ config: SHORT_LADDER, ingest: 'proxy_from = ["127.0.0.1/32"]' });
    // The self-signed one of the first start: a proxy has its own, but any will do here.
    const files = { certificate: join(server.folder, 'self-signed.crt'), key: join(server.folder, 'self-signed.key') };
    for (const [name, begin] of [['nginx', nginx], ['caddy', caddy]]) {
      await mkdir(join(folder, name));
      running[name] = await begin(join(folder, name), server, files);
    }
    browser = await launch();
    encoder = publishClock(`rtmps://127.0.0.1:${running.nginx.rtmps}/live/${await server.key()}`);
    await server.live().catch((error) => { throw new Error(`${error.message}\n${running.nginx.output()}\n${server.output()}`); });
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    for (const proxy of Object.values(running)) await proxy.stop();
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  test('RTMPS through nginx reaches plain RTMP, which takes the address from the PROXY protocol', async () => {
    assert.equal((await server.json('/api/streams/main')).live, true);
    // Without the header of a proxy, a peer that is listed as one is not let in.
    const direct = publishClock(await server.rtmp());
    assert.notEqual(await direct.exited, 0);
    await direct.kill();
  });

  for (const name of ['nginx', 'caddy']) {
    test(`${name}: a playlist waits for its part over HTTP/2 and comes compressed, and the page plays`, async (t) => {
      const origin = `https://127.0.0.1:${running[name].https}`;
      const multivariant = new URL('/live/main/index.m3u8', origin);
      const { body } = await until(`${name} answers`, async () => {
        const answer = await get(multivariant);
        return answer.head[':status'] === 200 && answer;
      }).catch((error) => { throw new Error(`${error.message}\n${running[name].output()}`); });
      const media = new URL(body.toString().split('\n').find((line) => line.endsWith('index.m3u8')), multivariant);
      const hint = /#EXT-X-PRELOAD-HINT:TYPE=PART,URI="[^"]+\/(\d+)\.(\d+)\.[a-z2-7]{20}\.m4s"/;
      const [, msn, part] = hint.exec((await get(media)).body.toString());
      media.search = `_HLS_msn=${msn}&_HLS_part=${part}`;
      const blocked = await get(media, { 'accept-encoding': 'br' });
      assert.equal(blocked.head[':status'], 200);
      assert.equal(blocked.head['content-encoding'], 'br');

      const page = await open(browser, `${origin}/watch/main?protocol=hls`, { ignoreHTTPSErrors: true });
      const stats = () => page.evaluate(() => window.ghostLive.player.stats);
      await until('the page plays', async () => (await stats()).framesDecoded > 60, 40);
      assert.equal((await stats()).transport, 'll-hls');
      const ms = await until('the clock can be read', () => page.evaluate(`(${readDelay})(window.ghostLive.player)`));
      t.diagnostic(`${name}: ${ms} ms behind, a few seconds after the join`);
      await page.context().close();
    });
  }
});

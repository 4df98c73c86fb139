// `<ghost-live-player>` as a library on somebody else's page: another origin, so that what the edge allows other sites is real.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, relative, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { launch, open } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { SHORT_LADDER, startServer, until } from './support/server.mjs';
import { viewer } from './support/viewer.mjs';

const PLAYER = resolve(import.meta.dirname, '../../player');
const TYPES = { '.js': 'text/javascript', '.mjs': 'text/javascript' };
const run = promisify(execFile);

/** Where a page without a bundler finds what the library imports by name, as Node.js resolves it from the player's folder. */
async function importMap(folder) {
  const names = new Set();
  for (const file of (await readdir(folder)).filter((name) => name.endsWith('.js'))) {
    const code = await readFile(join(folder, file), 'utf8');
    for (const [, name] of code.matchAll(/(?:from|import) ?["']((?:hls\.js|dashjs|media-chrome)(?:\/[^"']*)?)["']/g)) names.add(name);
  }
  const script = 'console.log(JSON.stringify(process.argv.slice(1).map((name) => [name, import.meta.resolve(name)])))';
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', script, ...names], { cwd: PLAYER });
  const imports = JSON.parse(stdout).map(([name, url]) => [name, `/${relative(PLAYER, fileURLToPath(url))}`]);
  return { imports: Object.fromEntries(imports) };
}

/** A site that carries the element, on an origin of its own. */
async function startSite(edge) {
  const { exports } = JSON.parse(await readFile(join(PLAYER, 'package.json'), 'utf8'));
  const library = join(PLAYER, exports['.'].import);
  await readFile(join(PLAYER, exports['.'].types));
  const map = JSON.stringify(await importMap(join(library, '..')));
  const page = (protocol) => `<!doctype html><html lang="en"><title>Somebody's page</title><link rel="icon" href="data:,">
<script type="importmap">${map}</script>
<script type="module">
  import '/${relative(PLAYER, library)}';
  window.ghostLive = { player: document.querySelector('ghost-live-player') };
</script>
<ghost-live-player server="${edge}" stream="main" protocol="${protocol}" autoplay muted></ghost-live-player></html>`;
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://site');
    if (pathname === '/') return response.setHeader('content-type', 'text/html; charset=utf-8').end(page(searchParams.get('protocol')));
    return readFile(join(PLAYER, pathname)).then(
      (body) => response.setHeader('content-type', TYPES[extname(pathname)] ?? 'application/octet-stream').end(body),
      () => response.writeHead(404).end(),
    );
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

describe('the element on a page of another origin', () => {
  let server;
  let encoder;
  let browser;
  let site;

  before(async () => {
    await run('npm', ['run', '--silent', 'build:lib'], { cwd: PLAYER });
    server = await startServer({ config: SHORT_LADDER });
    encoder = publishClock(await server.rtmps());
    browser = await launch();
    site = await startSite(server.url);
    await server.live();
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    await site?.stop();
    await server?.stop();
  });

  for (const [protocol, transport] of [['hls', 'll-hls'], ['dash', 'dash']]) {
    test(`plays over ${protocol}`, async () => {
      const page = await open(browser, `${site.url}/?protocol=${protocol}`);
      await page.waitForFunction(() => window.ghostLive?.player.stats).catch((error) => { throw new Error(`${error.message}; ${page.complaints.join('; ')}`); });
      const watching = viewer((expression) => page.evaluate(expression));
      await watching.playing().catch((error) => { throw new Error(`${error.message}; ${page.complaints.join('; ')}`); });
      await watching.advances();
      assert.equal((await watching.stats()).transport, transport);
      await until('the clock is read off the picture', async () => (await watching.delay()) !== null);
      // What the edge refuses to other sites would be among these.
      assert.deepEqual(page.complaints, []);
      await page.context().close();
    });
  }
});

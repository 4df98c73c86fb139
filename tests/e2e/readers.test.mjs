// The edge inside `ghost-live up`, with everything in one process.
import { after, before, describe } from 'node:test';

import { launch } from './support/browser.mjs';
import { publishClock } from './support/clock.mjs';
import { edgeChecks } from './support/edge-checks.mjs';
import { startServer } from './support/server.mjs';

describe('ghost-live up', () => {
  let server;
  let encoder;
  let browser;

  before(async () => {
    server = await startServer();
    encoder = publishClock(await server.rtmps());
    browser = await launch();
    await server.live();
  });

  after(async () => {
    await encoder?.kill();
    await browser?.close();
    await server?.stop();
  });

  edgeChecks(() => ({ url: server.url, browser }));
});

// What each test of a file starts from: a mock edge of its own and a fresh profile, in one browser a file.
import { after, afterEach, before, beforeEach } from 'node:test';
import { MockServer } from '../../mock/server.js';
import { DEADLINE_MS, launch } from './browser.js';

/** Registers what opens and closes it, and gives access to it. */
export function stage() {
  /** @type {import('playwright-core').Browser} */
  let browser;
  /** @type {import('playwright-core').BrowserContext | undefined} */
  let last;
  /** @type {MockServer} */
  let server;
  /** @type {string} */
  let base;
  /** @type {string[]} */
  let complaints;

  /** A fresh profile in place of the one that is there. @param {import('playwright-core').BrowserContextOptions} options */
  async function renew(options) {
    await last?.close();
    last = await browser.newContext(options);
    last.setDefaultTimeout(DEADLINE_MS);
  }

  before(async () => {
    browser = await launch();
  });
  after(() => browser.close());
  beforeEach(async () => {
    server = new MockServer(['demo', 'other']);
    base = await server.listen();
    complaints = [];
    await renew({ viewport: { width: 1280, height: 800 } });
  });
  afterEach(async () => {
    await last?.close();
    await server.close();
  });

  /** The profile that is open. */
  const context = () => {
    if (!last) throw new Error('no test has begun');
    return last;
  };

  return {
    renew,
    context,
    get server() {
      return server;
    },
    get base() {
      return base;
    },
    /** What went wrong in a page, or reached out of the server. */
    get complaints() {
      return complaints;
    },
    /** @param {string} path */
    async open(path) {
      const page = await context().newPage();
      page.on('pageerror', (error) => complaints.push(String(error)));
      page.on('console', (message) => /Content.Security.Policy/i.test(message.text()) && complaints.push(message.text()));
      page.on('request', (request) => request.url().startsWith(base) || /^(data|blob):/.test(request.url()) || complaints.push(`left the server: ${request.url()}`));
      await page.goto(base + path);
      return page;
    },
  };
}

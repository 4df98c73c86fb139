// Chromium as the tests use it: headless, talking to nobody but the mock.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const CANDIDATES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

// Addresses as they are, since nobody answers mDNS here; and pages that nobody looks at go on as fast as others.
const WEBRTC = ['--disable-features=WebRtcHideLocalIpsWithMdns', '--disable-background-timer-throttling', '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows'];

export function launch() {
  const executablePath = CANDIDATES.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('No Chromium found. Install it, or name it in the environment variable CHROMIUM.');
  return chromium.launch({
    executablePath,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', ...WEBRTC],
  });
}

/** @typedef {import('playwright-core').Page} Page */
/** @typedef {import('../../src/element/ghost-live-player.js').GhostLivePlayer} GhostLivePlayer */

/** @param {Page} page */
export function stats(page) {
  return page.evaluate(() => window.ghostLive.player.stats);
}

/** How long anything may take that a test waits for, milliseconds: long, since the machine may be busy with a build. */
export const DEADLINE_MS = 120_000;

/** @param {Page} page @param {string} state */
export async function state(page, state) {
  await page.waitForFunction((wanted) => 'ghostLive' in window && window.ghostLive.player.state === wanted, state, { polling: 100 });
}

/** Waits until the player's `stats` are as `met` wants them. @param {Page} page @param {(stats: GhostLivePlayer['stats']) => boolean} met @param {number} [deadlineMs] */
export async function until(page, met, deadlineMs = DEADLINE_MS) {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const now = await stats(page);
    if (met(now)) return;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${String(met)}, but ${JSON.stringify(now)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Waits until `count` more frames were decoded and the player says that it plays. @param {Page} page @param {number} [count] */
export async function frames(page, count = 20) {
  await state(page, 'playing');
  const from = (await stats(page)).framesDecoded;
  await page.waitForFunction(
    ([start, more]) => {
      const now = window.ghostLive.player.stats.framesDecoded;
      // A new media source counts from nothing.
      return now >= start + more || (now < start && now >= more);
    },
    /** @type {[number, number]} */ ([from, count]),
    { polling: 100 },
  );
}

/** Waits until the focus is on a control with these words. @param {Page} page @param {RegExp} words */
export async function focused(page, words) {
  await page.waitForFunction(
    ({ source, flags }) => {
      let element = document.activeElement;
      while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
      return new RegExp(source, flags).test(element?.getAttribute('aria-label') ?? element?.textContent.trim() ?? '');
    },
    { source: words.source, flags: words.flags },
    { polling: 50 },
  );
}

/** @param {Page} page @param {string} name */
export async function level(page, name) {
  await page.waitForFunction((wanted) => window.ghostLive.player.stats.level === wanted, name);
}

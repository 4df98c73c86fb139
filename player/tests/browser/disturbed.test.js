// The watch page in a real browser, against a mock edge that dies, stalls and cuts its streams.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { frames, state, stats, until } from './browser.js';
import { stage } from './stage.js';

const on = stage();

describe('disturbed', () => {
  it('goes on without a reload when the server died and came back', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await page.evaluate(() => (window.untouched = true));
    await frames(page, 60);
    on.server.die();
    await state(page, 'reconnecting');
    await page.waitForTimeout(3000);
    on.server.revive();
    await frames(page, 60);
    assert.equal(await page.evaluate(() => window.untouched), true);
    // Back at the target, not merely alive.
    await until(page, ({ distanceS, targetS }) => distanceS !== null && targetS !== null && distanceS < targetS + 1);
    assert.deepEqual(on.complaints, []);
  });

  it('goes on over DASH as well, and notices its end', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo?protocol=dash');
    await frames(page, 60);
    on.server.die();
    await page.waitForTimeout(4000);
    on.server.revive();
    await frames(page, 60);
    assert.equal((await stats(page)).transport, 'dash');
    on.server.stop('demo');
    await state(page, 'ended');
    assert.deepEqual(on.complaints, []);
  });

  it('goes on behind a discontinuity when the encoder came back within the grace period', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await frames(page, 60);
    on.server.cut('demo');
    await state(page, 'buffering');
    await page.locator('ghost-live-player .busy', { hasText: /cut/ }).waitFor();
    on.server.comeBack('demo');
    await frames(page, 60);
    assert.deepEqual(on.complaints, []);
  });

  it('changes over when the broadcast was replaced after a cut', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await frames(page, 60);
    on.server.cut('demo');
    await state(page, 'buffering');
    await page.waitForTimeout(1500);
    await on.server.start('demo');
    await frames(page, 60);
    assert.deepEqual(on.complaints, []);
  });

  it('returns to its delay after a stall', async () => {
    await on.server.start('demo');
    const page = await on.open('/watch/demo');
    await frames(page, 90);
    on.server.hold();
    await until(page, ({ stalls }) => stalls > 0);
    await page.waitForTimeout(1500);
    on.server.release();
    await frames(page, 30);
    // Each further stall, as a busy machine has them, doubles the time before what it added is taken back.
    await until(page, ({ distanceS, targetS }) => distanceS !== null && targetS !== null && Math.abs(distanceS - targetS) < 0.3 && targetS < 1.6, 400_000);
  });
});

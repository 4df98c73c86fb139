// The studio's watch links, sessions and logging out, in a real browser against the mock edge.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SECRET } from '../../mock/server.js';
import { focused, frames, state } from './browser.js';
import { stage } from './stage.js';

const on = stage();
const STUDIO = `/studio/demo#${SECRET}`;

/** Copied text, where the browser has a clipboard. @param {import('playwright-core').Page} page */
const clipboard = (page) => page.evaluate(() => navigator.clipboard.readText());

describe('the studio', () => {
  it('makes a watch link by keyboard alone, copies it whole, shows who watches by it, and takes it back', async () => {
    on.server.ticket('demo', 'another');
    await on.server.start('demo');
    await on.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    const page = await on.open(STUDIO);
    await page.getByText('The watch address alone lets nobody in.').waitFor();
    // Its own picture needs no link, and is nobody in the list.
    await frames(page);
    await page.getByText('Nobody watches with a link right now.').waitFor();

    await page.getByRole('button', { name: 'New watch link…' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('dialog', { name: 'New watch link' }).waitFor();
    await page.keyboard.type('Anna & <b>Ben</b>');
    await page.getByLabel('Devices at a time').fill('1');
    await page.getByLabel('May write in the chat').check();
    await page.keyboard.press('Enter');
    const row = page.getByRole('list', { name: 'Watch links' }).getByRole('listitem').filter({ hasText: 'Anna & <b>Ben</b>' });
    await row.waitFor();
    assert.match(await row.innerText(), /1 device · chat/);
    await focused(page, /^Copy link/);
    await page.keyboard.press('Enter');
    await row.getByText('Copied').waitFor();
    const link = await clipboard(page);
    assert.match(link, new RegExp(`^${on.base}/watch/demo#token=`));

    const viewer = await on.open(link.slice(on.base.length));
    await frames(viewer);
    const watching = page.getByRole('list', { name: 'Who watches with a link' }).getByRole('listitem');
    await watching.filter({ hasText: 'Anna' }).waitFor();
    assert.match(await watching.innerText(), /192\.0\.2\.7 · HLS/);
    await watching.getByRole('button', { name: /^End/ }).click();
    await state(viewer, 'denied');
    await page.getByText('Nobody watches with a link right now.').waitFor();
    await viewer.getByRole('button', { name: 'Watch again' }).click();
    await frames(viewer);

    await row.getByRole('button', { name: /^Revoke/ }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Keep it' }).click();
    assert.equal(await row.count(), 1);
    await row.getByRole('button', { name: /^Revoke/ }).click();
    await dialog.getByRole('button', { name: 'Revoke it' }).click();
    await row.waitFor({ state: 'detached' });
    await focused(page, /New watch link/);
    await state(viewer, 'denied');
    assert.match(await viewer.locator('ghost-live-player .card').innerText(), /no longer valid/);
    assert.deepEqual(on.complaints, []);
  });

  it('says what is wrong with a link that cannot be made, and keeps what was written', async () => {
    const page = await on.open(STUDIO);
    await page.getByText('nobody needs a link').first().waitFor();
    await page.getByRole('button', { name: 'New watch link…' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Make the link' }).click();
    assert.equal(await dialog.isVisible(), true, 'a link needs a name');
    await page.getByLabel('Who it is for').fill('refused');
    await dialog.getByRole('button', { name: 'Make the link' }).click();
    await dialog.getByRole('alert').getByText('1 to 80 characters').waitFor();
    assert.equal(await page.getByLabel('Who it is for').inputValue(), 'refused');
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    assert.deepEqual(on.complaints, []);
  });

  it('says who can watch, and changes it', async () => {
    await on.server.start('demo');
    const page = await on.open(STUDIO);
    const viewer = await on.open('/watch/demo');
    await frames(viewer);
    await frames(page);
    const who = page.getByLabel('Who can watch');
    assert.equal(await who.inputValue(), 'public');
    await who.selectOption('token');
    await page.getByRole('button', { name: 'Leave it open' }).click();
    await page.waitForFunction(() => /** @type {HTMLSelectElement} */ (document.querySelector('#visibility')).value === 'public');
    await who.selectOption('token');
    await page.getByRole('button', { name: 'Only with a link' }).click();
    await state(viewer, 'denied');
    await page.getByText('The watch address alone lets nobody in.').waitFor();
    // The studio's own picture goes on.
    await frames(page, 60);
    await who.selectOption('unlisted');
    await page.getByText('The stream is not on the home page.').waitFor();
    await viewer.getByRole('button', { name: 'Try again' }).click();
    await frames(viewer);
    assert.deepEqual(on.complaints, []);
  });

  it('logs every other page out, stays itself, and has its secret in no address', async () => {
    on.server.ticket('demo', 'another');
    await on.server.start('demo');
    const other = await on.open(STUDIO);
    const page = await on.open(STUDIO);
    await frames(page);
    await frames(other);
    await page.getByRole('button', { name: 'Log out everywhere…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Log out everywhere' }).click();
    await page.getByText('Every other page is logged out.').waitFor();
    await other.getByText('You are logged out').waitFor();
    const { secret } = on.server;
    assert.notEqual(secret, SECRET);
    assert.equal(await page.getByLabel('Studio link', { exact: true }).inputValue(), `${on.base}/studio/demo#${secret}`);
    assert.equal(await page.getByLabel('Studio link', { exact: true }).getAttribute('type'), 'password');
    // Its picture goes on, and so does the page after a reload; the other has nothing left to come back with.
    await frames(page);
    await page.reload();
    await page.getByLabel('Studio link', { exact: true }).waitFor();
    await frames(page);
    await other.reload();
    await other.getByText('This studio opens with its link').waitFor();
    for (const open of [page, other]) {
      assert.equal(new URL(open.url()).hash, '');
      assert.equal(await open.evaluate((secrets) => secrets.some((secret) => JSON.stringify(localStorage).includes(secret)), [secret, SECRET]), false);
    }
    assert.deepEqual(on.complaints, []);
  });

  it('fits a small phone', async () => {
    await on.renew({ viewport: { width: 320, height: 640 } });
    on.server.ticket('demo', 'another');
    const page = await on.open(STUDIO);
    const name = 'a-name-without-a-single-space-that-is-as-long-as-a-name-may-be-which-is-eighty-c';
    await page.getByRole('button', { name: 'New watch link…' }).click();
    await page.getByLabel('Who it is for').fill(name);
    const narrow = async () => assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 320, 'the page is wider than the screen');
    await narrow();
    await page.getByRole('button', { name: 'Make the link' }).click();
    await page.getByText(`The link for ${name} is ready`).waitFor();
    await narrow();
    await page.getByRole('button', { name: `Revoke the link for ${name}` }).click();
    await narrow();
    const small = await page.locator('.rows button, .answers button').evaluateAll((buttons) => buttons.filter((button) => button.getBoundingClientRect().height < 44).length);
    assert.equal(small, 0, 'a button is too small for a finger');
    assert.deepEqual(on.complaints, []);
  });
});

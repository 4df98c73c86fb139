/**
 * Studio: what a streamer needs to go live and to see that all is well. Reached by its secret link alone; the secret is in the
 * fragment, so that it is never sent as part of an address, and leaves the address bar at once.
 */
import { define } from '../element/ghost-live-player.js';
import { find, h, setText } from '../element/dom.js';
import { bitrateLabel } from '../element/words.js';
import { Api, ApiError, type StudioState, type Track } from '../stream/api.js';
import { backoffMs } from '../stream/backoff.js';
import { streamOf } from './address.js';
import { blank } from './blank.js';
import { copy } from './clipboard.js';
import { elapsed } from './words.js';

const POLL_MS = 3000;
const main = find('#studio');
const api = new Api();

const name = streamOf(location.pathname);
const secret = name ? takeSecret(name) : null;
if (name && secret) open(name, secret);
else closed();

/** The secret from the fragment, or the one this tab was opened with. */
function takeSecret(stream: string): string | null {
  const key = `ghost-live.studio.${stream}`;
  const given = decodeURIComponent(location.hash.slice(1));
  if (given) history.replaceState(null, '', location.pathname + location.search);
  try {
    if (given) sessionStorage.setItem(key, given);
    return given || sessionStorage.getItem(key);
  } catch {
    return given || null;
  }
}

function closed(): void {
  main.replaceChildren(
    blank('This studio opens with its link', 'Open the studio address that ghost-live printed when it started. It ends in # and a secret; keep it to yourself.', h('a', { class: 'button', href: '/' }, 'What is live')),
  );
}

function open(name: string, secret: string): void {
  document.title = `${name} studio · Ghost Live`;
  define();

  const badge = h('span', { class: 'badge off' }, 'Not live');
  const player = h('ghost-live-player', { stream: name, autoplay: true, muted: true });
  window.ghostLive = { player };
  const live = h('dd');
  const viewers = h('dd');
  const delay = h('dd');
  const servers = h('div', { class: 'fields' });
  const key = secretField();
  const tracks = h('tbody');
  const trackPanel = h(
    'section',
    { class: 'panel later', hidden: true },
    h('h2', {}, 'Renditions'),
    h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, ...['Track', 'Picture', 'Peak rate', 'Codec'].map((title) => h('th', { scope: 'col' }, title)))), tracks)),
  );
  const trouble = h('p', { class: 'dim small', role: 'status', hidden: true }, 'The server does not answer. Trying again…');
  const watchAddress = `${location.origin}/watch/${name}`;

  const dialog = rotateDialog(async () => {
    show(await api.rotateKey(name, secret));
  });
  const rotate = h('button', { class: 'button', type: 'button' }, 'New key…');
  rotate.addEventListener('click', () => dialog.showModal());

  main.replaceChildren(
    h('div', { class: 'head' }, h('h1', {}, `${name} studio`, ' ', badge), trouble),
    h(
      'div',
      { class: 'panels' },
      h(
        'div',
        { class: 'column' },
        h('section', { class: 'panel picture', 'aria-label': 'Preview' }, player),
        h(
          'section',
          { class: 'panel', 'aria-label': 'State' },
          h('dl', { class: 'numbers' }, ...pairs([['On air', live], ['Watching', viewers], ['Delay', delay]])),
        ),
        trackPanel,
      ),
      h(
        'div',
        { class: 'column' },
        h(
          'section',
          { class: 'panel' },
          h('h2', {}, 'Paste into your encoder'),
          servers,
          h('div', { class: 'field' }, h('label', { for: 'key' }, 'Stream key'), key.row, key.hidden, h('p', { class: 'note' }, 'Whoever has it can go live as you.')),
          h('div', { class: 'row' }, rotate),
        ),
        h('section', { class: 'panel' }, h('h2', {}, 'Share with viewers'), field('Watch address', 'watch', watchAddress)),
      ),
    ),
    dialog,
  );

  let shownServers = '';
  let shownTracks = '';

  function show(state: StudioState): void {
    badge.classList.toggle('off', !state.live);
    setText(badge, state.live ? 'Live' : 'Not live');
    setText(live, state.live && state.since ? elapsed(state.since, Date.now()) : '–');
    setText(viewers, String(state.viewers));
    key.set(state.key);

    const serverList = JSON.stringify(state.servers);
    if (serverList !== shownServers) {
      shownServers = serverList;
      servers.replaceChildren(...state.servers.map(({ url, note }, index) => field(serverLabel(url), `server-${index}`, url, note)));
    }
    const trackList = JSON.stringify(state.tracks);
    if (trackList !== shownTracks) {
      shownTracks = trackList;
      trackPanel.hidden = state.tracks.length === 0;
      tracks.replaceChildren(...state.tracks.map(trackRow));
    }
  }

  let failures = 0;
  async function poll(): Promise<void> {
    try {
      show(await api.studio(name, secret));
      failures = 0;
    } catch (error) {
      if (error instanceof ApiError && [401, 403, 404].includes(error.status)) {
        closed();
        return;
      }
      failures++;
    }
    trouble.hidden = failures < 2;
    setTimeout(() => void poll(), failures ? backoffMs(failures, 1000, 15_000, Math.random()) : POLL_MS);
  }
  player.addEventListener('delaychange', () => {
    const { delayS } = player.stats;
    setText(delay, delayS === null ? '–' : `${delayS.toFixed(1)} s`);
  });
  player.addEventListener('statechange', () => {
    if (!['playing', 'buffering'].includes(player.state)) setText(delay, '–');
  });
  setText(delay, '–');
  void poll();
}

/** `Server (RTMPS)`: by the address's scheme. */
function serverLabel(url: string): string {
  const scheme = /^[a-z]+(?=:)/i.exec(url)?.[0];
  return scheme ? `Server (${scheme.toUpperCase()})` : 'Server';
}

function pairs(rows: [string, HTMLElement][]): HTMLElement[] {
  return rows.map(([term, value]) => h('div', {}, h('dt', {}, term), value));
}

function trackRow(track: Track): HTMLElement {
  const picture = track.width && track.height ? `${track.width} × ${track.height}${track.frame_rate ? `, ${Math.round(track.frame_rate * 100) / 100}` : ''}` : 'Audio';
  return h('tr', {}, h('td', {}, track.name), h('td', {}, picture), h('td', {}, track.bandwidth ? bitrateLabel(track.bandwidth) : '–'), h('td', { class: 'code' }, track.codecs ?? '–'));
}

function copyButton(what: string, text: () => string): HTMLButtonElement {
  const button = h('button', { class: 'button', type: 'button', 'aria-label': `Copy ${what}` }, 'Copy');
  button.addEventListener('click', () => {
    void copy(text()).then((copied) => {
      button.textContent = copied ? 'Copied' : 'Select it';
      setTimeout(() => (button.textContent = 'Copy'), 2000);
    });
  });
  return button;
}

function field(label: string, id: string, value: string, note?: string): HTMLElement {
  const input = h('input', { id, readonly: true, value, spellcheck: 'false' });
  input.addEventListener('focus', () => input.select());
  return h(
    'div',
    { class: 'field' },
    h('label', { for: id }, label),
    h('div', { class: 'copyable' }, input, copyButton(label.toLowerCase(), () => value)),
    ...(note ? [h('p', { class: 'note' }, note)] : []),
  );
}

function secretField(): { row: HTMLElement; hidden: HTMLElement; set(value: string | null): void } {
  const input = h('input', { id: 'key', type: 'password', readonly: true, autocomplete: 'off', spellcheck: 'false' });
  const toggle = h('button', { class: 'button', type: 'button', 'aria-pressed': 'false' }, 'Show');
  toggle.addEventListener('click', () => {
    const shown = input.type === 'text';
    input.type = shown ? 'password' : 'text';
    toggle.textContent = shown ? 'Show' : 'Hide';
    toggle.setAttribute('aria-pressed', String(!shown));
  });
  const row = h('div', { class: 'copyable' }, input, toggle, copyButton('stream key', () => input.value));
  const hidden = h('p', { role: 'status', hidden: true }, 'The server can no longer show this key: the secret that it was sealed with has changed. The key still works; “New key…” makes one that can be shown.');
  return {
    row,
    hidden,
    set: (value) => {
      if (input.value !== (value ?? '')) input.value = value ?? '';
      row.hidden = value === null;
      hidden.hidden = value !== null;
    },
  };
}

function rotateDialog(rotate: () => Promise<void>): HTMLDialogElement {
  const failed = h('p', { role: 'alert', hidden: true });
  const cancel = h('button', { class: 'button', type: 'button' }, 'Keep it');
  const confirm = h('button', { class: 'button primary', type: 'submit' }, 'Make a new key');
  const form = h('form', { method: 'dialog' }, cancel, confirm);
  const dialog = h(
    'dialog',
    { 'aria-labelledby': 'rotate-title' },
    h('h2', { id: 'rotate-title' }, 'Make a new stream key?'),
    h('p', {}, 'The old key stops working at once. Put the new one into your encoder before you go live again.'),
    failed,
    form,
  );
  cancel.addEventListener('click', () => dialog.close());
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    confirm.disabled = true;
    failed.hidden = true;
    rotate()
      .then(() => dialog.close())
      .catch((error: unknown) => {
        failed.textContent = error instanceof Error ? error.message : 'That did not work.';
        failed.hidden = false;
      })
      .finally(() => (confirm.disabled = false));
  });
  return dialog;
}

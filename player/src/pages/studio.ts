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
import { ask } from './studio/dialog.js';
import { field, secretField } from './studio/fields.js';
import { LinksPanel } from './studio/links.js';
import { SessionsPanel } from './studio/sessions.js';
import { VisibilityField } from './studio/visibility.js';
import { elapsed } from './words.js';

const POLL_MS = 3000;
/** Another studio page may have made or revoked a link. */
const LINKS_MS = 30_000;
const main = find('#studio');
const api = new Api();

const name = streamOf(location.pathname);
const secret = name ? takeSecret(name) : null;
if (name && secret) open(name, secret);
else closed();

/** Where the secret is while the tab is open. */
function slot(stream: string): string {
  return `ghost-live.studio.${stream}`;
}

/** Keeps the secret for a reload of this tab, and no longer. */
function keepSecret(stream: string, secret: string | null): void {
  try {
    if (secret === null) sessionStorage.removeItem(slot(stream));
    else sessionStorage.setItem(slot(stream), secret);
  } catch {
    // Storage denied: a reload needs the link again.
  }
}

/** The secret from the fragment, or the one this tab was opened with. */
function takeSecret(stream: string): string | null {
  const key = slot(stream);
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

function loggedOut(name: string): void {
  keepSecret(name, null);
  main.replaceChildren(
    blank('You are logged out', 'This studio has a new link. Open that one: ghost-live shows it when it starts, and so does the page that logged out.', h('a', { class: 'button', href: '/' }, 'What is live')),
  );
}

function open(name: string, given: string): void {
  let secret = given;
  document.title = `${name} studio · Ghost Live`;
  define();

  const badge = h('span', { class: 'badge off' }, 'Not live');
  const player = h('ghost-live-player', { stream: name, autoplay: true, muted: true });
  window.ghostLive = { player };
  const live = h('dd');
  const viewers = h('dd');
  const delay = h('dd');
  const servers = h('div', { class: 'fields' });
  const key = secretField('key', 'stream key');
  const keyHidden = h('p', { role: 'status', hidden: true }, 'The server can no longer show this key: the secret that it was sealed with has changed. The key still works; “New key…” makes one that can be shown.');
  const studioLink = secretField('studio-link', 'studio link');
  const showStudioLink = () => studioLink.set(`${location.origin}/studio/${name}#${secret}`);
  showStudioLink();
  // The owner watches as nobody else does, and is shown to nobody.
  player.token = secret;
  const tracks = h('tbody');
  const trackPanel = h(
    'section',
    { class: 'panel later', hidden: true },
    h('h2', {}, 'Renditions'),
    h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, ...['Track', 'Picture', 'Peak rate', 'Codec'].map((title) => h('th', { scope: 'col' }, title)))), tracks)),
  );
  const trouble = h('p', { class: 'dim small', role: 'status', hidden: true }, 'The server does not answer. Trying again…');
  const watchAddress = `${location.origin}/watch/${name}`;

  const rotate = h('button', { class: 'button', type: 'button' }, 'New key…');
  rotate.addEventListener('click', () =>
    ask({
      title: 'Make a new stream key?',
      body: [h('p', {}, 'The old key stops working at once, and a broadcast that came with it ends. Put the new one into your encoder before you go live again.')],
      cancel: 'Keep it',
      confirm: 'Make a new key',
      run: async () => show(await api.rotateKey(name, secret)),
    }),
  );

  const visibility = new VisibilityField((wanted) => api.setVisibility(name, secret, wanted));
  const links = new LinksPanel(
    {
      list: () => api.links(name, secret),
      add: (wanted) => api.addLink(name, secret, wanted),
      revoke: async ({ jti }) => {
        await api.deleteLink(name, secret, jti);
        void refreshSessions();
      },
    },
    watchAddress,
  );
  const sessions = new SessionsPanel(({ id }) => api.endSession(name, secret, id));
  async function refreshSessions(): Promise<void> {
    const all = await api.sessions(name, secret);
    // The preview in a studio is one of them, and is no news to whoever looks at it.
    sessions.show(all.filter(({ subject, jti }) => subject !== 'studio' || links.has(jti)));
  }

  const leave = h('button', { class: 'button', type: 'button' }, 'Log out everywhere…');
  const left = h('p', { class: 'note', role: 'status' });
  leave.addEventListener('click', () =>
    ask({
      title: 'Log out everywhere?',
      body: [h('p', {}, 'The studio gets a new link. Every other page that the old one opened is out; this one stays. Stream key and watch links stay as they are.')],
      cancel: 'Stay',
      confirm: 'Log out everywhere',
      run: async () => {
        secret = await api.logOut(name, secret);
        keepSecret(name, secret);
        showStudioLink();
        player.token = secret;
        setText(left, 'Every other page is logged out. This is the new link: copy it now, or read it when ghost-live starts next.');
      },
    }),
  );

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
        sessions.element,
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
          h('div', { class: 'field' }, h('label', { for: 'key' }, 'Stream key'), key.row, keyHidden, h('p', { class: 'note' }, 'Whoever has it can go live as you.')),
          h('div', { class: 'row' }, rotate),
        ),
        h('section', { class: 'panel' }, h('h2', {}, 'Share with viewers'), field('Watch address', 'watch', watchAddress), visibility.element),
        links.element,
        h(
          'section',
          { class: 'panel later' },
          h('h2', {}, 'This studio'),
          h('div', { class: 'field' }, h('label', { for: 'studio-link' }, 'Studio link'), studioLink.row, h('p', { class: 'note' }, 'Whoever has it can do all of this. Keep it to yourself.')),
          h('div', { class: 'row' }, leave),
          left,
        ),
      ),
    ),
  );

  let shownServers = '';
  let shownTracks = '';

  function show(state: StudioState): void {
    badge.classList.toggle('off', !state.live);
    setText(badge, state.live ? 'Live' : 'Not live');
    setText(live, state.live && state.since ? elapsed(state.since, Date.now()) : '–');
    setText(viewers, String(state.viewers));
    key.row.hidden = state.key === null;
    keyHidden.hidden = state.key !== null;
    key.set(state.key ?? '');
    visibility.show(state.visibility);

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
  let opened = false;
  let linksMs = -Infinity;
  async function poll(): Promise<void> {
    const asked = secret;
    try {
      show(await api.studio(name, asked));
      opened = true;
      if (!document.hidden) {
        if (performance.now() - linksMs > LINKS_MS) {
          await links.refresh();
          linksMs = performance.now();
        }
        await refreshSessions();
      }
      failures = 0;
    } catch (error) {
      // Refused with what this very page has just replaced: the next question has the new one.
      if (asked === secret && error instanceof ApiError && [401, 403, 404].includes(error.status)) {
        if (opened) loggedOut(name);
        else closed();
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

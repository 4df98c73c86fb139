/** Home: what is live, kept up to date. */
import { find, h } from '../element/dom.js';
import { ghost } from '../element/ghost.js';
import { Api, type Stream } from '../stream/api.js';
import { backoffMs } from '../stream/backoff.js';
import { blank } from './blank.js';
import { bestQuality, liveFor, watching } from './words.js';

const main = find('#streams');
const api = new Api();
let failures = 0;
let shown = '';

function card(stream: Stream): HTMLElement {
  const facts = [watching(stream.viewers), ...(stream.since ? [liveFor(stream.since, Date.now())] : [])];
  const quality = bestQuality(stream.tracks);
  return h(
    'li',
    {},
    h(
      'a',
      { class: 'card', href: `/watch/${stream.name}` },
      h('div', { class: 'screen' }, ghost(), h('span', { class: 'badge' }, 'Live'), ...(quality ? [h('span', { class: 'quality' }, quality)] : [])),
      h('div', { class: 'about' }, h('h3', {}, stream.name), h('p', { class: 'facts' }, ...facts.map((fact) => h('span', {}, fact)))),
    ),
  );
}

function page(streams: Stream[]): HTMLElement[] {
  const live = streams.filter(({ live }) => live).sort((a, b) => b.viewers - a.viewers || a.name.localeCompare(b.name));
  const off = streams.filter(({ live }) => !live).sort((a, b) => a.name.localeCompare(b.name));
  const sections: HTMLElement[] = [];
  if (live.length) {
    sections.push(h('section', { class: 'group' }, h('h2', {}, 'Live now'), h('ul', { class: 'cards' }, ...live.map(card))));
  } else {
    sections.push(blank('Nothing is live right now', 'Streams appear here by themselves as soon as they begin.'));
  }
  if (off.length) {
    const links = off.map(({ name }) => h('li', {}, h('a', { class: 'button', href: `/watch/${name}` }, name)));
    sections.push(h('section', { class: 'group' }, h('h2', {}, 'Not live'), h('ul', { class: 'quiet' }, ...links)));
  }
  return sections;
}

async function refresh(): Promise<void> {
  try {
    const streams = await api.streams();
    failures = 0;
    const minute = Math.floor(Date.now() / 60_000);
    const now = JSON.stringify([streams, minute]);
    if (now !== shown) {
      shown = now;
      main.replaceChildren(...page(streams));
    }
  } catch {
    failures++;
    // A list that is a little old is better than none.
    if (!shown) main.replaceChildren(blank('The server does not answer', 'Trying again by itself. Is this device online?'));
  }
  // A hidden tab rests.
  const waitMs = failures ? backoffMs(failures, 1000, 30_000, Math.random()) : backoffMs(0, document.hidden ? 60_000 : 10_000, 60_000, Math.random());
  timer = setTimeout(() => void refresh(), waitMs);
}

let timer: ReturnType<typeof setTimeout> | undefined;
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  clearTimeout(timer);
  void refresh();
});
void refresh();

/** Watch: the player and what there is to know about the stream. */
import { find, h, setText } from '../element/dom.js';
import { streamOf, tokenOf } from './address.js';
import { blank } from './blank.js';
import { copy } from './clipboard.js';
import { mount, shareKeys } from './player.js';
import { liveFor, watching } from './words.js';

const name = streamOf(location.pathname);
if (name) watch(name);
else find('main').replaceChildren(blank('There is no such stream', 'Check the address.', h('a', { class: 'button', href: '/' }, 'What is live')));

function watch(name: string): void {
  document.title = `${name} · Ghost Live`;
  find('#name').textContent = name;
  const player = mount(name);
  shareKeys(player);

  const facts = find('#facts');
  const badge = h('span', { class: 'badge' });
  const since = h('span');
  const viewers = h('span');
  const show = () => {
    const stream = player.broadcast;
    const live = stream?.live === true && player.state !== 'ended';
    if (!stream) {
      facts.replaceChildren();
      return;
    }
    badge.classList.toggle('off', !live);
    setText(badge, live ? 'Live' : 'Not live');
    setText(viewers, watching(stream.viewers));
    setText(since, stream.since ? liveFor(stream.since, Date.now()) : '');
    facts.replaceChildren(badge, ...(live ? [...(stream.viewers ? [viewers] : []), ...(stream.since ? [since] : [])] : []));
  };
  player.addEventListener('streamchange', show);
  player.addEventListener('statechange', show);
  setInterval(show, 30_000);

  // What a phone's lock screen says.
  if ('mediaSession' in navigator) navigator.mediaSession.metadata = new MediaMetadata({ title: name, artist: 'Ghost Live' });

  const share = find<HTMLButtonElement>('#share');
  // Who came by a watch link has one for themselves; the bare address is of no use to others.
  const shareable = () => (share.hidden = tokenOf(location.hash) !== null);
  window.addEventListener('hashchange', shareable);
  shareable();
  share.addEventListener('click', () => void shareAddress(share, name));
}

async function shareAddress(button: HTMLButtonElement, name: string): Promise<void> {
  const url = location.origin + location.pathname;
  // The system's own share sheet where a finger is likely, the clipboard elsewhere.
  if (typeof navigator.share === 'function' && matchMedia('(pointer: coarse)').matches) {
    await navigator.share({ title: `${name} · Ghost Live`, url }).catch(() => undefined);
    return;
  }
  button.textContent = (await copy(url)) ? 'Link copied' : url;
  setTimeout(() => (button.textContent = 'Share'), 2500);
}

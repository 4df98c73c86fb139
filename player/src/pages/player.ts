/** Puts a player into a page that is made of one, and hands it to tests and to the curious as `window.ghostLive`. */
import { define, type GhostLivePlayer } from '../element/ghost-live-player.js';
import { find, h } from '../element/dom.js';
import { tokenOf } from './address.js';

declare global {
  interface Window {
    ghostLive?: { player: GhostLivePlayer };
  }
}

export function mount(stream: string, options: { muted?: boolean } = {}): GhostLivePlayer {
  define();
  const query = new URLSearchParams(location.search);
  const player = h('ghost-live-player', {
    stream,
    autoplay: query.get('autoplay') !== '0',
    protocol: query.get('protocol') ?? query.get('transport') ?? undefined,
    quality: query.get('quality') ?? undefined,
    'target-delay': query.get('delay') ?? undefined,
    muted: options.muted === true || query.has('muted'),
  });
  // A watch link: its fragment is sent nowhere, and stays, so that a reload and a bookmark have it.
  player.token = tokenOf(location.hash);
  window.addEventListener('hashchange', () => (player.token = tokenOf(location.hash)));
  find('#screen').replaceWith(player);
  window.ghostLive = { player };
  return player;
}

/** Key presses anywhere on the page are the player's, unless something else on it wants them. */
export function shareKeys(player: GhostLivePlayer): void {
  document.addEventListener('keydown', (event) => {
    if (!event.composedPath().includes(player)) player.handleKey(event);
  });
}

import type { GhostLivePlayer } from '../../src/element/ghost-live-player.js';

declare global {
  interface Window {
    /** What every page with a player puts there. */
    ghostLive: { player: GhostLivePlayer };
    /** Set by a test, and gone when the page was loaded anew. */
    untouched?: boolean;
  }
}

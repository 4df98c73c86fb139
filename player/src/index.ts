/** The library: importing it registers `<ghost-live-player>`. */
import { define, GhostLivePlayer } from './element/ghost-live-player.js';

define();

export { GhostLivePlayer };
export type { Rendition, TransportKind } from './playback/transport.js';
export type { Denial } from './stream/denial.js';
export type { Phase } from './stream/lifecycle.js';
export type { Stats } from './stream/session.js';

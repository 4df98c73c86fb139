/** Embed: the player alone, for a frame in somebody else's page. */
import { streamOf } from './address.js';
import { mount, shareKeys } from './player.js';

const name = streamOf(location.pathname);
// An impossible name goes to the player as well: it says in words that there is no such stream.
const player = mount(name ?? '-');
if (name) document.title = `${name} · Ghost Live`;
shareKeys(player);

/** Who watches with a token, and how one of them is ended. */
import { h, setText } from '../../element/dom.js';
import type { PlaybackSession } from '../../stream/api.js';
import { elapsed } from '../words.js';
import { Rows } from './rows.js';

/** So many are shown: who has more of them looks by the API. */
const MOST = 100;

export class SessionsPanel {
  readonly element: HTMLElement;
  readonly #rows: Rows<PlaybackSession>;
  readonly #end: (session: PlaybackSession) => Promise<void>;
  readonly #none = h('p', { class: 'note' }, 'Nobody watches with a link right now.');
  readonly #more = h('p', { class: 'note', hidden: true });
  readonly #said = h('p', { class: 'note', role: 'status' });
  readonly #title = h('h2', { tabindex: -1 }, 'Watching with a link');

  constructor(end: (session: PlaybackSession) => Promise<void>) {
    this.#end = end;
    const list = h('ul', { class: 'rows', 'aria-label': 'Who watches with a link' });
    this.#rows = new Rows(list, ({ id }) => id, (session) => this.#row(session));
    this.element = h('section', { class: 'panel later' }, this.#title, list, this.#none, this.#more, this.#said);
  }

  show(sessions: PlaybackSession[]): void {
    this.#none.hidden = sessions.length > 0;
    this.#more.hidden = sessions.length <= MOST;
    setText(this.#more, `And ${(sessions.length - MOST).toLocaleString('en')} more.`);
    this.#rows.show(sessions.slice(0, MOST));
  }

  #row(session: PlaybackSession): { row: HTMLElement; update(session: PlaybackSession): void } {
    const name = session.subject ?? 'Somebody since before the server was restarted';
    const facts = h('p', { class: 'note' });
    const end = h('button', { class: 'button', type: 'button', 'aria-label': `End the playback of ${name}, ${session.address}` }, 'End');
    const row = h('li', {}, h('div', { class: 'what' }, h('p', { class: 'name' }, name), facts), h('div', { class: 'acts' }, end));
    end.addEventListener('click', () => {
      end.disabled = true;
      this.#end(session)
        .then(() => {
          setText(this.#said, `The playback of ${name} is ended. The link lets them in again.`);
          row.remove();
          this.#title.focus();
        })
        .catch((error: unknown) => setText(this.#said, error instanceof Error ? error.message : 'That did not work.'))
        .finally(() => (end.disabled = false));
    });
    return {
      row,
      update: ({ address, begun_unix_ms, protocol }) => {
        const since = elapsed(new Date(begun_unix_ms).toISOString(), Date.now());
        const how = protocol === undefined ? [] : [protocol === 'dash' ? 'DASH' : 'HLS'];
        setText(facts, [since === 'just now' ? 'since just now' : `for ${since}`, address, ...how].join(' · '));
      },
    };
  }
}

/** The watch links of a stream: made, named, copied, taken back. */
import { find, h, setText } from '../../element/dom.js';
import type { WantedLink, WatchLink } from '../../stream/api.js';
import { until } from '../words.js';
import { ask } from './dialog.js';
import { copyButton } from './fields.js';
import { Rows } from './rows.js';

const HOUR_S = 3600;
const DAY_S = 24 * HOUR_S;
const TERMS: [string, number][] = [['1 hour', HOUR_S], ['1 day', DAY_S], ['1 week', 7 * DAY_S], ['30 days', 30 * DAY_S], ['1 year', 365 * DAY_S]];
const USUAL_S = 7 * DAY_S;
const MOST_DEVICES = 1_000_000;

export interface Links {
  list(): Promise<WatchLink[]>;
  add(wanted: WantedLink): Promise<WatchLink>;
  revoke(link: WatchLink): Promise<void>;
}

export class LinksPanel {
  readonly element: HTMLElement;
  readonly #links: Links;
  readonly #base: string;
  readonly #rows: Rows<WatchLink>;
  readonly #none = h('p', { class: 'note', hidden: true }, 'There is none yet.');
  readonly #said = h('p', { class: 'note', role: 'status' });
  readonly #make = h('button', { class: 'button', type: 'button' }, 'New watch link…');
  #known: WatchLink[] = [];

  /** @param base the address of the watch page */
  constructor(links: Links, base: string) {
    this.#links = links;
    this.#base = base;
    const list = h('ul', { class: 'rows', 'aria-label': 'Watch links' });
    this.#rows = new Rows(list, ({ jti }) => jti, (link) => this.#row(link));
    this.#make.addEventListener('click', () => this.#ask());
    this.element = h('section', { class: 'panel' }, h('h2', {}, 'Watch links'), list, this.#none, h('div', { class: 'row' }, this.#make), this.#said);
  }

  /** Has a token of this id been given away here? */
  has(jti: string | undefined): boolean {
    return this.#known.some((link) => link.jti === jti);
  }

  async refresh(): Promise<void> {
    this.#show(await this.#links.list());
  }

  #show(links: WatchLink[]): void {
    this.#known = links;
    this.#none.hidden = links.length > 0;
    this.#rows.show(links);
  }

  #row(link: WatchLink): { row: HTMLElement; update(link: WatchLink): void } {
    const facts = h('p', { class: 'note' });
    const copy = copyButton(`the link for ${link.name}`, () => `${this.#base}#token=${link.token}`, 'Copy link');
    const revoke = h('button', { class: 'button', type: 'button', 'aria-label': `Revoke the link for ${link.name}` }, 'Revoke…');
    revoke.addEventListener('click', () => this.#askToRevoke(link));
    return {
      row: h('li', {}, h('div', { class: 'what' }, h('p', { class: 'name' }, link.name), facts), h('div', { class: 'acts' }, copy, revoke)),
      update: ({ exp, max, chat }) => {
        const over = exp * 1000 <= Date.now();
        copy.hidden = over;
        const devices = max === undefined ? 'any number of devices' : max === 1 ? '1 device' : `${max} devices`;
        setText(facts, [over ? 'Expired: lets nobody new in' : `Until ${until(exp * 1000, Date.now())}`, devices, ...(chat ? ['chat'] : [])].join(' · '));
      },
    };
  }

  #askToRevoke(link: WatchLink): void {
    ask({
      title: `Revoke the link for ${link.name}?`,
      body: [h('p', {}, 'Whoever watches by it is out within a second, and it lets nobody in again.')],
      cancel: 'Keep it',
      confirm: 'Revoke it',
      run: async () => {
        await this.#links.revoke(link);
        this.#show(this.#known.filter(({ jti }) => jti !== link.jti));
        setText(this.#said, `The link for ${link.name} is revoked.`);
        // The button that asked is gone.
        setTimeout(() => this.#make.focus());
      },
    });
  }

  #ask(): void {
    const name = h('input', { id: 'link-name', required: true, maxlength: 80, autocomplete: 'off', placeholder: 'Anna, the press, …' });
    const term = h('select', { id: 'link-term' }, ...TERMS.map(([label, seconds]) => h('option', { value: seconds, selected: seconds === USUAL_S }, label)));
    const devices = h('input', { id: 'link-devices', type: 'number', min: 1, max: MOST_DEVICES, step: 1, inputmode: 'numeric', placeholder: 'any number' });
    const chat = h('input', { id: 'link-chat', type: 'checkbox' });
    ask({
      title: 'New watch link',
      body: [
        h('div', { class: 'field' }, h('label', { for: 'link-name' }, 'Who it is for'), name, h('p', { class: 'note' }, 'You see it beside those who watch.')),
        h('div', { class: 'field' }, h('label', { for: 'link-term' }, 'Lets people in for'), term),
        h('div', { class: 'field' }, h('label', { for: 'link-devices' }, 'Devices at a time'), devices, h('p', { class: 'note' }, 'Left empty: any number.')),
        h('div', { class: 'field check' }, chat, h('label', { for: 'link-chat' }, 'May write in the chat')),
      ],
      cancel: 'Cancel',
      confirm: 'Make the link',
      run: async () => {
        const max = devices.value === '' ? {} : { max: devices.valueAsNumber };
        const link = await this.#links.add({ name: name.value.trim(), for_s: Number(term.value), chat: chat.checked, ...max });
        this.#show([link, ...this.#known]);
        setText(this.#said, `The link for ${link.name} is ready: copy it, and send it to them.`);
        setTimeout(() => find<HTMLButtonElement>('.rows li .acts button', this.element).focus());
      },
    });
    name.focus();
  }
}

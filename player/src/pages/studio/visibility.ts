/** Who may watch the stream. */
import { h, setText } from '../../element/dom.js';
import type { Visibility } from '../../stream/api.js';
import { ask } from './dialog.js';

const CHOICES: [Visibility, string, string][] = [
  ['public', 'Anybody', 'The stream is on the home page. Nobody needs a link.'],
  ['unlisted', 'Anybody who has the address', 'The stream is not on the home page. Nobody needs a link.'],
  ['token', 'Only those who have a watch link', 'The watch address alone lets nobody in.'],
];

export class VisibilityField {
  readonly element: HTMLElement;
  readonly #change: (visibility: Visibility) => Promise<void>;
  readonly #select = h('select', { id: 'visibility' }, ...CHOICES.map(([value, label]) => h('option', { value }, label)));
  readonly #note = h('p', { class: 'note' });
  readonly #failed = h('p', { class: 'wrong', role: 'alert', hidden: true });
  #shown: Visibility = 'public';
  /** While a change is under way, or thought over, what the server still says is not shown. */
  #changing = false;

  constructor(change: (visibility: Visibility) => Promise<void>) {
    this.#change = change;
    this.#select.addEventListener('change', () => this.#chosen(this.#select.value as Visibility));
    this.element = h('div', { class: 'field' }, h('label', { for: 'visibility' }, 'Who can watch'), this.#select, this.#note, this.#failed);
  }

  show(visibility: Visibility): void {
    if (this.#changing) return;
    this.#shown = visibility;
    this.#select.value = visibility;
    setText(this.#note, CHOICES.find(([value]) => value === visibility)?.[2] ?? '');
  }

  #chosen(visibility: Visibility): void {
    this.#failed.hidden = true;
    this.#changing = true;
    if (visibility === 'token') {
      ask({
        title: 'Only with a watch link?',
        body: [h('p', {}, 'Whoever watches without one is out within a second.')],
        cancel: 'Leave it open',
        confirm: 'Only with a link',
        run: () => this.#apply(visibility),
        closed: () => this.#settle(),
      });
      return;
    }
    this.#apply(visibility)
      .catch((error: unknown) => {
        this.#failed.textContent = error instanceof Error ? error.message : 'That did not work.';
        this.#failed.hidden = false;
      })
      .finally(() => this.#settle());
  }

  async #apply(visibility: Visibility): Promise<void> {
    await this.#change(visibility);
    this.#shown = visibility;
  }

  /** Shows what is in force, whatever was chosen. */
  #settle(): void {
    this.#changing = false;
    this.show(this.#shown);
  }
}

/**
 * The settings menu: radio groups in one popup, by the ARIA menu-button pattern. It lies in the top layer, since a phone's
 * picture is too low to hold it: a sheet at the bottom of a small screen, above its button on a large one.
 */
import { h } from './dom.js';
import { icon } from './icons.js';

export interface Choice {
  value: string;
  label: string;
  /** Small print beside the label. */
  note?: string;
}

export interface Group {
  title: string;
  choices: Choice[];
  chosen: string;
  choose(value: string): void;
}

export class Menu {
  readonly button: HTMLButtonElement;
  readonly popup: HTMLDivElement;
  readonly #groups: () => Group[];
  readonly #toggled: (open: boolean) => void;
  #outside: AbortController | null = null;

  constructor(groups: () => Group[], toggled: (open: boolean) => void) {
    this.#groups = groups;
    this.#toggled = toggled;
    this.button = h('button', { type: 'button', 'aria-label': 'Settings', title: 'Settings', 'aria-haspopup': 'menu', 'aria-expanded': 'false' }, icon('settings'));
    this.popup = h('div', { class: 'menu', role: 'menu', 'aria-label': 'Settings', popover: 'manual', hidden: true });
    this.button.addEventListener('click', () => this.toggle(!this.open));
    this.popup.addEventListener('keydown', (event) => this.#key(event));
    this.popup.addEventListener('focusout', (event) => {
      const to = event.relatedTarget as Node | null;
      if (to && !this.popup.contains(to) && to !== this.button) this.toggle(false);
    });
  }

  get open(): boolean {
    return !this.popup.hidden;
  }

  toggle(open: boolean): void {
    if (open === this.open) return;
    this.popup.hidden = !open;
    this.#outside?.abort();
    if (open) {
      this.#outside = new AbortController();
      const { signal } = this.#outside;
      const elsewhere = (event: Event) => {
        const path = event.composedPath();
        if (!path.includes(this.popup) && !path.includes(this.button)) this.toggle(false);
      };
      document.addEventListener('pointerdown', elsewhere, { signal, capture: true });
      window.addEventListener('resize', () => this.toggle(false), { signal });
      window.addEventListener('scroll', () => this.#place(), { signal, passive: true });
      this.popup.showPopover?.();
      this.#place();
    }
    this.button.setAttribute('aria-expanded', String(open));
    if (open) {
      this.refresh();
      (this.popup.querySelector<HTMLElement>('[aria-checked="true"]') ?? this.#items()[0])?.focus();
    } else if (this.popup.contains((this.popup.getRootNode() as ShadowRoot).activeElement)) {
      this.button.focus();
    }
    this.#toggled(open);
  }

  /** Renders the groups anew, keeping the focus where it was. */
  refresh(): void {
    if (!this.open) return;
    const focused = ((this.popup.getRootNode() as ShadowRoot).activeElement as HTMLElement | null)?.dataset['value'];
    this.popup.replaceChildren(
      ...this.#groups().map((group) => {
        const items = group.choices.map(({ value, label, note }) => {
          const item = h(
            'button',
            { type: 'button', role: 'menuitemradio', 'aria-checked': String(value === group.chosen), tabindex: -1, 'data-value': `${group.title}/${value}` },
            icon('check'),
            h('span', { class: 'label' }, label),
            ...(note ? [h('span', { class: 'note' }, note)] : []),
          );
          item.addEventListener('click', () => {
            group.choose(value);
            this.toggle(false);
          });
          return item;
        });
        return h('div', { role: 'group', 'aria-label': group.title }, h('p', { 'aria-hidden': 'true' }, group.title), ...items);
      }),
    );
    if (focused) this.#items().find((item) => item.dataset['value'] === focused)?.focus();
  }

  #place(): void {
    const { right, top } = this.button.getBoundingClientRect();
    this.popup.style.setProperty('--right', `${Math.max(8, document.documentElement.clientWidth - right)}px`);
    this.popup.style.setProperty('--bottom', `${document.documentElement.clientHeight - top + 8}px`);
  }

  #items(): HTMLElement[] {
    return [...this.popup.querySelectorAll<HTMLElement>('[role="menuitemradio"]')];
  }

  #key(event: KeyboardEvent): void {
    const items = this.#items();
    const at = items.findIndex((item) => item.matches(':focus'));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) items.at(to % items.length)?.focus();
    else if (event.key === 'Escape') this.toggle(false);
    else if (event.key !== 'Enter' && event.key !== ' ' && event.key !== 'Tab') return;
    if (event.key === 'Tab') this.toggle(false);
    else if (event.key !== 'Enter' && event.key !== ' ') event.preventDefault();
    event.stopPropagation();
  }
}

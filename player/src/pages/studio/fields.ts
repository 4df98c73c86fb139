/** What is shown to be copied. */
import { h } from '../../element/dom.js';
import { copy } from '../clipboard.js';

/** @param what is copied, for those who do not see what is beside it */
export function copyButton(what: string, text: () => string, label = 'Copy'): HTMLButtonElement {
  const button = h('button', { class: 'button', type: 'button', 'aria-label': `${label} ${what}` }, label);
  button.addEventListener('click', () => {
    void copy(text()).then((copied) => {
      button.textContent = copied ? 'Copied' : 'Select it';
      setTimeout(() => (button.textContent = label), 2000);
    });
  });
  return button;
}

export function field(label: string, id: string, value: string, note?: string): HTMLElement {
  const input = h('input', { id, readonly: true, value, spellcheck: 'false' });
  input.addEventListener('focus', () => input.select());
  return h(
    'div',
    { class: 'field' },
    h('label', { for: id }, label),
    h('div', { class: 'copyable' }, input, copyButton(label.toLowerCase(), () => value)),
    ...(note ? [h('p', { class: 'note' }, note)] : []),
  );
}

/** A secret, covered until it is asked for. @param what it is, in a sentence */
export function secretField(id: string, what: string): { row: HTMLElement; set(value: string): void } {
  const input = h('input', { id, type: 'password', readonly: true, autocomplete: 'off', spellcheck: 'false' });
  const toggle = h('button', { class: 'button', type: 'button', 'aria-pressed': 'false', 'aria-label': `Show ${what}` }, 'Show');
  toggle.addEventListener('click', () => {
    const shown = input.type === 'text';
    input.type = shown ? 'password' : 'text';
    toggle.textContent = shown ? 'Show' : 'Hide';
    toggle.setAttribute('aria-label', `${shown ? 'Show' : 'Hide'} ${what}`);
    toggle.setAttribute('aria-pressed', String(!shown));
  });
  return {
    row: h('div', { class: 'copyable' }, input, toggle, copyButton(what, () => input.value)),
    set: (value) => {
      if (input.value !== value) input.value = value;
    },
  };
}

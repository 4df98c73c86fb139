/** The calm page in place of content: nothing live, no answer, not allowed. */
import { h } from '../element/dom.js';
import { icon } from '../element/icons.js';

export function blank(title: string, text: string, action?: HTMLElement): HTMLElement {
  return h('section', { class: 'blank' }, icon('ghost'), h('h1', {}, title), h('p', {}, text), ...(action ? [action] : []));
}

/** The calm page in place of content: nothing live, no answer, not allowed. */
import { h } from '../element/dom.js';
import { ghost } from '../element/ghost.js';

export function blank(title: string, text: string, action?: HTMLElement): HTMLElement {
  return h('section', { class: 'blank' }, ghost(), h('h1', {}, title), h('p', {}, text), ...(action ? [action] : []));
}

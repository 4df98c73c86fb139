/** Questions that come before what cannot be taken back, and forms. */
import { h } from '../../element/dom.js';

export interface Question {
  title: string;
  /** What stands between the title and the buttons. */
  body: HTMLElement[];
  cancel: string;
  confirm: string;
  /** Does what was asked for. An error keeps the dialog open, and is shown in it. */
  run: () => Promise<void>;
  /** However it was answered. */
  closed?: () => void;
}

let asked = 0;

/** Asks, and goes once that is answered. The focus is then where it was, or where `run` put it. */
export function ask(question: Question): void {
  const title = `dialog-${++asked}`;
  const failed = h('p', { class: 'wrong', role: 'alert', hidden: true });
  const cancel = h('button', { class: 'button', type: 'button' }, question.cancel);
  const confirm = h('button', { class: 'button primary', type: 'submit' }, question.confirm);
  const form = h('form', { method: 'dialog' }, ...question.body, failed, h('div', { class: 'answers' }, cancel, confirm));
  const dialog = h('dialog', { 'aria-labelledby': title }, h('h2', { id: title }, question.title), form);
  cancel.addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => {
    dialog.remove();
    question.closed?.();
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    confirm.disabled = true;
    failed.hidden = true;
    question
      .run()
      .then(() => dialog.close())
      .catch((error: unknown) => {
        failed.textContent = error instanceof Error ? error.message : 'That did not work.';
        failed.hidden = false;
      })
      .finally(() => (confirm.disabled = false));
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** The ghost of the calm pages, drawn on a 24-unit grid. The controls bring their own icons. */

export function ghost(): SVGSVGElement {
  const holder = document.createElement('template');
  holder.innerHTML =
    '<svg class="icon ghost" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d="M12 2.8c-4.5 0-7.7 3.4-7.7 7.9v8.9c0 1 1.1 1.5 1.9.9l1.5-1.2c.4-.3.9-.3 1.3 0l2.2 1.7c.5.4 1.1.4 1.6 0L15 19.3c.4-.3.9-.3 1.3 0l1.5 1.2c.8.6 1.9.1 1.9-.9v-8.9c0-4.5-3.2-7.9-7.7-7.9z"/><circle class="eye" cx="9.3" cy="10.6" r="1.5"/><circle class="eye" cx="14.7" cy="10.6" r="1.5"/></svg>';
  return holder.content.firstElementChild as SVGSVGElement;
}

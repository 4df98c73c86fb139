/** The player's icons, drawn on a 24-unit grid. Each is decoration: its button carries the words. */

const shapes = {
  play: '<path d="M8 5.4v13.2c0 .8.9 1.3 1.6.8l9.9-6.6c.6-.4.6-1.2 0-1.6L9.6 4.6C8.9 4.1 8 4.6 8 5.4z"/>',
  pause: '<rect x="6.5" y="5" width="4" height="14" rx="1.2"/><rect x="13.5" y="5" width="4" height="14" rx="1.2"/>',
  volume:
    '<path d="M4 9.5v5c0 .6.4 1 1 1h2.6l4 3.4c.6.5 1.4.1 1.4-.7V5.8c0-.8-.8-1.2-1.4-.7l-4 3.4H5c-.6 0-1 .4-1 1z"/><path class="line" d="M16 9a4.2 4.2 0 0 1 0 6M18.6 6.4a8 8 0 0 1 0 11.2"/>',
  muted:
    '<path d="M4 9.5v5c0 .6.4 1 1 1h2.6l4 3.4c.6.5 1.4.1 1.4-.7V5.8c0-.8-.8-1.2-1.4-.7l-4 3.4H5c-.6 0-1 .4-1 1z"/><path class="line" d="M16.5 9.7l4.6 4.6M21.1 9.7l-4.6 4.6"/>',
  settings:
    '<path class="line" d="M4 7.5h9M17.5 7.5H20M4 16.5h2.5M11 16.5h9"/><circle class="line" cx="15.2" cy="7.5" r="2.3"/><circle class="line" cx="8.8" cy="16.5" r="2.3"/>',
  pip: '<rect class="line" x="3.5" y="5" width="17" height="14" rx="2.4"/><rect x="11.5" y="11.5" width="6.8" height="5.2" rx="1.2"/>',
  fullscreen: '<path class="line" d="M4.5 9V6.5a2 2 0 0 1 2-2H9M15 4.5h2.5a2 2 0 0 1 2 2V9M19.5 15v2.5a2 2 0 0 1-2 2H15M9 19.5H6.5a2 2 0 0 1-2-2V15"/>',
  shrink: '<path class="line" d="M9 4.5V7a2 2 0 0 1-2 2H4.5M19.5 9H17a2 2 0 0 1-2-2V4.5M15 19.5V17a2 2 0 0 1 2-2h2.5M4.5 15H7a2 2 0 0 1 2 2v2.5"/>',
  check: '<path class="line" d="M5.5 12.5l4.2 4.2 8.8-9.2"/>',
  ghost:
    '<path d="M12 2.8c-4.5 0-7.7 3.4-7.7 7.9v8.9c0 1 1.1 1.5 1.9.9l1.5-1.2c.4-.3.9-.3 1.3 0l2.2 1.7c.5.4 1.1.4 1.6 0L15 19.3c.4-.3.9-.3 1.3 0l1.5 1.2c.8.6 1.9.1 1.9-.9v-8.9c0-4.5-3.2-7.9-7.7-7.9z"/><circle class="eye" cx="9.3" cy="10.6" r="1.5"/><circle class="eye" cx="14.7" cy="10.6" r="1.5"/>',
} as const;

export type IconName = keyof typeof shapes;

export function icon(name: IconName): SVGSVGElement {
  const holder = document.createElement('template');
  holder.innerHTML = `<svg class="icon icon-${name}" viewBox="0 0 24 24" aria-hidden="true" focusable="false">${shapes[name]}</svg>`;
  return holder.content.firstElementChild as SVGSVGElement;
}

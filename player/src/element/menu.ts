/**
 * The settings menu: media-chrome's, with our words for the renditions. It lies in the top layer, since a phone's picture is too low
 * to hold it: a sheet at the bottom of a small screen, above its button on a large one.
 */
import { MediaUIAttributes } from 'media-chrome/constants';
import { MediaRenditionMenu } from 'media-chrome/menu/media-rendition-menu';
import type { MediaSettingsMenu } from 'media-chrome/menu/media-settings-menu';
import { bitrateLabel, renditionLabel } from './words.js';

class QualityMenu extends MediaRenditionMenu {
  static override formatRendition({ id = '', height = 0, frameRate = 0, bitrate = 0 }: MediaRenditionMenu['mediaRenditionList'][number]): string {
    return `${renditionLabel({ name: id, height, fps: frameRate, bitrate })} · ${bitrateLabel(bitrate)}`;
  }

  /**
   * media-chrome makes the entries anew at each change of the picture's size. Under a finger or the focus they must stay what they are:
   * what changes while the menu is open is shown when it has closed.
   */
  override attributeChangedCallback(name: string, old: string | null, value: string | null): void {
    const size = name === MediaUIAttributes.MEDIA_HEIGHT || name === MediaUIAttributes.MEDIA_WIDTH;
    if (size && !this.hidden) return;
    super.attributeChangedCallback(name, old, value);
    if (name === 'hidden' && this.hidden) super.attributeChangedCallback(MediaUIAttributes.MEDIA_HEIGHT, null, this.getAttribute(MediaUIAttributes.MEDIA_HEIGHT));
  }
}

if (!customElements.get('ghost-live-quality-menu')) customElements.define('ghost-live-quality-menu', QualityMenu);

/** Lifts the menu into the top layer and puts it above its button; `toggled` hears when it opens or closes. Ends with the signal. */
export function float(menu: MediaSettingsMenu, button: HTMLElement, toggled: (open: boolean) => void, signal: AbortSignal): void {
  const place = () => {
    const { right, top } = button.getBoundingClientRect();
    menu.style.setProperty('--right', `${Math.max(8, document.documentElement.clientWidth - right)}px`);
    menu.style.setProperty('--bottom', `${document.documentElement.clientHeight - top + 8}px`);
  };
  menu.addEventListener(
    'toggle',
    (event) => {
      // Submenus tell of themselves here too.
      if (event.target !== menu) return;
      const open = !menu.hidden;
      if (open) place();
      // Safari 16 has no top layer for it: there it is cut off at the picture's edge, and scrolls.
      if ('togglePopover' in menu) menu.togglePopover(open);
      toggled(open);
    },
    { signal },
  );
  // A choice is made: the whole menu closes, not only the submenu, once media-chrome has moved the focus to where it wants it.
  menu.addEventListener(
    'change',
    () =>
      queueMicrotask(() => {
        if (menu.hidden) return;
        menu.hidden = true;
        button.focus();
      }),
    { signal },
  );
  window.addEventListener('resize', () => (menu.hidden = true), { signal });
  window.addEventListener('scroll', () => menu.hidden || place(), { signal, passive: true });
}

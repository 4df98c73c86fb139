/**
 * `<ghost-live-player stream="…">`: live video with controls, in one element that any page can carry.
 * Attributes, properties and events are described in the README beside this package.
 */
import 'media-chrome/media-controller';
import 'media-chrome/media-control-bar';
import 'media-chrome/media-fullscreen-button';
import 'media-chrome/media-live-button';
import 'media-chrome/media-mute-button';
import 'media-chrome/media-pip-button';
import 'media-chrome/media-play-button';
import 'media-chrome/media-volume-range';
import 'media-chrome/menu/media-settings-menu';
import 'media-chrome/menu/media-settings-menu-button';
import 'media-chrome/menu/media-settings-menu-item';
import type { MediaController } from 'media-chrome/media-controller';
import type { MediaChromeMenu } from 'media-chrome/menu/media-chrome-menu';
import type { MediaSettingsMenu } from 'media-chrome/menu/media-settings-menu';
import { mediaSourcePossible, protocolOf, webrtcPossible, type Protocol } from '../playback/choose.js';
import type { Rendition } from '../playback/transport.js';
import { Api, type Stream } from '../stream/api.js';
import type { Denial } from '../stream/denial.js';
import type { Phase } from '../stream/lifecycle.js';
import { Session, type Stats } from '../stream/session.js';
import { fade } from './fade.js';
import { rows, Panel } from './statistics.js';
import { find, h, setText } from './dom.js';
import { ghost } from './ghost.js';
import { keyOf } from './keys.js';
import { float } from './menu.js';
import { LIVE_CHANGE, liveStore } from './store.js';
import { delayLabel, notice, progress, transportLabel } from './words.js';
import css from './player.css?inline';
import html from './player.html?raw';

/** Controls hide after this long without a movement, seconds. */
const IDLE_S = 3;
/** Further than this over the target counts as behind live, seconds. */
const BEHIND_S = 3;

let sheet: CSSStyleSheet | undefined;
let template: HTMLTemplateElement | undefined;

export class GhostLivePlayer extends HTMLElement {
  static readonly observedAttributes = ['stream', 'server', 'protocol', 'quality', 'target-delay', 'token'];

  readonly #controller: MediaController;
  /** The one that is seen, and the one beneath it that makes ready to be. */
  #video: HTMLVideoElement;
  #back: HTMLVideoElement;
  readonly #still: HTMLCanvasElement;
  readonly #bar: HTMLElement;
  readonly #delay: HTMLElement;
  readonly #delayWord: HTMLElement;
  readonly #transportWord: HTMLElement;
  readonly #start: HTMLElement;
  readonly #unmute: HTMLElement;
  readonly #card: HTMLElement;
  readonly #busy: HTMLElement;
  readonly #progress: HTMLElement;
  readonly #panel: Panel;
  readonly #spoken: HTMLElement;
  readonly #menu: MediaSettingsMenu;
  readonly #menuButton: HTMLElement;
  readonly #qualityItem: HTMLElement;
  readonly #protocolItem: HTMLElement;
  readonly #protocols: MediaChromeMenu;
  readonly #statistics: MediaChromeMenu;

  #session: Session | null = null;
  #token: string | null = null;
  #listeners: AbortController | null = null;
  /** Has one element taken over from the other, with what it was set to? */
  #inherited = false;
  #autoMuted = false;
  #blocked = false;
  #shownDelayS: number | null = null;
  #lastPhase: Phase | 'idle' = 'idle';
  #lastLevel: string | null = null;

  constructor() {
    super();
    const shadow = this.attachShadow({ mode: 'open' });
    if (!sheet || !template) {
      sheet = new CSSStyleSheet();
      sheet.replaceSync(css);
      template = h('template');
      template.innerHTML = html;
    }
    shadow.adoptedStyleSheets = [sheet];
    shadow.append(document.importNode(template.content, true));
    this.#controller = find<MediaController>('media-controller', shadow);
    this.#video = find<HTMLVideoElement>('video', shadow);
    this.#back = find<HTMLVideoElement>('video:not(.front)', shadow);
    this.#still = find<HTMLCanvasElement>('canvas', shadow);
    this.#bar = find('media-control-bar', shadow);
    this.#delay = find('.delay', shadow);
    this.#delayWord = find('span', this.#delay);
    this.#transportWord = find('small', this.#delay);
    this.#start = find('.start', shadow);
    this.#unmute = find('.unmute', shadow);
    this.#card = find('.card', shadow);
    this.#busy = find('.busy', shadow);
    this.#progress = find('p', this.#busy);
    this.#panel = new Panel(find('.stats', shadow));
    this.#spoken = find('[role="status"]', shadow);
    this.#menu = find<MediaSettingsMenu>('media-settings-menu', shadow);
    this.#menuButton = find('media-settings-menu-button', shadow);
    this.#qualityItem = find('.quality', shadow);
    this.#protocolItem = find('.protocol', shadow);
    this.#protocols = find<MediaChromeMenu>('media-chrome-menu', this.#protocolItem);
    this.#statistics = find<MediaChromeMenu>('.statistics', shadow);
    this.#wire();
  }

  // --- what a page sees

  /** The stream's name. */
  get stream(): string {
    return this.getAttribute('stream') ?? '';
  }

  set stream(name: string) {
    this.setAttribute('stream', name);
  }

  get protocol(): Protocol {
    return protocolOf(this.getAttribute('protocol'));
  }

  set protocol(protocol: Protocol) {
    this.setAttribute('protocol', protocol);
  }

  /** What lets its viewer watch a stream that needs a token. It is kept in memory, and can only be set. */
  set token(token: string | null) {
    const given = token === '' ? null : token;
    if (given === this.#token) return;
    this.#token = given;
    if (!this.#session) return;
    this.#close();
    this.#open();
  }

  /** The element that is seen. Another one is when the transport changed. */
  get video(): HTMLVideoElement {
    return this.#video;
  }

  get muted(): boolean {
    return this.#video.muted;
  }

  set muted(muted: boolean) {
    this.#video.muted = muted;
  }

  get volume(): number {
    return this.#video.volume;
  }

  set volume(volume: number) {
    this.#video.volume = volume;
  }

  /** `idle` before the first play of an element without `autoplay`. */
  get state(): Phase | 'idle' {
    return this.#session?.phase ?? 'idle';
  }

  /** What the directory last said about the stream, or `null`. */
  get broadcast(): Stream | null {
    return this.#session?.stream ?? null;
  }

  /** Why its viewer may not watch, while the state is `denied`. */
  get denial(): Denial | null {
    return this.#session?.denial ?? null;
  }

  get stats(): Omit<Stats, 'state'> & { state: Phase | 'idle' } {
    return (
      this.#session?.stats ?? {
        transport: null,
        delayS: null,
        delayEstimated: false,
        targetS: null,
        distanceS: null,
        bufferS: 0,
        rate: 1,
        level: null,
        levels: [],
        stalls: 0,
        framesDecoded: 0,
        framesDropped: 0,
        width: 0,
        height: 0,
        fps: null,
        details: null,
        state: 'idle',
      }
    );
  }

  async play(): Promise<void> {
    this.#blocked = false;
    if (!this.#session) this.#open();
    else await this.#session.play();
    this.#render();
  }

  pause(): void {
    if (this.#session) this.#session.pause();
    else this.#video.pause();
  }

  /** A rendition's name (`v-720p30`), a height (`720p`), or `auto`. */
  setQuality(name: string): void {
    this.setAttribute('quality', name);
  }

  jumpToLive(): void {
    this.#session?.jumpToLive();
    this.#render();
  }

  retry(): void {
    this.#session?.retry();
  }

  /** Obeys a key press if it is one of the player's. A page that is all player passes its own presses here. */
  handleKey(event: KeyboardEvent): boolean {
    const key = keyOf(event);
    if (!key || event.defaultPrevented) return false;
    const path = event.composedPath();
    const target = path[0];
    // Letters in a field are text, space presses a button.
    if (target instanceof HTMLElement && target.matches('input:not([type="range"]), textarea, select, [contenteditable]')) return false;
    if (key === ' ' && target instanceof HTMLElement && target.matches('button, a, summary')) return false;
    // A control of media-chrome's that obeys this key by itself; but nobody else keeps the page from scrolling meanwhile.
    if (path.some((element) => 'keysUsed' in element && Array.isArray(element.keysUsed) && element.keysUsed.includes(key))) {
      if (key === ' ') event.preventDefault();
      return false;
    }
    event.preventDefault();
    if (key === 'l') this.jumpToLive();
    else if (key === 'i') this.#toggleStats();
    else this.#controller.dispatchEvent(new KeyboardEvent('hotkey', { key }));
    this.#stir();
    return true;
  }

  // --- the element's life

  connectedCallback(): void {
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    // media-chrome recalls volume and mute; the attribute has the last word.
    this.#inherited = false;
    // media-chrome begins with the first one.
    if (this.#video.compareDocumentPosition(this.#back) & Node.DOCUMENT_POSITION_PRECEDING) this.#exchange();
    this.#video.muted = this.hasAttribute('muted');
    this.addEventListener('keydown', (event) => this.handleKey(event), { signal });
    float(
      this.#menu,
      this.#menuButton,
      // The bar stays while the menu is open.
      (open) => this.#controller.setAttribute('autohide', String(open ? -1 : IDLE_S)),
      signal,
    );
    const timer = setInterval(() => this.#second(), 1000);
    signal.addEventListener('abort', () => clearInterval(timer));
    if (this.hasAttribute('autoplay')) this.#open();
    this.#render();
  }

  disconnectedCallback(): void {
    this.#listeners?.abort();
    this.#close();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (name === 'token') {
      // The document is no place for it: whoever looks at the page, or saves it, would have it.
      if (now === null) return;
      this.removeAttribute('token');
      this.token = now;
      return;
    }
    if (before === now || !this.#session) return;
    if (name === 'quality') this.#session.setQuality(now ?? 'auto');
    else if (name === 'protocol') this.#session.setProtocol(this.protocol);
    else {
      this.#close();
      this.#open();
    }
  }

  #open(): void {
    if (this.#session || !this.stream || !this.isConnected) return;
    const api = new Api((this.getAttribute('server') ?? '').replace(/\/+$/, ''), this.#token);
    const asked = Number(this.getAttribute('target-delay'));
    this.#session = new Session(
      api,
      this.stream,
      this.#screen,
      {
        change: () => this.#changed(),
        renditions: () => this.#renditionsChanged(),
        replacing: () => this.#freeze(),
        autoMuted: () => {
          this.#autoMuted = true;
          this.#render();
        },
        blocked: () => {
          this.#blocked = true;
          this.#render();
        },
      },
      { protocol: this.protocol, quality: this.getAttribute('quality') ?? 'auto', targetDelayS: asked > 0 ? asked : null },
    );
    this.#changed();
  }

  #close(): void {
    this.#session?.close();
    this.#session = null;
    this.#still.hidden = true;
    this.#changed();
  }

  // --- the two elements

  readonly #screen = (() => {
    const front = () => this.#video;
    const back = () => this.#back;
    return {
      get front() {
        return front();
      },
      get back() {
        return back();
      },
      swap: () => this.#swap(),
    };
  })();

  #swap(): void {
    const [before, after] = [this.#video, this.#back];
    this.#exchange();
    this.#inherited = true;
    after.volume = before.volume;
    after.muted = before.muted;
    this.#controller.mediaStore.dispatch({ type: 'mediaelementchangerequest', detail: after });
    fade(before);
    this.#still.hidden = true;
    // The picture in the small window is the one that is seen.
    if (this.shadowRoot?.pictureInPictureElement === before) void after.requestPictureInPicture().catch(() => undefined);
  }

  #exchange(): void {
    [this.#video, this.#back] = [this.#back, this.#video];
    this.#video.classList.add('front');
    this.#back.classList.remove('front');
  }

  // --- wiring

  #wire(): void {
    const controller = this.#controller;
    controller.mediaStore = liveStore(
      {
        atLive: () => this.#atLive,
        renditions: () => (this.#session?.renditions ?? []).map(({ name, height, fps, bitrate }) => ({ id: name, height, frameRate: fps, bitrate })),
        rendition: () => this.#chosen?.name,
        forgetful: () => this.hasAttribute('muted'),
        recalls: () => !this.#inherited,
        play: () => this.play(),
        pause: () => this.pause(),
        seekBy: (deltaS) => this.#session?.seekBy(deltaS),
        jumpToLive: () => this.jumpToLive(),
        chooseRendition: (name) => {
          // The menu also reports what was chosen by the attribute.
          if (name !== (this.#chosen?.name ?? 'auto')) this.setQuality(name);
        },
      },
      this,
      () => this.#video,
    );
    controller.fullscreenElement = this;
    controller.addEventListener('hotkey', (event) => controller.keyboardShortcutHandler(event as KeyboardEvent));

    for (const video of [this.#video, this.#back]) {
      const on = (types: string[], listener: () => void) => {
        for (const type of types) video.addEventListener(type, () => video === this.#video && listener());
      };
      on(['play', 'pause', 'playing', 'waiting', 'seeked'], () => this.#render());
      on(['volumechange'], () => {
        if (!video.muted) this.#autoMuted = false;
        this.#render();
      });
      on(['playing', 'timeupdate'], () => {
        if (video.readyState >= 3 && video.currentTime > 0) this.#still.hidden = true;
      });
      video.addEventListener('dblclick', () => controller.dispatchEvent(new KeyboardEvent('hotkey', { key: 'f' })));
    }
    // Like the qualities' menu, it also reports what was set by the attribute.
    this.#protocols.addEventListener('change', () => {
      if (this.#protocols.value !== this.#protocolShown) this.protocol = protocolOf(this.#protocols.value);
    });
    this.#statistics.addEventListener('change', () => {
      if ((this.#statistics.value === 'on') === this.#panel.hidden) this.#toggleStats();
    });
    this.#panel.element.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      this.#toggleStats();
      this.#menuButton.focus();
    });
  }

  get #protocolShown(): string {
    // Where there is no WebRTC, automatic is LL-HLS; both are one entry then.
    return this.protocol === 'auto' && !webrtcPossible() ? 'hls' : this.protocol;
  }

  get #chosen(): Rendition | null {
    const wish = this.#session?.quality;
    return this.#session?.renditions.find(({ name, height }) => name === wish || `${height}p` === wish) ?? null;
  }

  get #atLive(): boolean {
    const session = this.#session;
    if (!session?.following || this.#video.paused) return false;
    const { distanceS, targetS } = session.stats;
    return distanceS === null || targetS === null || distanceS - targetS <= BEHIND_S;
  }

  #toggleStats(): void {
    this.#panel.hidden = !this.#panel.hidden;
    this.#second();
    this.#render();
  }

  // --- what is shown

  #changed(): void {
    const state = this.state;
    if (state !== this.#lastPhase) {
      if (state === 'playing' && this.#lastPhase === 'connecting') this.#stir();
      this.#lastPhase = state;
      const words = notice(state === 'idle' ? 'loading' : state, this.#session?.message ?? '', this.denial);
      setText(this.#spoken, words ? `${words.title}. ${words.text}` : state === 'playing' ? 'Playing live.' : '');
      this.dispatchEvent(new CustomEvent('statechange', { detail: { state, message: this.#session?.message ?? '', denial: this.denial } }));
      if (['waiting', 'ended', 'missing', 'denied', 'failed'].includes(state)) this.#still.hidden = true;
    }
    this.dispatchEvent(new CustomEvent('streamchange', { detail: this.broadcast }));
    this.#render();
  }

  #renditionsChanged(): void {
    this.#video.dispatchEvent(new Event(LIVE_CHANGE));
    this.#qualityItem.hidden = !this.#session?.renditions.length;
    const level = this.#session?.current?.name ?? null;
    if (level !== this.#lastLevel) {
      this.#lastLevel = level;
      this.dispatchEvent(new CustomEvent('qualitychange', { detail: { name: level } }));
    }
  }

  #render(): void {
    const session = this.#session;
    const video = this.#video;
    const state = this.state;
    const words = state === 'idle' ? null : notice(state, session?.message ?? '', this.denial);
    const pending = ['loading', 'connecting', 'buffering', 'reconnecting'].includes(state);
    const onAir = ['connecting', 'playing', 'buffering', 'reconnecting'].includes(state);

    this.#card.hidden = words === null;
    if (words) {
      const key = `${words.title}|${words.text}`;
      if (this.#card.dataset.key !== key) {
        this.#card.dataset.key = key;
        const again = words.retry ? [h('button', { type: 'button' }, words.retry)] : [];
        again[0]?.addEventListener('click', () => this.retry());
        this.#card.replaceChildren(ghost(), h('h2', {}, words.title), h('p', {}, words.text), ...again);
      }
    } else {
      delete this.#card.dataset.key;
    }

    const soundOnly = state === 'playing' && session?.soundOnly === true;
    if (soundOnly !== this.#busy.classList.contains('told')) setText(this.#spoken, soundOnly ? progress(state, false, true) : '');
    this.#busy.hidden = (!pending && !soundOnly) || (this.#blocked && video.paused);
    this.#busy.classList.toggle('told', soundOnly);
    setText(this.#progress, session ? progress(session.phase, session.encoderAway, session.soundOnly) : '');
    this.#start.hidden = !(state === 'idle' || (this.#blocked && video.paused && onAir));
    this.#unmute.hidden = !(this.#autoMuted && video.muted && onAir && !this.#blocked);
    this.#bar.hidden = !onAir;
    if (!onAir) this.#menu.hidden = true;
    this.#protocolItem.hidden = !mediaSourcePossible();
    for (const item of this.#protocols.querySelectorAll<HTMLElement>('[value="auto"], [value="webrtc"]')) item.hidden = !webrtcPossible();
    this.#protocols.value = this.#protocolShown;
    this.#statistics.value = this.#panel.hidden ? 'off' : 'on';
    this.#renderLive();
  }

  #renderLive(): void {
    const session = this.#session;
    const stats = session && ['playing', 'buffering', 'reconnecting'].includes(session.phase) ? session.stats : null;
    this.#shownDelayS = stats?.delayS ?? null;
    this.#delay.hidden = this.#shownDelayS === null;
    setText(this.#delayWord, this.#shownDelayS === null ? '' : `${stats?.delayEstimated ? 'about ' : ''}${delayLabel(this.#shownDelayS)}`);
    setText(this.#transportWord, stats?.transport ? transportLabel(stats.transport) : '');
    this.#video.dispatchEvent(new Event(LIVE_CHANGE));
  }

  /** Once a second: what changes with time alone. */
  #second(): void {
    const before = this.#shownDelayS;
    this.#renderLive();
    if (this.#shownDelayS !== null && this.#shownDelayS !== before) {
      this.dispatchEvent(new CustomEvent('delaychange', { detail: { delayS: this.#shownDelayS } }));
    }
    if (this.#session && (this.#session.phase !== 'playing' || this.#session.soundOnly || !this.#busy.hidden)) this.#render();
    if (!this.#panel.hidden) this.#panel.show(rows(this.stats));
  }

  /** Keeps the last frame on screen while the media is replaced. */
  #freeze(): void {
    const { videoWidth, videoHeight } = this.#video;
    if (!videoWidth) return;
    this.#still.width = videoWidth;
    this.#still.height = videoHeight;
    this.#still.getContext('2d')?.drawImage(this.#video, 0, 0);
    this.#still.hidden = false;
  }

  /** Shows the controls for a while, as if a key had been pressed in them. */
  #stir(): void {
    this.#controller.dispatchEvent(new KeyboardEvent('keyup'));
  }
}

/** Registers the element; a second call, or a second copy of this library, changes nothing. */
export function define(): void {
  if (!customElements.get('ghost-live-player')) customElements.define('ghost-live-player', GhostLivePlayer);
}

declare global {
  interface HTMLElementTagNameMap {
    'ghost-live-player': GhostLivePlayer;
  }
}

/**
 * `<ghost-live-player stream="…">`: live video with controls, in one element that any page can carry.
 * Attributes, properties and events are described in the README beside this package.
 */
import { protocolOf, mediaSourcePossible, type Protocol } from '../playback/choose.js';
import { Api, type Stream } from '../stream/api.js';
import type { Phase } from '../stream/lifecycle.js';
import { Session, type Stats } from '../stream/session.js';
import { h, setText } from './dom.js';
import { icon } from './icons.js';
import { commandOf, type Command } from './keys.js';
import { recallLoudness, rememberLoudness } from './memory.js';
import { Menu, type Group } from './menu.js';
import { fullscreenPossible, isFullscreen, pipPossible, toggleFullscreen, togglePip } from './screen.js';
import { bitrateLabel, delayLabel, notice, progress, renditionLabel } from './words.js';
import css from './player.css?inline';

/** Controls hide after this long without a movement, milliseconds. */
const IDLE_MS = 2800;
const STEP_S = 5;
/** Further than this over the target counts as behind live, seconds. */
const BEHIND_S = 3;

let sheet: CSSStyleSheet | undefined;

export class GhostLivePlayer extends HTMLElement {
  static readonly observedAttributes = ['stream', 'server', 'protocol', 'quality', 'target-delay'];

  readonly #video = h('video', { playsinline: true, tabindex: -1, 'aria-hidden': 'true' });
  readonly #still = h('canvas', { class: 'still', hidden: true });
  readonly #root = h('div', { class: 'player', role: 'region', 'aria-label': 'Live video' });
  readonly #play = button('Play', 'k');
  readonly #mute = button('Mute', 'm');
  readonly #volume = h('input', { class: 'volume', type: 'range', min: 0, max: 100, step: 5, 'aria-label': 'Volume' });
  readonly #liveWord = h('span', { class: 'word' }, 'Live');
  readonly #delayWord = h('span', { class: 'delay' });
  readonly #live: HTMLButtonElement = h('button', { type: 'button', class: 'live' }, h('span', { class: 'dot' }), this.#liveWord, this.#delayWord);
  readonly #pip = button('Picture in picture', 'p', 'pip');
  readonly #full = button('Fullscreen', 'f');
  readonly #menu = new Menu(
    () => this.#groups(),
    () => this.#stir(),
  );
  readonly #bar = h('div', { class: 'bar', role: 'group', 'aria-label': 'Player controls' });
  readonly #card = h('div', { class: 'card', hidden: true });
  readonly #busy: HTMLDivElement = h('div', { class: 'busy', hidden: true }, h('span', { class: 'spinner' }), h('p'));
  readonly #unmute = h('button', { type: 'button', class: 'unmute', hidden: true }, icon('muted'), 'Unmute');
  readonly #start = h('button', { type: 'button', class: 'start', 'aria-label': 'Play', hidden: true }, icon('play'));
  readonly #panel = h('dl', { class: 'stats', hidden: true });
  readonly #spoken = h('p', { class: 'spoken', role: 'status' });

  #session: Session | null = null;
  #listeners: AbortController | null = null;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;
  #autoMuted = false;
  #blocked = false;
  #shownDelayS: number | null = null;
  #lastPhase: Phase | 'idle' = 'idle';
  #lastLevel: string | null = null;

  constructor() {
    super();
    const shadow = this.attachShadow({ mode: 'open' });
    // A constructed sheet is no inline style: it passes a Content-Security-Policy of 'self'.
    if (!sheet) {
      sheet = new CSSStyleSheet();
      sheet.replaceSync(css);
    }
    shadow.adoptedStyleSheets = [sheet];
    this.#pip.append(icon('pip'));
    this.#bar.append(this.#play, this.#mute, this.#volume, this.#live, h('span', { class: 'space' }), this.#menu.button, this.#pip, this.#full);
    this.#root.append(this.#video, this.#still, this.#card, this.#panel, this.#busy, this.#start, this.#unmute, this.#bar, this.#menu.popup, this.#spoken);
    shadow.append(this.#root);
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

  get stats(): Omit<Stats, 'state'> & { state: Phase | 'idle' } {
    return (
      this.#session?.stats ?? {
        transport: null,
        delayS: null,
        targetS: null,
        distanceS: null,
        bufferS: 0,
        rate: 1,
        level: null,
        levels: [],
        stalls: 0,
        framesDecoded: 0,
        framesDropped: 0,
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
    this.#video.pause();
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
    const command = commandOf(event);
    if (!command || event.defaultPrevented) return false;
    const target = event.composedPath()[0];
    if (target instanceof HTMLElement) {
      // Space on a button presses the button, arrows on the volume move the volume, letters in a field are text.
      if (target.matches('input:not([type="range"]), textarea, select, [contenteditable]')) return false;
      if (event.key === ' ' && target.matches('button, a, summary')) return false;
      if (event.key.startsWith('Arrow') && target.matches('input')) return false;
    }
    event.preventDefault();
    this.#obey(command);
    this.#stir();
    return true;
  }

  // --- the element's life

  connectedCallback(): void {
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    const loudness = recallLoudness();
    this.#video.volume = loudness.volume;
    this.#video.muted = this.hasAttribute('muted') || loudness.muted;
    this.#video.addEventListener('volumechange', () => this.#loudnessChanged(), { signal });
    this.addEventListener('keydown', (event) => this.handleKey(event), { signal });
    document.addEventListener('fullscreenchange', () => this.#render(), { signal });
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
    const api = new Api((this.getAttribute('server') ?? '').replace(/\/+$/, ''));
    const asked = Number(this.getAttribute('target-delay'));
    this.#session = new Session(
      api,
      this.stream,
      this.#video,
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

  // --- wiring

  #wire(): void {
    const video = this.#video;
    this.#play.addEventListener('click', () => this.#obey('toggle-play'));
    this.#start.addEventListener('click', () => void this.play());
    this.#mute.addEventListener('click', () => this.#obey('toggle-mute'));
    this.#unmute.addEventListener('click', () => this.#setMuted(false));
    this.#live.addEventListener('click', () => this.jumpToLive());
    this.#pip.addEventListener('click', () => this.#obey('toggle-pip'));
    this.#full.addEventListener('click', () => this.#obey('toggle-fullscreen'));
    this.#volume.addEventListener('input', () => {
      video.volume = this.#volume.valueAsNumber / 100;
      video.muted = video.volume === 0;
    });
    for (const type of ['play', 'pause', 'playing', 'waiting', 'seeked']) video.addEventListener(type, () => this.#render());
    for (const type of ['playing', 'timeupdate'] as const) {
      video.addEventListener(type, () => {
        if (video.readyState >= 3 && video.currentTime > 0) this.#still.hidden = true;
      });
    }
    video.addEventListener('dblclick', () => this.#obey('toggle-fullscreen'));
    let byTouch = false;
    this.#root.addEventListener('pointerdown', (event) => (byTouch = event.pointerType === 'touch'));
    this.#root.addEventListener('pointermove', (event) => event.pointerType !== 'touch' && this.#stir());
    this.#root.addEventListener('pointerleave', () => this.#rest());
    this.#root.addEventListener('focusin', () => this.#stir());
    this.#root.addEventListener('click', (event) => {
      if (event.target !== video && event.target !== this.#busy) return this.#stir();
      // A finger calls the controls, a mouse has them already.
      if (!byTouch) this.#obey('toggle-play');
      else if (this.#root.classList.contains('idle')) this.#stir();
      else this.#rest();
    });
  }

  #obey(command: Command): void {
    const video = this.#video;
    switch (command) {
      case 'toggle-play':
        if (!this.#session || video.paused) void this.play();
        else video.pause();
        break;
      case 'toggle-mute':
        this.#setMuted(!video.muted);
        break;
      case 'toggle-fullscreen':
        void toggleFullscreen(this, video).catch(() => undefined);
        break;
      case 'toggle-pip':
        void togglePip(video).catch(() => undefined);
        break;
      case 'live':
        this.jumpToLive();
        break;
      case 'back':
        this.#session?.seekBy(-STEP_S);
        break;
      case 'forward':
        this.#session?.seekBy(STEP_S);
        break;
      case 'louder':
      case 'quieter':
        video.volume = Math.round(Math.min(1, Math.max(0, video.volume + (command === 'louder' ? 0.1 : -0.1))) * 100) / 100;
        video.muted = video.volume === 0;
        break;
      case 'toggle-stats':
        this.#panel.hidden = !this.#panel.hidden;
        this.#second();
    }
    this.#render();
  }

  #setMuted(muted: boolean): void {
    const video = this.#video;
    video.muted = muted;
    if (!muted && video.volume === 0) video.volume = 0.5;
    if (!muted && video.paused) void this.play();
  }

  #loudnessChanged(): void {
    const { muted, volume } = this.#video;
    if (!muted) this.#autoMuted = false;
    // What the browser forced is not what the viewer wants, and neither is a page's attribute.
    if (!this.#autoMuted && !this.hasAttribute('muted')) rememberLoudness({ muted, volume });
    this.#render();
  }

  #groups(): Group[] {
    const session = this.#session;
    const renditions = session?.renditions ?? [];
    const playing = session?.current;
    const wish = session?.quality ?? 'auto';
    const chosen = renditions.find(({ name, height }) => name === wish || `${height}p` === wish)?.name ?? 'auto';
    const groups: Group[] = [];
    if (renditions.length) {
      groups.push({
        title: 'Quality',
        chosen,
        choose: (name) => this.setQuality(name),
        choices: [
          { value: 'auto', label: 'Automatic', ...(playing && chosen === 'auto' ? { note: renditionLabel(playing) } : {}) },
          ...[...renditions]
            .sort((a, b) => b.height - a.height || b.fps - a.fps || b.bitrate - a.bitrate)
            .map((rendition) => ({ value: rendition.name, label: renditionLabel(rendition), note: bitrateLabel(rendition.bitrate) })),
        ],
      });
    }
    if (mediaSourcePossible()) {
      groups.push({
        title: 'Protocol',
        chosen: session?.protocol === 'dash' ? 'dash' : 'auto',
        choose: (protocol) => (this.protocol = protocol as Protocol),
        choices: [
          { value: 'auto', label: 'LL-HLS' },
          { value: 'dash', label: 'DASH' },
        ],
      });
    }
    groups.push({
      title: 'Statistics',
      chosen: this.#panel.hidden ? 'hide' : 'show',
      choose: (value) => {
        if ((value === 'show') === this.#panel.hidden) this.#obey('toggle-stats');
      },
      choices: [
        { value: 'hide', label: 'Off' },
        { value: 'show', label: 'On' },
      ],
    });
    return groups;
  }

  // --- what is shown

  #changed(): void {
    const state = this.state;
    if (state !== this.#lastPhase) {
      this.#lastPhase = state;
      const words = notice(state === 'idle' ? 'loading' : state, this.#session?.message ?? '');
      setText(this.#spoken, words ? `${words.title}. ${words.text}` : state === 'playing' ? 'Playing live.' : '');
      this.dispatchEvent(new CustomEvent('statechange', { detail: { state, message: this.#session?.message ?? '' } }));
      if (state === 'waiting' || state === 'ended' || state === 'missing' || state === 'failed') this.#still.hidden = true;
    }
    this.dispatchEvent(new CustomEvent('streamchange', { detail: this.broadcast }));
    this.#render();
  }

  #renditionsChanged(): void {
    this.#menu.refresh();
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
    const words = state === 'idle' ? null : notice(state, session?.message ?? '');
    const pending = ['loading', 'connecting', 'buffering', 'reconnecting'].includes(state);
    const playing = !video.paused && session !== null;
    const onAir = ['connecting', 'playing', 'buffering', 'reconnecting'].includes(state);

    this.#root.classList.toggle('carded', words !== null);
    this.#root.classList.toggle('held', !playing || this.#menu.open);
    this.#root.classList.toggle('off-air', !onAir);

    this.#card.hidden = words === null;
    if (words) {
      const key = `${words.title}|${words.text}`;
      if (this.#card.dataset['key'] !== key) {
        this.#card.dataset['key'] = key;
        const again = words.retry ? [h('button', { type: 'button' }, words.retry)] : [];
        again[0]?.addEventListener('click', () => this.retry());
        this.#card.replaceChildren(icon('ghost'), h('h2', {}, words.title), h('p', {}, words.text), ...again);
      }
    } else {
      delete this.#card.dataset['key'];
    }

    this.#busy.hidden = !pending || (this.#blocked && video.paused);
    setText(this.#busy.lastElementChild!, session ? progress(session.phase, session.encoderAway) : '');
    this.#start.hidden = !(state === 'idle' || (this.#blocked && video.paused && onAir));

    describe(this.#play, playing ? 'Pause' : 'Play', 'k', playing ? 'pause' : 'play');
    const silent = video.muted || video.volume === 0;
    describe(this.#mute, silent ? 'Unmute' : 'Mute', 'm', silent ? 'muted' : 'volume');
    this.#volume.value = String(Math.round((video.muted ? 0 : video.volume) * 100));
    this.#volume.setAttribute('aria-valuetext', silent ? 'Muted' : `${this.#volume.value} per cent`);
    const full = isFullscreen(this);
    describe(this.#full, full ? 'Leave fullscreen' : 'Fullscreen', 'f', full ? 'shrink' : 'fullscreen');
    this.#full.hidden = !fullscreenPossible(this, video);
    this.#pip.hidden = !pipPossible(video);
    this.#unmute.hidden = !(this.#autoMuted && video.muted && onAir && !this.#blocked);
    this.#renderLive();
  }

  #renderLive(): void {
    const stats = this.#session?.stats;
    const session = this.#session;
    const running = session !== null && ['playing', 'buffering', 'reconnecting'].includes(session.phase);
    this.#live.hidden = !running;
    if (!running || !stats) return void (this.#shownDelayS = null);
    const behind =
      !session.following || this.#video.paused || (stats.distanceS !== null && stats.targetS !== null && stats.distanceS - stats.targetS > BEHIND_S);
    this.#live.classList.toggle('behind', behind);
    setText(this.#liveWord, behind ? 'Go live' : 'Live');
    const delay = stats.delayS === null ? '' : delayLabel(stats.delayS);
    setText(this.#delayWord, delay);
    const words = delay ? `, ${delay} behind the camera` : '';
    const label = behind ? `Jump to live${words}` : `Live${words}`;
    if (this.#live.getAttribute('aria-label') !== label) this.#live.setAttribute('aria-label', label);
    this.#live.title = behind ? 'Jump to live (l)' : `Live${words}`;
    this.#shownDelayS = stats.delayS;
  }

  /** Once a second: what changes with time alone. */
  #second(): void {
    const before = this.#shownDelayS;
    this.#renderLive();
    if (this.#shownDelayS !== null && this.#shownDelayS !== before) {
      this.dispatchEvent(new CustomEvent('delaychange', { detail: { delayS: this.#shownDelayS } }));
    }
    if (this.#session && this.#session.phase !== 'playing') this.#render();
    if (this.#panel.hidden) return;
    const stats = this.stats;
    const seconds = (value: number | null) => (value === null ? '–' : `${value.toFixed(2)} s`);
    const level = stats.levels.find(({ name }) => name === stats.level);
    const rows: [string, string][] = [
      ['Transport', stats.transport ?? '–'],
      ['Delay', seconds(stats.delayS)],
      ['To live edge', `${seconds(stats.distanceS)} of ${seconds(stats.targetS)}`],
      ['Buffer', seconds(stats.bufferS)],
      ['Rate', `${stats.rate.toFixed(2)}×`],
      ['Rendition', level ? `${level.name}, ${bitrateLabel(level.bitrate)}` : (stats.level ?? '–')],
      ['Frames', `${stats.framesDecoded} (${stats.framesDropped} dropped)`],
      ['Stalls', String(stats.stalls)],
    ];
    this.#panel.replaceChildren(...rows.flatMap(([term, value]) => [h('dt', {}, term), h('dd', {}, value)]));
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

  #stir(): void {
    this.#root.classList.remove('idle');
    this.#root.classList.toggle('held', this.#video.paused || this.#menu.open);
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => this.#rest(), IDLE_MS);
  }

  #rest(): void {
    clearTimeout(this.#idleTimer);
    this.#root.classList.add('idle');
  }
}

function button(label: string, key: string, iconClass = ''): HTMLButtonElement {
  return h('button', { type: 'button', class: iconClass || undefined, 'aria-label': label, 'aria-keyshortcuts': key, title: `${label} (${key})` });
}

function describe(element: HTMLButtonElement, label: string, key: string, name: Parameters<typeof icon>[0]): void {
  if (element.dataset['icon'] === name) return;
  element.dataset['icon'] = name;
  element.replaceChildren(icon(name));
  element.setAttribute('aria-label', label);
  element.title = `${label} (${key})`;
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

/**
 * Which of two ways is on screen: WebRTC, or the engine (LL-HLS), and which of them is open.
 *
 * WebRTC comes first. The engine is opened beside it when it does not show a picture soon, or no longer does, and takes over with its first
 * frame; while the engine plays WebRTC is tried again after growing pauses, and takes over once its picture is steady. Neither is let go
 * before the other has a frame. A state machine without timers, network or media: the time is an argument, {@link Changeover.webrtc},
 * {@link Changeover.engine} and {@link Changeover.front} say what should be so. `session.ts` makes it so.
 */

export type Way = 'webrtc' | 'engine';

/** What becomes of the attempt to play by WebRTC. */
type Attempt =
  /** Not wanted, or not possible. */
  | 'off'
  | 'trying'
  | 'up'
  /** On screen, and nothing comes. It may yet. */
  | 'dry'
  /** On screen, and nothing will come. */
  | 'lost'
  /** On screen, and no longer wanted. */
  | 'leaving'
  | 'resting';

/** An attempt without a frame by then is hedged by the engine, seconds: the engine needs about a second, and three are the promise. */
const HEDGE_S = 1.5;
/** An attempt without a frame by then is given up, seconds. */
const TRY_S = 8;
/** A picture that rests this long is dry, seconds. */
const DRY_S = 1.5;
/** Dry as often as this within `DRY_WINDOW_S` is too bad to watch. */
const DRIES = 3;
const DRY_WINDOW_S = 30;
/** How long WebRTC must have played behind the engine's picture before it takes over, seconds. */
const STEADY_S = 1;
/** A longer rest than this is not steady, seconds. */
const GAP_S = 0.6;
/** An attempt that was called off waits so long, seconds. */
const BREATH_S = 5;
/** The first pause before another attempt and the longest, seconds. */
const FIRST_PAUSE_S = 30;
const LONGEST_PAUSE_S = 300;
/** After so long without trouble the pauses begin small again, seconds. */
const CALM_S = 60;

export class Changeover {
  #attempt: Attempt = 'off';
  #sinceS = 0;
  #engine = false;
  #front: Way | null = null;
  #allowed: boolean;
  #broadcast: string | null | undefined;
  #retryS = -Infinity;
  #pauseS = FIRST_PAUSE_S;
  #firstS: number | null = null;
  #aliveS = 0;
  #dries: number[] = [];

  /** @param allowed may WebRTC be tried at all? */
  constructor(allowed: boolean) {
    this.#allowed = allowed;
  }

  /** Should there be a WebRTC session, or an attempt at one? */
  get webrtc(): boolean {
    return !['off', 'resting'].includes(this.#attempt);
  }

  /** Should the engine be open? */
  get engine(): boolean {
    return this.#engine;
  }

  /** Which of them is to be seen; `null` before the first frame. */
  get front(): Way | null {
    return this.#front;
  }

  /** Is WebRTC's last frame on screen, and no other to come? Its session may end at once. */
  get over(): boolean {
    return this.#attempt === 'lost';
  }

  /** A broadcast is loaded. `broadcast` tells it from others: what another one's attempts came to does not count. */
  begin(broadcast: string | null, nowS: number): void {
    if (broadcast !== this.#broadcast) {
      this.#broadcast = broadcast;
      this.#retryS = -Infinity;
      this.#pauseS = FIRST_PAUSE_S;
    }
    this.end();
    if (this.#allowed && nowS >= this.#retryS) this.#try(nowS);
    else this.#engine = true;
  }

  /** Nothing is to be played any more. */
  end(): void {
    this.#attempt = this.#allowed ? 'resting' : 'off';
    this.#engine = false;
    this.#front = null;
    this.#dries = [];
  }

  /** May WebRTC be tried? Where it may not any more, it stays until the engine has a frame. */
  allow(allowed: boolean, nowS: number): void {
    if (allowed === this.#allowed) return;
    this.#allowed = allowed;
    if (allowed) {
      if (this.#attempt === 'leaving') this.#attempt = 'dry';
      else this.#attempt = 'resting';
      this.#retryS = nowS;
    } else if (this.#front === 'webrtc') {
      this.#attempt = 'leaving';
      this.#engine = true;
    } else {
      // Was anything open? Then the engine goes on, or begins.
      this.#engine ||= this.#attempt === 'trying';
      this.#attempt = 'off';
    }
  }

  /** One of them shows a picture, or goes on to. */
  progress(way: Way, nowS: number): void {
    if (way === 'engine') this.#engineShows(nowS);
    else this.#webrtcShows(nowS);
  }

  /**
   * The edge gives no session.
   *
   * @param pauseS how long it asks to be left alone, seconds; infinite: for this broadcast
   */
  refused(nowS: number, pauseS: number | null): void {
    if (this.#attempt !== 'trying') return;
    this.#engine = true;
    this.#rest(nowS, pauseS);
  }

  /** The connection is gone, or there will be none. */
  lost(nowS: number): void {
    if (this.#attempt === 'trying') {
      this.#engine = true;
      this.#rest(nowS);
    } else if (this.#attempt === 'up' || this.#attempt === 'dry') {
      this.#attempt = 'lost';
      this.#engine = true;
    }
  }

  /** The device is on a network again: another attempt need not wait. */
  online(nowS: number): void {
    if (this.#attempt !== 'resting' || this.#retryS === Infinity) return;
    this.#pauseS = FIRST_PAUSE_S;
    this.#retryS = Math.min(this.#retryS, nowS);
  }

  /**
   * Called a few times a second.
   *
   * @param paused nothing is expected to move
   * @param atLive the engine plays, at the live edge, before somebody's eyes: only there WebRTC may take over
   */
  tick(nowS: number, paused: boolean, atLive: boolean): void {
    switch (this.#attempt) {
      case 'trying':
        if (this.#front === 'engine' && !atLive) {
          // Nobody wants it now; it has not failed.
          this.#attempt = 'resting';
          this.#retryS = nowS + BREATH_S;
        } else if (nowS - this.#sinceS >= TRY_S) {
          this.#engine = true;
          this.#rest(nowS);
        } else if (nowS - this.#sinceS >= HEDGE_S) {
          this.#engine = true;
        }
        break;
      case 'up':
        if (paused) this.#aliveS = nowS;
        else if (nowS - this.#aliveS >= DRY_S) this.#dry(nowS);
        break;
      case 'resting':
        if (this.#front === 'engine' && atLive && nowS >= this.#retryS) this.#try(nowS);
        break;
      case 'off':
      case 'dry':
      case 'lost':
      case 'leaving':
        break;
    }
  }

  #engineShows(nowS: number): void {
    if (!this.#engine || this.#attempt === 'up') return;
    this.#front = 'engine';
    if (this.#attempt === 'dry' || this.#attempt === 'lost') this.#rest(nowS);
    else if (this.#attempt === 'leaving') this.#attempt = 'off';
  }

  #webrtcShows(nowS: number): void {
    if (!['trying', 'up', 'dry'].includes(this.#attempt)) return;
    if (this.#firstS === null || nowS - this.#aliveS > GAP_S) this.#firstS = nowS;
    this.#aliveS = nowS;
    if (this.#front === 'engine' && nowS - this.#firstS < STEADY_S) return;
    if (this.#attempt === 'trying') this.#sinceS = nowS;
    if (nowS - this.#sinceS > CALM_S) this.#pauseS = FIRST_PAUSE_S;
    this.#attempt = 'up';
    this.#front = 'webrtc';
    this.#engine = false;
  }

  #try(nowS: number): void {
    this.#attempt = 'trying';
    this.#sinceS = nowS;
    this.#firstS = null;
  }

  #dry(nowS: number): void {
    this.#sinceS = nowS;
    this.#engine = true;
    this.#dries = [...this.#dries.filter((atS) => nowS - atS < DRY_WINDOW_S), nowS];
    this.#attempt = this.#dries.length >= DRIES ? 'lost' : 'dry';
  }

  #rest(nowS: number, pauseS: number | null = null): void {
    this.#attempt = 'resting';
    this.#retryS = nowS + (pauseS ?? this.#pauseS);
    this.#pauseS = Math.min(LONGEST_PAUSE_S, this.#pauseS * 2);
  }
}

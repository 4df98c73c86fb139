/**
 * Holds the distance between the playhead and the live edge.
 *
 * hls.js and dash.js each raise their target when playback stalls; hls.js never lowers it again, so that an evening of small
 * stalls ends many seconds behind. This controller is the only one that touches the playback rate. It plays slightly faster
 * or slower until the distance is the target again, gives up some of the target after a stall, and takes it back after a calm
 * while. It is a plain state machine: the time and the measurements are arguments, the answer is what to do.
 */

export interface DelayConfig {
  /** Fastest playback rate for a small distance: pitch-corrected, it is not heard. */
  maxRate: number;
  /** Fastest rate when more than `hurryS` behind. */
  hurryRate: number;
  /** Slowest playback rate, used when the playhead is too close to the edge. */
  minRate: number;
  /** Distance over the target from which `hurryRate` is allowed, seconds. */
  hurryS: number;
  /** Distances within this of the target are left alone, seconds: the measurement itself moves by about as much. */
  toleranceS: number;
  /** Distance over the target from which catching up is a jump, seconds. */
  jumpS: number;
  /** While joining, the distance over the target from which a jump inside the buffer is worth it, seconds. */
  joinJumpS: number;
  /** How long after the first frame a viewer counts as joining, seconds. */
  joinS: number;
  /** What one stall adds to the target, seconds. */
  stallStepS: number;
  /** The most that stalls may add to the target, seconds. */
  maxMarginS: number;
  /** How long after a stall the added margin stays, seconds. Doubles with each further stall. */
  calmS: number;
  /** How fast the margin is given back after the calm while, seconds per second. */
  giveBackPerS: number;
}

export const defaultDelayConfig: DelayConfig = {
  maxRate: 1.06,
  hurryRate: 1.1,
  minRate: 0.97,
  hurryS: 1.5,
  toleranceS: 0.08,
  jumpS: 4,
  joinJumpS: 0.5,
  joinS: 4,
  stallStepS: 0.4,
  maxMarginS: 3,
  calmS: 15,
  giveBackPerS: 0.04,
};

export interface DelaySample {
  /** Monotonic time, seconds. */
  nowS: number;
  /** From the playhead to the live edge, seconds. */
  distanceS: number;
  /** The distance the server asks for (PART-HOLD-BACK, suggestedPresentationDelay), seconds. */
  targetS: number;
  /** Media buffered ahead of the playhead, seconds. */
  bufferS: number;
}

export interface DelayCommand {
  /** The playback rate to set, quantised to hundredths. */
  rate: number;
  /** Seconds to jump forward, or 0. */
  jumpS: number;
}

/** Change of the playback rate a second of error. */
const GAIN = 0.15;
/**
 * The smallest correction, and the smallest change of one under way. Each change of the rate costs WebKit with GStreamer a flush of its
 * pipeline, 0.1 to 0.3 s of delay: in steps of a hundredth it would never arrive.
 */
const STEP = 0.03;
/** How long a correction goes on before its rate is changed, seconds: two flushes of that kind in a row can leave WebKit standing. */
const HOLD_S = 2;
/** Time constant with which measured distances are smoothed, seconds. */
const SMOOTHING_S = 0.6;
/** Stalls further apart than this count as unrelated, seconds. */
const STALL_MEMORY_S = 120;
const MAX_CALM_S = 120;

export class DelayController {
  readonly #config: DelayConfig;
  #marginS = 0;
  #calmUntilS = 0;
  #calmS: number;
  #lastStallS = -Infinity;
  #lastSampleS: number | null = null;
  #smoothS: number | null = null;
  #correcting = false;
  #rate = 1;
  #holdUntilS = -Infinity;
  #restUntilS = 0;
  #joinUntilS = -Infinity;

  constructor(config: Partial<DelayConfig> = {}) {
    this.#config = { ...defaultDelayConfig, ...config };
    this.#calmS = this.#config.calmS;
  }

  /** What stalls have added to the target, seconds. */
  get marginS(): number {
    return this.#marginS;
  }

  /** The smoothed distance to the live edge, seconds; `null` before the first sample. */
  get distanceS(): number | null {
    return this.#smoothS;
  }

  /** Forgets measurements, not stalls: call it after a seek, a pause or a new source. */
  resync(): void {
    this.#smoothS = null;
    this.#lastSampleS = null;
    this.#correcting = false;
    this.#rate = 1;
  }

  /** The first frame of a source was shown at `nowS`. What passed while it loaded may be jumped over: nobody was following yet. */
  joined(nowS: number): void {
    this.#joinUntilS = nowS + this.#config.joinS;
    this.#restUntilS = 0;
    this.resync();
  }

  /** Playback ran dry at `nowS`. */
  stalled(nowS: number): void {
    const { stallStepS, maxMarginS, calmS } = this.#config;
    const related = nowS - this.#lastStallS < STALL_MEMORY_S;
    this.#calmS = related ? Math.min(this.#calmS * 2, MAX_CALM_S) : calmS;
    this.#lastStallS = nowS;
    this.#marginS = Math.min(this.#marginS + stallStepS, maxMarginS);
    this.#calmUntilS = nowS + this.#calmS;
    this.resync();
  }

  update(sample: DelaySample): DelayCommand {
    const config = this.#config;
    const elapsedS = this.#lastSampleS === null ? 0 : Math.max(0, sample.nowS - this.#lastSampleS);
    this.#lastSampleS = sample.nowS;
    if (sample.nowS > this.#calmUntilS) {
      this.#marginS = Math.max(0, this.#marginS - config.giveBackPerS * elapsedS);
    }

    // A large step is a jump of the edge or of the playhead, not noise: take it at once.
    const previous = this.#smoothS;
    if (previous === null || Math.abs(sample.distanceS - previous) > 1) {
      this.#smoothS = sample.distanceS;
    } else {
      this.#smoothS = previous + (sample.distanceS - previous) * (1 - Math.exp(-elapsedS / SMOOTHING_S));
    }

    const targetS = sample.targetS + this.#marginS;
    const errorS = this.#smoothS - targetS;

    const joining = sample.nowS < this.#joinUntilS && errorS > config.joinJumpS && sample.bufferS > errorS + 0.2;
    if ((joining || errorS > config.jumpS) && sample.nowS >= this.#restUntilS) {
      // One jump at a time: the next measurements still contain the old position.
      this.#restUntilS = sample.nowS + 3;
      this.resync();
      return { rate: 1, jumpS: errorS };
    }

    // Once off by more than the tolerance, correct all the way, so that the rate does not flutter at its border.
    if (Math.abs(errorS) > config.toleranceS) this.#correcting = true;
    else if (Math.abs(errorS) < config.toleranceS / 4) this.#correcting = false;
    // Never speed towards an empty buffer.
    const thin = errorS > 0 && sample.bufferS < Math.min(0.25, sample.targetS / 4);
    if (!this.#correcting || thin) {
      this.#rate = 1;
    } else {
      const limit = errorS > config.hurryS ? config.hurryRate : config.maxRate;
      const wanted =
        errorS > 0 ? Math.min(limit, 1 + Math.max(STEP, errorS * GAIN)) : Math.max(config.minRate, 1 - Math.max(STEP, -errorS * GAIN));
      if (Math.abs(wanted - this.#rate) > STEP * 0.99 && sample.nowS >= this.#holdUntilS) {
        this.#rate = quantise(wanted);
        this.#holdUntilS = sample.nowS + HOLD_S;
      }
    }
    return { rate: this.#rate, jumpS: 0 };
  }
}

function quantise(rate: number): number {
  return Math.round(rate * 100) / 100;
}

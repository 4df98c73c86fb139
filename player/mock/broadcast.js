// One broadcast of the mock: parts and segments in memory, LL-HLS and DASH rendered from them, and requests that wait.
import { randomBytes } from 'node:crypto';
import { TRACKS } from './encoder.js';

const SEGMENT_S = 2;
const PART_TARGET_S = 0.342;
const HOLD_BACK_S = 1.03;
const WINDOW = 15;
const DEADLINE_MS = 8000;

/** @typedef {{ bytes: Buffer, startS: number, durationS: number, key: boolean }} Part */
/** @typedef {{ msn: number, parts: Part[], done: boolean, discontinuity: boolean }} Segment */

/** @param {typeof TRACKS[number]} spec */
function emptyTrack(spec) {
  return {
    spec,
    inits: /** @type {Buffer[]} */ ([]),
    /** Which of them belongs to a segment. */
    initOf: /** @type {Map<number, number>} */ (new Map()),
    segments: /** @type {Segment[]} */ ([]),
    endS: 0,
  };
}

export class Broadcast {
  id = randomBytes(8).toString('hex');
  since = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
  anchorMs = 0;
  ended = false;
  /** @type {Set<() => void>} */
  waiters = new Set();
  tracks = new Map(TRACKS.map((spec) => [spec.name, emptyTrack(spec)]));
  #discontinuity = new Set();

  /** @param {string} name */
  track(name) {
    const track = this.tracks.get(name);
    if (!track) throw new Error(`no track ${name}`);
    return track;
  }

  /** @param {string} name @param {Buffer} bytes */
  init(name, bytes) {
    this.track(name).inits.push(bytes);
  }

  /** The encoder was away for `gapS`: everything after it is another timeline. */
  discontinue() {
    const endS = Math.max(...[...this.tracks.values()].map((track) => track.endS));
    const boundaryS = Math.ceil(endS / SEGMENT_S + 1) * SEGMENT_S;
    for (const [name, track] of this.tracks) {
      const last = track.segments.at(-1);
      if (last) last.done = true;
      track.endS = boundaryS;
      this.#discontinuity.add(name);
    }
    this.anchorMs = 0;
    this.#boundaryS = boundaryS;
  }

  #boundaryS = 0;
  #msn0 = 0;

  /** @param {string} name @param {{ bytes: Buffer, samples: number, key: boolean }} part */
  part(name, { bytes, samples, key }) {
    const track = this.track(name);
    const durationS = samples / track.spec.rate;
    const startS = track.endS;
    if (!this.anchorMs) this.anchorMs = Date.now() - (startS + durationS) * 1000;
    const discontinuity = this.#discontinuity.delete(name);
    let segment = track.segments.at(-1);
    const slot = (/** @type {number} */ atS) => Math.floor(atS / SEGMENT_S + 0.005);
    const cut = track.spec.kind === 'video' ? key : slot(startS) > slot(segment?.parts[0]?.startS ?? startS);
    if (!segment || discontinuity || cut) {
      if (segment) segment.done = true;
      segment = { msn: segment ? segment.msn + 1 : this.#msn0, parts: [], done: false, discontinuity };
      track.segments.push(segment);
      track.initOf.set(segment.msn, track.inits.length - 1);
      if (track.segments.length > WINDOW * 2) track.segments.shift();
    }
    segment.parts.push({ bytes, startS, durationS, key });
    track.endS = startS + durationS;
    this.#wake();
  }

  end() {
    this.ended = true;
    for (const track of this.tracks.values()) for (const segment of track.segments) segment.done = true;
    this.#wake();
  }

  #wake() {
    const woken = [...this.waiters];
    this.waiters.clear();
    for (const wake of woken) wake();
  }

  get ready() {
    return [...this.tracks.values()].every((track) => track.inits.length > 0 && track.segments.length > 1);
  }

  /** @param {() => boolean} met */
  async until(met) {
    const deadline = Date.now() + DEADLINE_MS;
    while (!met() && !this.ended && Date.now() < deadline) {
      await new Promise((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          resolve(undefined);
        };
        const timer = setTimeout(() => {
          this.waiters.delete(wake);
          resolve(undefined);
        }, Math.max(1, deadline - Date.now()));
        this.waiters.add(wake);
      });
    }
    return met() || this.ended;
  }

  /** @param {string} name @param {number} msn @param {number} part */
  has(name, msn, part) {
    const last = this.track(name).segments.at(-1);
    if (!last) return false;
    if (last.msn > msn) return true;
    return last.msn === msn && (last.done || (part >= 0 && last.parts.length > part));
  }

  codecs() {
    const init = this.track('v-source').inits[0];
    const at = init ? init.indexOf('avcC') : -1;
    return init && at > 0 ? `avc1.${init.toString('hex', at + 5, at + 8)}` : 'avc1.42c01e';
  }

  multivariant() {
    const lines = ['#EXTM3U', '#EXT-X-VERSION:9', '#EXT-X-INDEPENDENT-SEGMENTS'];
    lines.push(`#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="Audio",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="1",URI="${this.id}/-/a-aac-128k/index.m3u8"`);
    for (const { name, kind, width, height, rate, bandwidth } of TRACKS) {
      if (kind !== 'video') continue;
      lines.push(`#EXT-X-STREAM-INF:BANDWIDTH=${bandwidth},RESOLUTION=${width}x${height},FRAME-RATE=${rate}.000,CODECS="${this.codecs()},mp4a.40.2",AUDIO="audio"`);
      lines.push(`${this.id}/-/${name}/index.m3u8`);
    }
    return `${lines.join('\n')}\n`;
  }

  /** @param {string} stream @param {string} name */
  playlist(stream, name) {
    const track = this.track(name);
    const base = `/media/${stream}/${this.id}/${name}`;
    const segments = track.segments.slice(-WINDOW);
    const lines = [
      '#EXTM3U',
      '#EXT-X-VERSION:9',
      '#EXT-X-TARGETDURATION:4',
      `#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=${HOLD_BACK_S}`,
      `#EXT-X-PART-INF:PART-TARGET=${PART_TARGET_S}`,
      `#EXT-X-MEDIA-SEQUENCE:${segments[0]?.msn ?? 0}`,
    ];
    let init = -1;
    segments.forEach((segment, index) => {
      if (segment.discontinuity) lines.push('#EXT-X-DISCONTINUITY');
      const now = track.initOf.get(segment.msn) ?? 0;
      if (now !== init) lines.push(`#EXT-X-MAP:URI="${base}/init-${now}.mp4"`);
      init = now;
      const first = segment.parts[0];
      if (first) lines.push(`#EXT-X-PROGRAM-DATE-TIME:${new Date(this.stampMs(first.startS)).toISOString()}`);
      if (index >= segments.length - 4) {
        segment.parts.forEach((part, number) => {
          lines.push(`#EXT-X-PART:DURATION=${part.durationS.toFixed(5)},URI="${base}/${segment.msn}.${number}.m4s"${part.key || track.spec.kind === 'audio' ? ',INDEPENDENT=YES' : ''}`);
        });
      }
      if (!segment.done) return;
      const durationS = segment.parts.reduce((sum, part) => sum + part.durationS, 0);
      lines.push(`#EXTINF:${durationS.toFixed(5)},`, `${base}/${segment.msn}.m4s`);
    });
    const last = segments.at(-1);
    if (this.ended) lines.push('#EXT-X-ENDLIST');
    else if (last && !last.done) lines.push(`#EXT-X-PRELOAD-HINT:TYPE=PART,URI="${base}/${last.msn}.${last.parts.length}.m4s"`);
    return `${lines.join('\n')}\n`;
  }

  /** Wall clock of a media time. After a discontinuity the anchor is another one; earlier stamps stay as they were. @param {number} mediaS */
  stampMs(mediaS) {
    if (this.#boundaryS && mediaS < this.#boundaryS) return this.#oldAnchorMs + mediaS * 1000;
    if (!this.#boundaryS) this.#oldAnchorMs = this.anchorMs;
    return this.anchorMs + mediaS * 1000;
  }

  #oldAnchorMs = 0;

  manifest() {
    const scale = 48_000;
    const set = (/** @type {string} */ kind) => {
      const tracks = [...this.tracks.values()].filter(({ spec }) => spec.kind === kind);
      const lead = tracks[0];
      if (!lead) return '';
      const segments = lead.segments.slice(-WINDOW);
      const timeline = segments
        .map((segment) => {
          const start = Math.round((segment.parts[0]?.startS ?? 0) * scale);
          const lengthS = segment.done ? segment.parts.reduce((sum, part) => sum + part.durationS, 0) : SEGMENT_S;
          return `<S t="${start}" d="${Math.round(lengthS * scale)}"/>`;
        })
        .join('');
      const template = `<SegmentTemplate timescale="${scale}" initialization="${this.id}/-/$RepresentationID$/init.mp4" media="${this.id}/-/$RepresentationID$/$Number$.m4s" startNumber="${segments[0]?.msn ?? 0}" availabilityTimeOffset="1.6" availabilityTimeComplete="false"><SegmentTimeline>${timeline}</SegmentTimeline></SegmentTemplate>`;
      const representations = tracks
        .map(({ spec }) =>
          kind === 'video'
            ? `<Representation id="${spec.name}" bandwidth="${spec.bandwidth}" width="${spec.width}" height="${spec.height}" frameRate="${spec.rate}" codecs="${this.codecs()}"/>`
            : `<Representation id="${spec.name}" bandwidth="${spec.bandwidth}" audioSamplingRate="48000" codecs="mp4a.40.2"/>`,
        )
        .join('');
      return `<AdaptationSet contentType="${kind}" mimeType="${kind}/mp4" segmentAlignment="true" startWithSAP="1">${template}${representations}</AdaptationSet>`;
    };
    const now = new Date().toISOString();
    const endS = Math.max(...[...this.tracks.values()].map((track) => track.endS));
    const kind = this.ended
      ? `type="static" mediaPresentationDuration="PT${endS.toFixed(3)}S"`
      : `type="dynamic" availabilityStartTime="${new Date(this.anchorMs).toISOString()}" minimumUpdatePeriod="PT2S" timeShiftBufferDepth="PT28S" suggestedPresentationDelay="PT2S"`;
    return `<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" ${kind} profiles="urn:mpeg:dash:profile:isoff-live:2011" publishTime="${now}" maxSegmentDuration="PT4S" minBufferTime="PT1S">
<ServiceDescription id="0"><Latency target="2000" referenceId="0"/></ServiceDescription>
<Period id="0" start="PT0S">${set('video')}${set('audio')}</Period>
<UTCTiming schemeIdUri="urn:mpeg:dash:utc:direct:2014" value="${now}"/>
</MPD>
`;
  }
}

/**
 * Works round a busy loop in hls.js 1.7.4.
 *
 * Browsers truncate buffered ranges to microseconds: a segment that ends at 2.048 s reads as buffered to 2.047999 s. When it is
 * the last complete segment and playback began inside it, hls.js takes that microsecond for missing media, finds the segment
 * only partly buffered, forgets its parts and loads the last of them again, without a pause, until the playlist's next segment
 * is complete; after EXT-X-ENDLIST, for ever. Two milliseconds, less than any frame lasts, carry it over the boundary.
 */
import Hls, { type HlsConfig } from 'hls.js';

const OVER_S = 0.002;

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- TypeScript takes a class as a base only with these arguments
type Controller = new (...args: any[]) => object;
type BufferEnd = { end: number } | null;

function carried<C extends Controller>(base: C): C {
  const parent = base.prototype as { getFwdBufferInfo(...args: unknown[]): BufferEnd };
  class Carried extends base {
    getFwdBufferInfo(...args: unknown[]): BufferEnd {
      const info = parent.getFwdBufferInfo.apply(this, args);
      if (info) info.end += OVER_S;
      return info;
    }
  }
  return Carried;
}

/** The parts of hls.js's configuration that carry it over the boundary. */
export function carriedControllers(): Partial<HlsConfig> {
  const { streamController, audioStreamController } = Hls.DefaultConfig;
  return {
    streamController: carried(streamController),
    ...(audioStreamController ? { audioStreamController: carried(audioStreamController) } : {}),
  };
}

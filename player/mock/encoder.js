// A moving picture with a clock, in two sizes, cut into CMAF parts: encoded once by ffmpeg, then sent in a loop at its own pace, so that
// a machine that is too busy to encode in real time does not look like a stream that stands still. For the player's own tests alone.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';

/**
 * @typedef {{ bytes: Buffer, samples: number, key: boolean }} Part
 * @typedef {{ init: Buffer, parts: Part[] }} Recording
 * @typedef {{ init(track: string, bytes: Buffer): void, part(track: string, part: Part): void }} Sink
 */

const FONT = '/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf';

export const TRACKS = [
  { name: 'v-source', kind: 'video', width: 854, height: 480, rate: 30, timescale: 90_000, bandwidth: 1_600_000 },
  { name: 'v-240p30', kind: 'video', width: 426, height: 240, rate: 30, timescale: 90_000, bandwidth: 500_000 },
  { name: 'a-aac-128k', kind: 'audio', width: 0, height: 0, rate: 48_000 / 1024, timescale: 48_000, bandwidth: 130_000 },
];

/** A whole number of frames in every track, and of key-frame intervals. */
const LOOP_S = 32;
const PACE_MS = 20;

/** @type {Promise<Map<string, Recording>> | undefined} */
let recorded;

/** Sends the parts as they would come from an encoder, until what it returns is called. @param {Sink} sink */
export function encode(sink) {
  let stopped = false;
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  recorded ??= record();
  void recorded.then((recordings) => {
    if (stopped) return;
    const begun = performance.now();
    const tracks = TRACKS.map((track) => ({ ...track, recording: /** @type {Recording} */ (recordings.get(track.name)), next: 0, loop: 0, endS: 0 }));
    for (const { name, recording } of tracks) sink.init(name, recording.init);
    timer = setInterval(() => {
      const elapsedS = (performance.now() - begun) / 1000;
      for (const track of tracks) {
        for (;;) {
          const part = /** @type {Part} */ (track.recording.parts[track.next]);
          const endS = track.endS + part.samples / track.rate;
          if (endS > elapsedS) break;
          sink.part(track.name, { ...part, bytes: later(part.bytes, track.loop * LOOP_S * track.timescale) });
          track.endS = endS;
          track.next = (track.next + 1) % track.recording.parts.length;
          if (track.next === 0) track.loop++;
        }
      }
    }, PACE_MS);
  });
  return () => {
    stopped = true;
    clearInterval(timer);
  };
}

/** The same part, later by so many ticks of its track. @param {Buffer} bytes @param {number} ticks */
function later(bytes, ticks) {
  const copy = Buffer.from(bytes);
  // tfdt version 1: type, version and flags, base media decode time (ISO/IEC 14496-12, 8.8.12).
  const time = copy.indexOf('tfdt') + 8;
  copy.writeBigUInt64BE(copy.readBigUInt64BE(time) + BigInt(ticks), time);
  return copy;
}

/** @returns {Promise<Map<string, Recording>>} */
async function record() {
  const clock = existsSync(FONT) ? `,drawtext=fontfile=${FONT}:text='%{pts\\:hms}':fontsize=56:fontcolor=white:x=(w-tw)/2:y=(h-th)/2` : '';
  const x264 = ['-preset', 'ultrafast', '-tune', 'zerolatency', '-g', '60', '-keyint_min', '60', '-sc_threshold', '0', '-pix_fmt', 'yuv420p', '-frames:v', String(LOOP_S * 30)];
  const mp4 = ['-f', 'mp4', '-movflags', '+cmaf+empty_moov+default_base_moof+frag_keyframe', '-frag_duration', '333333', '-flush_packets', '1'];
  const child = spawn(
    'ffmpeg',
    [
      '-hide_banner', '-loglevel', 'error', '-nostdin',
      '-f', 'lavfi', '-i', 'gradients=s=854x480:r=30:c0=0x0b2b26:c1=0x1d7a66:c2=0x6fe3c4:c3=0x10201d:n=4:speed=0.008',
      '-f', 'lavfi', '-i', 'sine=frequency=330:sample_rate=48000',
      '-filter_complex', `[0:v]format=yuv420p${clock},split=2[a][b];[b]scale=426:240[c]`,
      '-map', '[a]', '-c:v', 'libx264', ...x264, '-b:v', '1200k', '-video_track_timescale', '90000', ...mp4, 'pipe:3',
      '-map', '[c]', '-c:v', 'libx264', ...x264, '-b:v', '350k', '-video_track_timescale', '90000', ...mp4, 'pipe:4',
      '-map', '1:a', '-filter:a', 'volume=0.1', '-c:a', 'aac', '-b:a', '128k', '-frames:a', String((LOOP_S * 48_000) / 1024), ...mp4, 'pipe:5',
    ],
    { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe', 'pipe'] },
  );
  const recordings = await Promise.all(
    TRACKS.map(async ({ name }, index) => /** @type {const} */ ([name, await readBoxes(/** @type {import('node:stream').Readable} */ (child.stdio[3 + index]))])),
  );
  if (child.exitCode === null) await once(child, 'exit');
  if (child.exitCode !== 0) throw new Error(`ffmpeg ended with status ${child.exitCode}`);
  return new Map(recordings);
}

/** @param {import('node:stream').Readable} stream @returns {Promise<Recording>} */
async function readBoxes(stream) {
  /** @type {Recording} */
  const recording = { init: Buffer.alloc(0), parts: [] };
  const all = Buffer.concat(/** @type {Buffer[]} */ (await stream.toArray()));
  /** @type {Buffer[]} */
  let held = [];
  let samples = 0;
  let key = true;
  for (let at = 0; at < all.length; ) {
    const box = all.subarray(at, at + all.readUInt32BE(at));
    at += box.length;
    const type = box.toString('latin1', 4, 8);
    if (type === 'mfra') continue;
    held.push(box);
    if (type === 'moov') {
      recording.init = Buffer.concat(held);
      held = [];
    } else if (type === 'moof') {
      const trun = box.indexOf('trun');
      samples = box.readUInt32BE(trun + 8);
      // The first sample's flags (trun flag 4): a sync sample has sample_is_non_sync_sample unset.
      const flags = box.readUInt32BE(trun + 4) & 0xffffff;
      key = (flags & 4) !== 0 ? (box.readUInt32BE(trun + 16) & 0x10000) === 0 : false;
    } else if (type === 'mdat') {
      recording.parts.push({ bytes: Buffer.concat(held), samples, key });
      held = [];
    }
  }
  return recording;
}

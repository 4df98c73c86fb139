// A moving picture with a clock, encoded live by ffmpeg in two sizes, cut into CMAF parts. For the player's own tests alone.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';

/**
 * @typedef {{ bytes: Buffer, samples: number, key: boolean }} Part
 * @typedef {{ init(track: string, bytes: Buffer): void, part(track: string, part: Part): void, exit(): void }} Sink
 */

const FONT = '/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf';

export const TRACKS = [
  { name: 'v-source', kind: 'video', width: 854, height: 480, rate: 30, bandwidth: 1_600_000 },
  { name: 'v-240p30', kind: 'video', width: 426, height: 240, rate: 30, bandwidth: 500_000 },
  { name: 'a-aac-128k', kind: 'audio', width: 0, height: 0, rate: 48_000 / 1024, bandwidth: 130_000 },
];

/** @param {Sink} sink */
export function encode(sink) {
  const clock = existsSync(FONT)
    ? `,drawtext=fontfile=${FONT}:text='%{localtime\\:%X}':fontsize=56:fontcolor=white:x=(w-tw)/2:y=(h-th)/2`
    : '';
  const x264 = ['-preset', 'ultrafast', '-tune', 'zerolatency', '-g', '60', '-keyint_min', '60', '-sc_threshold', '0', '-pix_fmt', 'yuv420p'];
  const mp4 = ['-f', 'mp4', '-movflags', '+cmaf+empty_moov+default_base_moof+frag_keyframe', '-frag_duration', '333333', '-flush_packets', '1'];
  const child = spawn(
    'ffmpeg',
    [
      '-hide_banner', '-loglevel', 'error', '-nostdin',
      '-re', '-f', 'lavfi', '-i', 'gradients=s=854x480:r=30:c0=0x0b2b26:c1=0x1d7a66:c2=0x6fe3c4:c3=0x10201d:n=4:speed=0.008',
      '-re', '-f', 'lavfi', '-i', 'sine=frequency=330:sample_rate=48000',
      '-filter_complex', `[0:v]format=yuv420p${clock},split=2[a][b];[b]scale=426:240[c]`,
      '-map', '[a]', '-c:v', 'libx264', ...x264, '-b:v', '1200k', ...mp4, 'pipe:3',
      '-map', '[c]', '-c:v', 'libx264', ...x264, '-b:v', '350k', ...mp4, 'pipe:4',
      '-map', '1:a', '-filter:a', 'volume=0.1', '-c:a', 'aac', '-b:a', '128k', ...mp4, 'pipe:5',
    ],
    { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe', 'pipe'] },
  );
  TRACKS.forEach((track, index) => {
    const pipe = /** @type {import('node:stream').Readable} */ (child.stdio[3 + index]);
    readBoxes(pipe, track.name, sink);
  });
  child.on('exit', () => sink.exit());
  return () => child.kill('SIGKILL');
}

/**
 * @param {import('node:stream').Readable} stream
 * @param {string} track
 * @param {Sink} sink
 */
function readBoxes(stream, track, sink) {
  let pending = Buffer.alloc(0);
  /** @type {Buffer[]} */
  let held = [];
  let samples = 0;
  let key = true;
  stream.on('data', (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= 8) {
      const size = pending.readUInt32BE(0);
      if (pending.length < size) return;
      const box = pending.subarray(0, size);
      const type = box.toString('latin1', 4, 8);
      pending = pending.subarray(size);
      if (type === 'mfra') continue;
      held.push(box);
      if (type === 'moov') {
        sink.init(track, Buffer.concat(held));
        held = [];
      } else if (type === 'moof') {
        const trun = box.indexOf('trun');
        samples = box.readUInt32BE(trun + 8);
        // The first sample's flags (trun flag 4): a sync sample has sample_is_non_sync_sample unset.
        const flags = box.readUInt32BE(trun + 4) & 0xffffff;
        key = (flags & 4) !== 0 ? (box.readUInt32BE(trun + 16) & 0x10000) === 0 : false;
      } else if (type === 'mdat') {
        sink.part(track, { bytes: Buffer.concat(held), samples, key });
        held = [];
      }
    }
  });
}

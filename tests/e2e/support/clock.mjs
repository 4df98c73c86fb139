// A picture that carries the time: each frame's wall clock as 40 black and white squares, which survive scaling and compression, so
// that a page can read off a painted frame when it was made.
import { spawn } from 'node:child_process';

export const WIDTH = 1280;
export const HEIGHT = 720;
// Frames are drawn in cells of 16 by 16 pixels and made large by FFmpeg: encoder, server and browser share a machine.
const CELL = 16;
const [COLUMNS, ROWS] = [WIDTH / CELL, HEIGHT / CELL];
// Milliseconds modulo 2^32, then the sum of its four bytes as a check: 40 squares of 32 pixels, in two rows alike.
const BITS = 40;
const SQUARE = COLUMNS / BITS;

const bitsOf = (ms) => {
  const low = Math.floor(ms % 2 ** 32);
  const bytes = [24, 16, 8, 0].map((shift) => (low >>> shift) & 0xff);
  bytes.push(bytes.reduce((sum, byte) => sum + byte, 0) & 0xff);
  return bytes.flatMap((byte) => [7, 6, 5, 4, 3, 2, 1, 0].map((bit) => (byte >> bit) & 1));
};

/** One frame of grey cells whose top rows of squares say `ms`, over a changing shade. */
function frame(cells, ms, n) {
  cells.fill(60 + (n % 120));
  // A bar that moves, so that no two frames are alike.
  const x = n % (COLUMNS - 4);
  for (let y = 19; y < 26; y += 1) cells.fill(220, y * COLUMNS + x, y * COLUMNS + x + 4);
  bitsOf(ms).forEach((bit, i) => {
    for (let y = 0; y < SQUARE * 2; y += 1) cells.fill(bit ? 235 : 16, y * COLUMNS + i * SQUARE, y * COLUMNS + (i + 1) * SQUARE);
  });
}

/** Publishes the clock and a tone to `url` by ffmpeg. `encode` replaces the encoder's options. Ends with `stop()`. */
export function publishClock(url, { encode, fps = 30, log = false } = {}) {
  const video = encode ?? ['-c:v', 'libx264', '-preset', 'ultrafast', '-tune', 'zerolatency', '-g', String(fps * 2), '-b:v', '2500k'];
  const args = [
    '-hide_banner', '-loglevel', 'warning',
    '-f', 'rawvideo', '-pix_fmt', 'gray', '-s', `${COLUMNS}x${ROWS}`, '-r', String(fps), '-i', 'pipe:0',
    '-re', '-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000',
    '-map', '0:v', '-map', '1:a', '-shortest', '-vf', `scale=${WIDTH}:${HEIGHT}:flags=neighbor:in_range=tv:out_range=tv,format=yuv420p`, ...video, '-c:a', 'aac', '-b:a', '96k', '-ac', '2', '-f', 'flv', url,
  ];
  const encoder = spawn('ffmpeg', args, { stdio: ['pipe', 'ignore', log ? 'inherit' : 'ignore'] });
  const cells = Buffer.alloc(COLUMNS * ROWS);
  const started = performance.now();
  let n = 0;
  let blocked = false;
  encoder.stdin.on('error', () => clearInterval(timer));
  encoder.stdin.on('drain', () => { blocked = false; });
  const timer = setInterval(() => {
    // Frames that the encoder had no time for are skipped in content and not in number, so that the stream keeps its rate.
    while (!blocked && (performance.now() - started) * fps >= n * 1000) {
      frame(cells, Date.now(), n);
      blocked = !encoder.stdin.write(Buffer.from(cells));
      n += 1;
    }
  }, 1000 / fps / 4);
  const exited = new Promise((resolve) => encoder.on('exit', resolve));
  return {
    encoder,
    exited,
    /** Ends the publish in the ordinary way: the encoder says goodbye. */
    async stop() {
      clearInterval(timer);
      encoder.stdin.end();
      await exited;
    },
    /** Cuts the connection in mid-stream. */
    async kill() {
      clearInterval(timer);
      encoder.kill('SIGKILL');
      await exited;
    },
  };
}

/** Runs in the page: the delay in milliseconds between the clock in the painted frame and now, or null when it cannot be read. */
export function readDelay(element) {
  const video = element.shadowRoot?.querySelector('video') ?? element.querySelector?.('video') ?? element;
  if (!video.videoWidth) return null;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [1280, 64];
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(video, 0, 0, video.videoWidth, (video.videoHeight * 64) / 720, 0, 0, 1280, 64);
  const pixels = context.getImageData(0, 32, 1280, 1).data;
  const bytes = [];
  for (let i = 0; i < 5; i += 1) {
    let byte = 0;
    for (let bit = 0; bit < 8; bit += 1) byte = byte * 2 + (pixels[((i * 8 + bit) * 32 + 16) * 4] > 128 ? 1 : 0);
    bytes.push(byte);
  }
  const check = bytes.pop();
  if ((bytes.reduce((sum, byte) => sum + byte, 0) & 0xff) !== check) return null;
  const low = bytes.reduce((value, byte) => value * 256 + byte, 0);
  const now = Date.now();
  let delay = (now % 2 ** 32) - low;
  if (delay < -(2 ** 31)) delay += 2 ** 32;
  return delay;
}

// OBS Studio as a streamer starts it: a profile with a custom server and key, everything else at its defaults, a folder of its own
// in place of the home folder, and a screen of its own. It is asked and told over its own WebSocket (obs-websocket 5).
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import WebSocket from 'ws';

import { startDisplay } from './display.mjs';
import { freePort } from '../../ports.mjs';
import { until } from './server.mjs';

// Small: the processor draws and encodes it, beside the server's ladder and a browser.
export const WIDTH = 640;
export const HEIGHT = 360;

const ini = (sections) => Object.entries(sections)
  .map(([name, keys]) => `[${name}]\n${Object.entries(keys).map(([key, value]) => `${key}=${value}`).join('\n')}\n`).join('\n');

/** A picture that moves without a cut for 20 s, with a tone: OBS's encoder finds a scene cut once a round only. */
function film(file) {
  const child = spawn('ffmpeg', [
    '-hide_banner', '-v', 'error', '-f', 'lavfi', '-i', 'testsrc2=size=640x360:rate=30:duration=20',
    '-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000:duration=20', '-c:v', 'libx264', '-preset', 'ultrafast', '-c:a', 'aac', file,
  ], { stdio: ['ignore', 'ignore', 'inherit'] });
  return new Promise((resolve, reject) => child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`ffmpeg: ${code}`)))));
}

/** Starts OBS, streaming at once to `server` with `key`. */
export async function startObs({ server, key }) {
  const folder = await mkdtemp(join(tmpdir(), 'ghost-live-obs-'));
  const settings = join(folder, 'config', 'obs-studio');
  const port = await freePort();
  const password = randomBytes(12).toString('hex');
  const picture = join(folder, 'film.mp4');
  await film(picture);
  await mkdir(join(settings, 'basic', 'profiles', 'ghost'), { recursive: true });
  await mkdir(join(settings, 'basic', 'scenes'), { recursive: true });
  await writeFile(join(settings, 'global.ini'), ini({
    // Not the first run: no wizard.
    General: { FirstRun: true, EnableAutoUpdates: false },
    Basic: { Profile: 'ghost', ProfileDir: 'ghost', SceneCollection: 'ghost', SceneCollectionFile: 'ghost' },
    // Nobody looks at the preview.
    BasicWindow: { PreviewEnabled: false },
    // This OBS can only listen on every address, so it asks for a password.
    OBSWebSocket: { FirstLoad: false, ServerEnabled: true, ServerPort: port, AuthRequired: true, ServerPassword: password, AlertsEnabled: false },
  }));
  await writeFile(join(settings, 'basic', 'profiles', 'ghost', 'basic.ini'), ini({
    General: { Name: 'ghost' },
    Video: { BaseCX: WIDTH, BaseCY: HEIGHT, OutputCX: WIDTH, OutputCY: HEIGHT, FPSCommon: 30 },
    Output: { Mode: 'Simple' },
  }));
  await writeFile(join(settings, 'basic', 'profiles', 'ghost', 'service.json'), JSON.stringify({ type: 'rtmp_custom', settings: { server, key, use_auth: false } }));
  await writeFile(join(settings, 'basic', 'scenes', 'ghost.json'), JSON.stringify({
    name: 'ghost',
    current_scene: 'Scene',
    current_program_scene: 'Scene',
    scene_order: [{ name: 'Scene' }],
    sources: [
      { id: 'ffmpeg_source', versioned_id: 'ffmpeg_source', name: 'Film', settings: { local_file: picture, looping: true, hw_decode: false }, mixers: 255, volume: 1, enabled: true },
      {
        id: 'scene', versioned_id: 'scene', name: 'Scene', enabled: true,
        settings: { id_counter: 1, items: [{ name: 'Film', id: 1, visible: true, pos: { x: 0, y: 0 }, bounds_type: 2, bounds: { x: WIDTH, y: HEIGHT }, scale: { x: 1, y: 1 } }] },
      },
    ],
  }));

  const display = await startDisplay();
  const child = spawn('obs', ['--startstreaming', '--minimize-to-tray', '--multi', '--profile', 'ghost', '--collection', 'ghost'], {
    env: {
      ...process.env, DISPLAY: display.name, HOME: folder, XDG_CONFIG_HOME: join(folder, 'config'), XDG_RUNTIME_DIR: folder,
      QT_QPA_PLATFORM: 'xcb', LIBGL_ALWAYS_SOFTWARE: '1',
      // Else one is started for it, which outlives it.
      DBUS_SESSION_BUS_ADDRESS: 'disabled:',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => { output += chunk; });
  child.stderr.on('data', (chunk) => { output += chunk; });
  const exited = new Promise((resolve) => {
    child.on('exit', resolve);
    child.on('error', (error) => { output += `obs (tests/tools.sh installs it): ${error.message}`; resolve(); });
  });
  let socket;
  return {
    /** What OBS logged. */
    output: () => output,

    /** A request of obs-websocket 5, and the answer's data. */
    async ask(requestType, requestData = {}) {
      socket ??= await connect(port, password);
      return socket.ask(requestType, requestData);
    },

    /** Cuts the connection in mid-stream. */
    async kill() {
      socket?.close();
      child.kill('SIGKILL');
      await exited;
      await display.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const hash = (text) => createHash('sha256').update(text).digest('base64');

/** Waits for the WebSocket of the OBS that listens on `port`, and proves to know the password. */
async function connect(port, password) {
  const waiting = new Map();
  const socket = await until('the WebSocket of OBS', () => new Promise((resolve, reject) => {
    const opening = new WebSocket(`ws://127.0.0.1:${port}`, 'obswebsocket.json');
    opening.on('error', reject);
    opening.on('message', (bytes) => {
      const { op, d } = JSON.parse(bytes);
      if (op === 0) {
        const { salt, challenge } = d.authentication;
        const authentication = hash(hash(password + salt) + challenge);
        opening.send(JSON.stringify({ op: 1, d: { rpcVersion: 1, eventSubscriptions: 0, authentication } }));
      }
      if (op === 2) resolve(opening);
      if (op === 7) waiting.get(d.requestId)?.(d);
    });
  }), 60);
  let id = 0;
  return {
    async ask(requestType, requestData) {
      id += 1;
      const requestId = String(id);
      const answered = new Promise((resolve, reject) => {
        waiting.set(requestId, resolve);
        setTimeout(() => reject(new Error(`OBS did not answer ${requestType}`)), 30_000).unref();
      });
      socket.send(JSON.stringify({ op: 6, d: { requestType, requestId, requestData } }));
      const { requestStatus, responseData } = await answered;
      waiting.delete(requestId);
      if (!requestStatus.result) throw new Error(`OBS, ${requestType}: ${requestStatus.comment ?? requestStatus.code}`);
      return responseData;
    },
    close: () => socket.terminate(),
  };
}

// WebKitGTK, the nearest that runs on Linux to Safari: its MiniBrowser on a screen of its own, over WebDriver (W3C, plain HTTP).
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { startDisplay } from './display.mjs';
import { freePort } from '../../ports.mjs';
import { until } from './server.mjs';

const BROWSER = ['/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser', '/usr/lib/aarch64-linux-gnu/webkit2gtk-4.1/MiniBrowser'].find(existsSync);

/** A window of MiniBrowser with a fresh profile. */
export async function launchWebKit() {
  if (!BROWSER) throw new Error('There is no MiniBrowser: tests/tools.sh installs webkit2gtk-driver.');
  const folder = await mkdtemp(join(tmpdir(), 'ghost-live-webkit-'));
  const display = await startDisplay('1280x900');
  const port = await freePort();
  let output = '';
  const driver = spawn('WebKitWebDriver', [`--port=${port}`], {
    env: {
      ...process.env,
      DISPLAY: display.name, GDK_BACKEND: 'x11', LIBGL_ALWAYS_SOFTWARE: '1',
      HOME: folder, XDG_CONFIG_HOME: join(folder, 'config'), XDG_CACHE_HOME: join(folder, 'cache'), XDG_DATA_HOME: join(folder, 'data'), XDG_RUNTIME_DIR: folder,
      // Else services are started for it, which outlive it.
      DBUS_SESSION_BUS_ADDRESS: 'disabled:', NO_AT_BRIDGE: '1', GIO_USE_VFS: 'local', GSETTINGS_BACKEND: 'memory',
      // Off in a release build.
      WEBKIT_GST_ENABLE_HLS_SUPPORT: '1',
      // There is no sound card: a sink that keeps time by the system's clock.
      GST_PLUGIN_FEATURE_RANK: 'fakeaudiosink:MAX',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    // With what it starts it is one process group, ended as one.
    detached: true,
  });
  driver.stdout.on('data', (chunk) => { output += chunk; });
  driver.stderr.on('data', (chunk) => { output += chunk; });
  const exited = new Promise((resolve) => {
    driver.on('exit', resolve);
    driver.on('error', (error) => { output += `WebKitWebDriver (tests/tools.sh installs it): ${error.message}`; resolve(); });
  });

  // The page's process answers no command any more: every one of them is done in milliseconds.
  let hung = false;
  async function command(method, path, body) {
    if (hung) throw new Error('WebKit hangs');
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    }).catch((error) => {
      hung = error.name === 'TimeoutError';
      throw error;
    });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`WebKit, ${method} ${path}: ${value.error}: ${value.message}\n${output}`);
    return value;
  }

  async function end() {
    try {
      process.kill(-driver.pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
    await exited;
    await display.stop();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }

  try {
    await until('WebKitWebDriver answers', async () => (await command('GET', '/status')).ready, 30);
    const { sessionId, capabilities } = await command('POST', '/session', {
      capabilities: { alwaysMatch: { 'webkitgtk:browserOptions': { binary: BROWSER, args: ['--automation'] } } },
    });
    const session = `/session/${sessionId}`;
    return {
      version: `${capabilities.browserName} ${capabilities.browserVersion}`,
      output: () => output,
      hung: () => hung,
      open: (url) => command('POST', `${session}/url`, { url }),
      /** The value of an expression in the page. */
      evaluate: (expression) => command('POST', `${session}/execute/sync`, { script: `return ${expression}`, args: [] }),
      async screenshot() { return Buffer.from(await command('GET', `${session}/screenshot`), 'base64'); },
      async close() {
        await command('DELETE', session).catch(() => undefined);
        await end();
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}

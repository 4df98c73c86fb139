// Starts the real Worker in workerd, with its own state folder; ends it gently or by SIGKILL.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { freePort } from "../ports.mjs";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const SERVE = path.join(ROOT, "tests/worker/serve.js");
const WRANGLER = path.join(ROOT, "tests/worker/node_modules/.bin/wrangler");

// Nothing is asked of the network: no metrics, no update check, no sample request properties.
const ENVIRONMENT = { ...process.env, WRANGLER_SEND_METRICS: "false", CLOUDFLARE_CF_FETCH_ENABLED: "false", CI: "1", NO_COLOR: "1" };

/** Runs a wrangler command to its end and gives what it printed. */
export async function wrangler(...args) {
  const child = spawn(WRANGLER, args, { cwd: ROOT, env: ENVIRONMENT, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`wrangler ${args.join(" ")} ended with ${code}:\n${output}`);
  return output;
}

/** A folder for workerd's state, with the directory's tables in it. */
export async function newState() {
  const state = await mkdtemp(path.join(tmpdir(), "ghost-live-worker-"));
  await wrangler("d1", "migrations", "apply", "ghost-live", "--local", "--persist-to", state);
  return { path: state, remove: () => rm(state, { recursive: true, force: true }) };
}

/** The Worker on a free port. `vars` are the variables and secrets it sees. */
export async function startEdge({ state, vars = {}, port }) {
  port ??= await freePort();
  return started(port, [SERVE, String(port), state.path], JSON.stringify(vars));
}

/** The same by `wrangler dev`, as the docs say. */
export async function startByWrangler({ state, vars = {} }) {
  const port = await freePort();
  const args = ["dev", "--ip", "127.0.0.1", "--port", String(port), "--inspector-port", "0", "--persist-to", state.path, "--show-interactive-dev-session=false"];
  for (const [name, value] of Object.entries(vars)) args.push("--var", `${name}:${value}`);
  return started(port, [WRANGLER, ...args], "");
}

/** Node with these arguments, once it serves the Worker on that port. */
async function started(port, args, input) {
  // Its own process group, so that workerd ends with it.
  const child = spawn(process.execPath, args, { cwd: ROOT, env: ENVIRONMENT, detached: true, stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.end(input);
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log = (log + text).slice(-100_000)));
  const ended = once(child, "close");
  let running = true;
  ended.then(() => (running = false));
  const url = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + 120_000;
  for (;;) {
    if (!running) throw new Error(`the Worker ended before it listened:\n${log}`);
    if (Date.now() > deadline) throw new Error(`the Worker did not listen within two minutes:\n${log}`);
    const answer = await fetch(`${url}/healthz`).catch(() => undefined);
    if (answer?.ok) break;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const end = async (signal) => {
    if (running) process.kill(-child.pid, signal);
    await ended;
  };
  /** Takes the directory's tables away; what the Worker remembers of them stays for ten seconds. */
  const loseDirectory = async () => {
    process.kill(child.pid, "SIGUSR2");
    for (const deadline = Date.now() + 10_000; !log.includes("the directory is lost"); ) {
      if (Date.now() > deadline) throw new Error(`the directory is still there:\n${log}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  return { url, port, loseDirectory, log: () => log, kill: () => end("SIGKILL"), stop: () => end("SIGTERM") };
}

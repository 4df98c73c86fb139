// Serves the Worker as it was built, in workerd: `serve.js PORT STATE`, its variables and secrets as JSON on the standard input. Ends with SIGTERM.
//
// Not by `wrangler dev`: the proxy that it puts in front keeps a request whose connection to workerd broke until the next one comes, and
// every running segment that is cut off breaks one.
import { text } from "node:stream/consumers";
import path from "node:path";
import { Miniflare } from "miniflare";
import { unstable_getMiniflareWorkerOptions } from "wrangler";

import { ROOT } from "./edge.js";

const [port, state] = process.argv.slice(2);
const vars = JSON.parse(await text(process.stdin));
const { workerOptions, main } = unstable_getMiniflareWorkerOptions(path.join(ROOT, "wrangler.toml"));
const miniflare = new Miniflare({
  ...workerOptions,
  bindings: { ...workerOptions.bindings, ...vars },
  // As wrangler calls it: objects and tables lie where `wrangler d1 --persist-to` and an earlier run look for them.
  name: "ghost-live",
  modulesRoot: path.dirname(main),
  modules: [
    { type: "ESModule", path: main },
    { type: "CompiledWasm", path: path.join(path.dirname(main), "index_bg.wasm") },
  ],
  host: "127.0.0.1",
  port: Number(port),
  defaultPersistRoot: path.join(state, "v3"),
  cf: false,
  handleRuntimeStdio: (out, err) => {
    out.pipe(process.stdout);
    err.pipe(process.stderr);
  },
});
process.once("SIGTERM", async () => {
  await miniflare.dispose();
  process.exit();
});
// From then on whatever asks the directory fails, and what is remembered of it does not.
process.once("SIGUSR2", async () => {
  const directory = await miniflare.getD1Database("DIRECTORY");
  for (const table of ["streams", "revocations"]) await directory.prepare(`ALTER TABLE ${table} RENAME TO lost_${table}`).run();
  console.log("the directory is lost");
});
await miniflare.ready;

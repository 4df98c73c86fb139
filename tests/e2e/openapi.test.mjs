// The HTTP surface is held to its description by schemathesis: the same runs against `ghost-live edge` and against the Worker in
// workerd, each with a box that publishes through it, so that live addresses answer and the box's own are asked as well.
//
// GHOST_LIVE_FUZZ_SEED sets the seed, which is printed; GHOST_LIVE_FUZZ_EXAMPLES the number of requests made up for each operation.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { ROOT } from '../worker/edge.js';
import { publishClock } from './support/clock.mjs';
import { run } from './support/edge-checks.mjs';
import { nativeEdge, startBox, workerEdge } from './support/remote.mjs';
import { BINARY, TOOLS, until } from './support/server.mjs';

const SUITE = join(ROOT, 'tests/openapi');
const SEED = process.env.GHOST_LIVE_FUZZ_SEED ?? '20261123';

/** A program of the tests' Python tools. */
function tool(name) {
  const path = join(TOOLS, 'schemathesis/bin', name);
  if (!existsSync(path)) throw new Error(`${path} is missing: ./test installs it (tests/tools.sh)`);
  return path;
}

/** Runs a program to its end; everything that it says, and whether it is content. */
async function whole(program, args, { cwd, ...env }) {
  const child = spawn(program, args, { cwd, env: { ...process.env, NO_COLOR: '1', ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { output += chunk; });
  const code = await new Promise((resolve) => child.on('close', resolve));
  return { code, output };
}

/** A token, by the command line, and the keys that it is signed with. */
async function token(folder) {
  const args = ['token', 'mint', '--stream', '*', '--act', 'manage', '--act', 'watch', '--data', folder];
  const { code, stdout, stderr } = await run(BINARY, args);
  assert.equal(code, 0, stderr);
  return stdout.trim();
}

/** `examples`: how many requests are made up for each operation where nobody says. */
const EDGES = [
  {
    name: 'ghost-live edge',
    examples: 12,
    unmanaged: [],
    async start() {
      const edge = await nativeEdge();
      return { edge, token: await token(edge.folder) };
    },
  },
  {
    name: 'the Worker in workerd',
    examples: 6,
    unmanaged: ['deleteObject'],
    async start() {
      const folder = await mkdtemp(join(tmpdir(), 'ghost-live-keys-'));
      const minted = await token(folder);
      const keys = await readFile(join(folder, 'edge/token-keys.json'), 'utf8');
      await rm(folder, { recursive: true });
      return { edge: await workerEdge({ vars: { TOKEN_KEYS: keys } }), token: minted };
    },
  },
];

for (const { name, examples, unmanaged, start } of EDGES) {
  describe(`the description of ${name}`, () => {
    let edge, box, encoder, admin, folder;

    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'ghost-live-openapi-'));
      ({ edge, token: admin } = await start());
      box = await startBox(edge);
      encoder = publishClock(box.publishUrl(await box.key()), { fps: 15 });
      await until('main is live', async () => (await (await fetch(`${edge.url}/api/streams/main`)).json()).live, 60);
    });

    after(async () => {
      await encoder?.kill();
      await box?.stop();
      await edge?.remove();
      if (folder) await rm(folder, { recursive: true, force: true });
    });

    /** One run, with a token for everything or without any. */
    const schemathesis = async (signedIn) => {
      const spare = 'spare';
      const studio = {};
      if (signedIn) {
        const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
        const made = await fetch(`${edge.url}/api/streams`, { method: 'POST', headers, body: JSON.stringify({ name: spare }) });
        assert.equal(made.status, 201);
        studio[spare] = (await made.json()).studio_secret;
      }
      const fixture = {
        url: edge.url, live: 'main', spare, studio,
        token: signedIn ? admin : null,
        link_secret: (await readFile(edge.secretFile, 'utf8')).trim(),
      };
      const file = join(folder, 'fixture.json');
      await writeFile(file, JSON.stringify(fixture), { mode: 0o600 });
      const args = [
        '--config-file', join(SUITE, 'schemathesis.toml'), 'run', `${edge.url}/api/openapi.json`, '--url', edge.url,
        // One worker: two race within schemathesis, and would make other requests up each time.
        '--checks', 'all', '--workers', '1', '--seed', SEED,
        '--max-examples', process.env.GHOST_LIVE_FUZZ_EXAMPLES ?? String(examples),
      ];
      const told = join(folder, 'told.json');
      await copyFile(join(SUITE, 'hooks.py'), join(folder, 'hooks.py'));
      const { code, output } = await whole(tool('schemathesis'), args, {
        // What it keeps of a run goes with the folder, where it looks for its hooks as well.
        cwd: folder, GHOST_LIVE_FIXTURE: file, GHOST_LIVE_TOLD: told,
      });
      console.log(output.slice(output.indexOf('= SUMMARY')));
      assert.equal(code, 0, `seed ${SEED}:\n${output}\n${edge.log().slice(-4000)}`);
      return JSON.parse(await readFile(told, 'utf8'));
    };

    /** A run that was told no everywhere proves nothing: these were answered with what they are for. */
    const reached = (told, operations) => {
      // schemathesis makes up no offer, and without one there is no session to leave: whep.test.mjs and the tests of both edges have them.
      for (const id of operations.filter((id) => !['offer', 'trickle', 'leave'].includes(id))) {
        const good = Object.keys(told[id] ?? {}).some((status) => /^[23]/.test(status));
        assert.ok(good, `${id} never succeeded: ${JSON.stringify(told[id])}`);
      }
    };
    const description = async () => (await fetch(`${edge.url}/api/openapi.json`)).json();
    const operations = async (wanted) => Object.values((await description()).paths).flatMap(Object.values).filter(wanted).map(({ operationId }) => operationId);

    test('is a valid OpenAPI document', async () => {
      const response = await fetch(`${edge.url}/api/openapi.json`);
      assert.equal(response.headers.get('content-type'), 'application/json');
      const file = join(folder, 'openapi.json');
      await writeFile(file, await response.text());
      const { code, output } = await whole(tool('openapi-spec-validator'), ['--validation-errors', 'all', file], { cwd: folder });
      assert.equal(code, 0, output);
      // What has not changed is not sent again.
      const tag = response.headers.get('etag');
      assert.equal((await fetch(response.url, { headers: { 'if-none-match': tag } })).status, 304);
    });

    test('holds for whoever has no key', async () => {
      const told = await schemathesis(false);
      const open = ({ security, operationId }) => operationId !== 'getDescription' && (security.length === 0 || security.some((one) => Object.keys(one).length === 0));
      reached(told, await operations(open));
    });

    test('holds for whoever manages every stream, and for a box', async () => {
      const told = await schemathesis(true);
      // schemathesis speaks no WebSocket, and leaves out the document itself. The Worker's bucket deletes by its own rules. No webhook
      // is configured, so no letter is dead.
      const never = ['linkBroadcast', 'getDescription', 'resendDeadLetter', ...unmanaged];
      reached(told, await operations(({ operationId }) => !never.includes(operationId)));
    });
  });
}

// Prints what each page costs a viewer: the files it loads at once, and what is loaded only on request.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';

const dist = join(import.meta.dirname, '..', 'dist');
const assets = new Map(readdirSync(join(dist, 'assets')).map((name) => [name, readFileSync(join(dist, 'assets', name))]));

/** @param {string[]} names */
function report(names) {
  const files = names.map((name) => assets.get(name)).filter((file) => file !== undefined);
  const sum = (/** @type {(file: Buffer) => number} */ size) => (files.reduce((total, file) => total + size(file), 0) / 1024).toFixed(1).padStart(7);
  return `${sum((f) => f.length)} KiB  ${sum((f) => gzipSync(f).length)} KiB gzip  ${sum((f) => brotliCompressSync(f).length)} KiB brotli`;
}

const seen = new Set();
for (const page of ['index', 'watch', 'embed', 'studio']) {
  const html = readFileSync(join(dist, `${page}.html`), 'utf8');
  const names = [...html.matchAll(/\/assets\/([^"]+\.(?:js|css))"/g)].flatMap(([, name]) => name ?? []);
  names.forEach((name) => seen.add(name));
  console.log(`${page.padEnd(8)} ${report(names)}`);
}
for (const name of assets.keys()) if (!seen.has(name) && /\.(js|css)$/.test(name)) console.log(`on request: ${name} ${report([name])}`);

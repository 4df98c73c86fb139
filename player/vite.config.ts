import { resolve } from 'node:path';
import { defineConfig, type Plugin } from 'vite';

// Every page is its own entry; what they share becomes shared chunks.
const pages = ['index', 'watch', 'embed', 'studio'];

/** The engine that nearly every viewer needs is fetched and compiled beside the page's own scripts, not behind them. */
const preloadEngine: Plugin = {
  name: 'ghost-live-preload-engine',
  transformIndexHtml: {
    order: 'post',
    handler(_html, { bundle, path }) {
      if (!bundle || !/watch|embed/.test(path)) return undefined;
      const engine = Object.values(bundle).find((file) => file.type === 'chunk' && file.name === 'hls');
      if (!engine) throw new Error('there is no chunk of hls.js to preload');
      return [{ tag: 'link', attrs: { rel: 'modulepreload', crossorigin: true, href: `/${engine.fileName}` }, injectTo: 'head' }];
    },
  },
};

export default defineConfig({
  base: '/',
  plugins: [preloadEngine],
  build: {
    target: ['chrome107', 'firefox104', 'safari16'],
    // The pages are served under a Content-Security-Policy without data: and inline anything.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 900,
    rolldownOptions: {
      input: Object.fromEntries(pages.map((page) => [page, resolve(import.meta.dirname, `${page}.html`)])),
    },
  },
  server: {
    // `npm run dev` against a running server: GHOST_LIVE=http://127.0.0.1:8080 npm run dev
    proxy: Object.fromEntries(
      ['/api', '/live', '/media', '/whep'].map((path) => [path, process.env.GHOST_LIVE ?? 'http://127.0.0.1:8080']),
    ),
  },
  test: { include: ['tests/unit/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0] & { test: unknown });

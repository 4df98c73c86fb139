import { resolve } from 'node:path';
import { defineConfig } from 'vite';

// The element as a library. hls.js, dash.js and media-chrome stay dependencies of whoever installs it.
export default defineConfig({
  publicDir: false,
  build: {
    outDir: 'dist-lib',
    target: 'es2022',
    lib: { entry: resolve(import.meta.dirname, 'src/index.ts'), formats: ['es'], fileName: 'ghost-live-player' },
    rolldownOptions: { external: [/^(hls\.js|dashjs|media-chrome)(\/|$)/] },
  },
});

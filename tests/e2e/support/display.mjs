// A screen for programs that insist on one: Xvfb on a free display number.
import { spawn } from 'node:child_process';

export async function startDisplay(size = '1280x800') {
  const child = spawn('Xvfb', ['-displayfd', '3', '-screen', '0', `${size}x24`, '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  const exited = new Promise((resolve) => child.on('exit', resolve));
  const number = await new Promise((resolve, reject) => {
    let text = '';
    child.on('error', (error) => reject(new Error(`Xvfb (tests/tools.sh installs it): ${error.message}`)));
    child.on('exit', (code) => reject(new Error(`Xvfb ended with ${code}`)));
    child.stdio[3].on('data', (chunk) => {
      text += chunk;
      if (text.endsWith('\n')) resolve(text.trim());
    });
  });
  return {
    name: `:${number}`,
    async stop() {
      child.kill();
      await exited;
    },
  };
}

// Debian's Firefox ESR over WebDriver BiDi, headless, with a fresh profile.
import puppeteer from 'puppeteer-core';

export function launchFirefox() {
  return puppeteer.launch({ browser: 'firefox', executablePath: '/usr/bin/firefox-esr', headless: true });
}

/** A page whose errors are kept in `complaints`. */
export async function openFirefox(browser, url) {
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 800 });
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(url);
  return { page, complaints };
}

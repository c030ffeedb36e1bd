// Loads a page in Chromium and prints as JSON what stands there and what the page itself has fetched.
//
//   node browse.mjs URL
//
// NODE_PATH does not reach ES modules: playwright-core lies beside this file.

import { chromium } from './playwright-core/index.mjs';

const DEADLINE_MS = 45_000;
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'];

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: FLAGS, timeout: DEADLINE_MS });
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const response = await page.goto(process.argv[2]);
  await page.waitForFunction(() => document.body.dataset.fetched !== undefined);
  const seen = await page.evaluate(() => ({ text: document.body.innerText, fetched: document.body.dataset.fetched }));
  console.log(JSON.stringify({ status: response.status(), ...seen }));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await browser.close();
}

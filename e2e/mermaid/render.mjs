// Renders a diagram in Chromium, with the mermaid package and the settings that GitHub renders with.
//
//   node render.mjs FILE OUT.png|OUT.svg [WIDTH] [--dark]
//
// WIDTH is that of the column which the picture stands in, in CSS pixels (850, as a README's): a wider picture is
// scaled down to it, as on GitHub. Prints the picture's own size and the scale that it is shown at. Exits 1 and says
// why when the diagram is not rendered. CHROMIUM names another browser than
// /usr/bin/chromium; MERMAID the mermaid.min.js of another version, to see what an older or newer renderer shows.

import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const DEADLINE_MS = 60_000;

const args = process.argv.slice(2).filter((arg) => !arg.startsWith('--'));
const dark = process.argv.includes('--dark');
const [file, out, width = '850'] = args;
if (file === undefined || out === undefined || !/^\d+$/.test(width)) {
  console.error('usage: node render.mjs FILE OUT.png|OUT.svg [WIDTH] [--dark]');
  process.exit(2);
}

/** Runs in the page: draws the text into the column, and returns the picture with its own size. */
async function draw({ text, theme }) {
  globalThis.mermaid.initialize({ startOnLoad: false, securityLevel: 'strict', theme });
  const { svg } = await globalThis.mermaid.render('diagram', text);
  const column = document.querySelector('main');
  column.innerHTML = svg;
  const picture = column.querySelector('svg');
  const { width: natural, height } = picture.viewBox.baseVal;
  return { svg: picture.outerHTML, natural, height, shown: picture.getBoundingClientRect().width };
}

async function render(browser, text) {
  const page = await browser.newPage({ viewport: { width: Number(width) + 40, height: 900 }, deviceScaleFactor: 2 });
  page.setDefaultTimeout(DEADLINE_MS);
  const background = dark ? '#0d1117' : '#ffffff';
  await page.setContent(
    `<!doctype html><body style="margin:20px;background:${background};font-family:sans-serif">` +
      `<main style="width:${width}px"></main></body>`,
  );
  const script = process.env.MERMAID ?? createRequire(import.meta.url).resolve('mermaid/dist/mermaid.min.js');
  await page.addScriptTag({ path: script });
  const picture = await page.evaluate(draw, { text, theme: dark ? 'dark' : 'default' });
  if (out.endsWith('.svg')) await writeFile(out, picture.svg);
  else await page.locator('main').screenshot({ path: out });
  return picture;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: FLAGS,
  timeout: DEADLINE_MS,
});
try {
  const { natural, height, shown } = await render(browser, await readFile(file, 'utf8'));
  console.log(
    `${out}: ${Math.round(natural)} x ${Math.round(height)}, shown at ${Math.round((100 * shown) / natural)} %`,
  );
} catch (error) {
  console.error(`${file}: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}

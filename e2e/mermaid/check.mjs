// Parses each file with the mermaid package's own parser.
//
//   node check.mjs FILE...
//
// A file is Mermaid text, or Markdown of which each ```mermaid block is parsed. Prints a line for each diagram; names
// the file and line of what does not parse on stderr, and exits 1. Also enforces the limits that GitHub's renderer has
// (50,000 characters, 500 edges), past which it shows an error instead of a picture.

import { readFile } from 'node:fs/promises';
import DOMPurify from 'dompurify';
import mermaid from 'mermaid';

const MAX_CHARACTERS = 50_000;
const MAX_EDGES = 500;

// Outside a browser DOMPurify has no document to work on. What it would remove from a label is of no interest to the
// parser; the picture is judged in a browser by render.mjs.
DOMPurify.addHook = () => {};
DOMPurify.sanitize = (text) => text;

/** Returns the diagrams of a file: `{ text, line }`, where line is the number of its first line. */
function diagrams(file, text) {
  if (!file.endsWith('.md')) return [{ text, line: 1 }];
  const found = [];
  let open = null;
  text.split('\n').forEach((row, index) => {
    if (open === null && /^\s*```mermaid\s*$/.test(row)) open = { rows: [], line: index + 2 };
    else if (open !== null && /^\s*```\s*$/.test(row)) {
      found.push({ text: `${open.rows.join('\n')}\n`, line: open.line });
      open = null;
    } else if (open !== null) open.rows.push(row);
  });
  return found;
}

/** Returns the line within the diagram that a parser's error speaks of. */
function lineOf(error, text) {
  const told = error?.hash?.loc?.first_line ?? Number(/line (\d+)/.exec(error?.message ?? '')?.[1] ?? 1);
  // The parser counts behind the front matter, which it has taken away.
  const front = /^---\n[\s\S]*?\n---\n/.exec(text)?.[0] ?? '';
  return told + front.split('\n').length - 1;
}

async function check(file) {
  const found = diagrams(file, await readFile(file, 'utf8'));
  if (found.length === 0) throw new Error(`${file}:1: no mermaid block`);
  for (const { text, line } of found) {
    if (text.length > MAX_CHARACTERS) {
      throw new Error(`${file}:${line}: ${text.length} characters, more than the ${MAX_CHARACTERS} that are rendered`);
    }
    let diagram;
    try {
      await mermaid.parse(text);
      diagram = await mermaid.mermaidAPI.getDiagramFromText(text);
    } catch (error) {
      throw new Error(`${file}:${line + lineOf(error, text) - 1}: ${error.message.replace(/^Parse error on line \d+:/, 'parse error:')}`);
    }
    const edges = diagram.db.getEdges?.().length ?? 0;
    const nodes = diagram.db.getVertices?.().size ?? 0;
    if (edges > MAX_EDGES) throw new Error(`${file}:${line}: ${edges} edges, more than the ${MAX_EDGES} that are rendered`);
    console.log(`${file}:${line}: ${diagram.type}, ${nodes} nodes, ${edges} edges, ${text.length} characters`);
  }
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error('usage: node check.mjs FILE...');
  process.exit(2);
}
let failed = false;
for (const file of files) {
  try {
    await check(file);
  } catch (error) {
    console.error(error.message);
    failed = true;
  }
}
process.exit(failed ? 1 : 0);

// What MemoryBoard's tables show, in sentences and in lines to follow with a pencil.

import { minus, plain, products, read, size, times, vector } from "./data.mjs";

/** The last write into a memory of `kind`, as one would do it on paper: lines of text. */
export function writeLines(kind, { kept, known, error }, { pair, key, value, beta, keep }) {
  const lines = keep === 1 ? [] : [`kept: ${plain(keep)} × S`];
  const strength = beta === 1 ? "" : `${plain(beta)} × `;
  if (kind === "delta") {
    lines.push(`k${pair + 1} got back ${products(kept, key)} = ${vector(known)}`);
    const missing = `${vector(value)} − ${vector(known)}`;
    const scaled = strength ? `${strength}(${missing})` : missing;
    lines.push(`error: ${scaled} = ${vector(error)}`);
  } else {
    const scaled = strength ? ` = ${vector(error)}` : "";
    lines.push(`nothing is asked; ${strength}${vector(value)}${scaled} is added`);
  }
  key.forEach((x, i) => {
    const added = `${plain(x)} × ${vector(error)} = ${vector(times(x, error))}`;
    if (x) lines.push(`to row ${i + 1} is added ${added}`);
  });
  return lines;
}

/** A pair asked for, in the same way. */
export function askLines(memory, { key, value }) {
  const found = read(memory, key);
  return [
    `${products(memory, key)} = ${vector(found)}`,
    `stored: ${vector(value)}, off by ${vector(minus(value, found))}`,
  ];
}

/** What a pair reads in one memory, and how far that is from its value. */
export function readWords(kind, memory, { key, value }) {
  const found = read(memory, key);
  return `${kind} reads ${vector(found)}, off by ${plain(size(minus(value, found)))}`;
}

/** The text line. results: [[kind, {memory}]], one for each memory. */
export function sentence({ pairs, writes, asked, results }) {
  const reads = (key) => {
    const each = results.map(([kind, { memory }]) => `${kind}, ${vector(read(memory, key))}`);
    return each.join("; ");
  };
  if (pairs[asked]) {
    const { key, value } = pairs[asked];
    return `Asked for k${asked + 1}, stored ${vector(value)}: ${reads(key)}.`;
  }
  if (!writes.length) return "Both memories are empty. Write a pair, then ask for it.";
  const { pair, key, value } = writes.at(-1);
  const name = `k${pair + 1}`;
  const count = writes.length === 1 ? "1 write" : `${writes.length} writes`;
  return `After ${count}, the last ${name} to ${vector(value)}. ${name} now reads: ${reads(key)}.`;
}

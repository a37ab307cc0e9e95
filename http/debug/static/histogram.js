// Histograms are lists of [low, high, count] in ns, lowest first, without the empty buckets.

/** What was counted between two of the same kind. */
export function difference(before, now) {
  const old = new Map(before.map(([low, , n]) => [low, n]));
  const out = [];
  for (const [low, high, n] of now) {
    const more = n - (old.get(low) ?? 0);
    if (more > 0) out.push([low, high, more]);
  }
  return out;
}

export function sum(lists) {
  if (lists.length === 1) return lists[0];
  const all = new Map();
  for (const list of lists)
    for (const [low, high, n] of list) {
      const bucket = all.get(low);
      if (bucket) bucket[2] += n;
      else all.set(low, [low, high, n]);
    }
  return [...all.values()].sort((a, b) => a[0] - b[0]);
}

export const total = (list) => list.reduce((n, bucket) => n + bucket[2], 0);

/** The duration that p percent do not exceed; null if there are none. */
export function percentile(list, p, count = total(list)) {
  if (count === 0) return null;
  const rank = Math.max(1, (count * p) / 100);
  let seen = 0;
  for (const [low, high, n] of list) {
    seen += n;
    if (seen >= rank) return (low + high) / 2;
  }
  return null;
}

// Rows of the heat map: half octaves, from 64 ns to 4 s.
export const ROWS = 52;
const FIRST = 6;

export const rowOf = (ns) =>
  Math.max(0, Math.min(ROWS - 1, Math.floor((Math.log2(Math.max(ns, 1)) - FIRST) * 2)));
export const lowOf = (row) => 2 ** (FIRST + row / 2);

export function rows(list) {
  const out = new Uint32Array(ROWS);
  for (const [low, high, n] of list) out[rowOf((low + high) / 2)] += n;
  return out;
}

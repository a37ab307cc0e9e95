// Numbers as people read them.

const DASH = "–";

/** 1234567 -> "1.23 M"; below 10,000 all digits. */
export function count(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return DASH;
  const size = Math.abs(x);
  if (size < 10) return String(Math.round(x * 10) / 10);
  if (size < 10_000) return Math.round(x).toLocaleString("en");
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return `${digits(x / unit)} ${letter}`;
  return DASH;
}

function digits(x) {
  return x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2);
}

/** Nanoseconds -> "12.3 µs". */
export function duration(ns) {
  if (ns === null || ns === undefined || Number.isNaN(ns)) return DASH;
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  for (const [unit, name] of [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]])
    if (ns >= unit) return `${digits(ns / unit)} ${name}`;
  return DASH;
}

/** Seconds -> "3 s", "5 min", "2 h 10 min", "4 d". */
export function age(s) {
  if (s === null || s === undefined) return DASH;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

export function bytes(x) {
  if (x === null || x === undefined) return DASH;
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (x >= unit) return `${digits(x / unit)} ${name}`;
  return `${Math.round(x)} B`;
}

export function percent(share) {
  if (share === null || share === undefined) return DASH;
  const p = share * 100;
  return `${p < 10 ? p.toFixed(1) : p.toFixed(0)} %`;
}

/** For the marks of an axis: "8.00 KiB" -> "8 KiB". */
export const short = (text) => text.replace(/\.0+(?= |$)/, "");

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function fileName(path) {
  return path.split("/").slice(-2).join("/");
}

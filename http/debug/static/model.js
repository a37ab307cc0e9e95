// From counters to what happened: rates and differences between two snapshots, for each worker and
// for all of them together, kept for a while.

import { difference, percentile, rows, sum, total } from "./histogram.js";

const KEPT = 600;          // frames of each scope
export const SPARE = 256;  // id of the P that helps out
const STALE = 5;           // seconds after which nobody knows what a worker does
const ENDED = -1;          // id of the entry with the sum of workers that have ended

/** While a worker is replaced there are two with its id. */
const keyOf = (worker) => `${worker.id}/${worker.snapshot.pid}`;

/** What worker `now` has done since `before`, an earlier snapshot of the same process. */
function between(id, before, now) {
  const seconds = now.time - before.time;
  const rate = (a, b) => Math.max(0, b - a) / seconds;
  const old = new Map(before.stats.ps.map((p) => [p.id, p]));
  const s = now.stats, t = before.stats;
  const ps = [];
  for (const p of s.ps) {
    const o = old.get(p.id);
    if (!o) continue;
    const free = (p.idle_ns - o.idle_ns + p.spinning_ns - o.spinning_ns) / 1e9 / seconds;
    ps.push({
      worker: id, id: p.id, busy: Math.min(1, Math.max(0, 1 - free)), runq: p.runq, timers: p.timers,
      descriptors: p.descriptors, sleeping: p.sleeping, switches: rate(o.switches, p.switches), ticks: rate(o.ticks, p.ticks),
      stolen: rate(o.stolen, p.stolen), preemptions: rate(o.preemptions, p.preemptions),
      polls: rate(o.polls, p.polls), wakeups: rate(o.wakeups, p.wakeups), fired: rate(o.timers_fired, p.timers_fired),
    });
  }
  const earlier = new Map(before.routes.map((r) => [`${r.method} ${r.route}`, r]));
  const classes = {}, routes = new Map(), durations = [];
  for (const r of now.routes) {
    const key = `${r.method} ${r.route}`, o = earlier.get(key);
    let requests = 0;
    for (const [status, n] of Object.entries(r.statuses)) {
      const more = rate(o?.statuses[status] ?? 0, n);
      requests += more;
      const kind = status === "0" ? "none" : `${status[0]}xx`;
      classes[kind] = (classes[kind] ?? 0) + more;
    }
    routes.set(key, requests);
    durations.push(difference(o?.duration.buckets ?? [], r.duration.buckets));
  }
  return {
    ps, procs: s.gomaxprocs, global: s.global_runq, states: s.states, goroutines: s.goroutines,
    created: rate(t.created, s.created), latency: difference(before.histograms.latency.buckets, now.histograms.latency.buckets),
    http: s.http, requests: rate(t.http.requests, s.http.requests), accepted: rate(t.http.accepted, s.http.accepted),
    read: rate(t.http.bytes_read ?? 0, s.http.bytes_read ?? 0), written: rate(t.http.bytes_written ?? 0, s.http.bytes_written ?? 0),
    classes, routes, durations: sum(durations.length ? durations : [[]]), blocking: s.blocking, ms: s.ms,
  };
}

const add = (a, b) => {
  const out = { ...a };
  for (const [key, value] of Object.entries(b)) out[key] = (out[key] ?? 0) + value;
  return out;
};

function together(parts) {
  return parts.reduce((a, b) => ({
    ps: [...a.ps, ...b.ps], procs: a.procs + b.procs, global: a.global + b.global, states: add(a.states, b.states),
    goroutines: a.goroutines + b.goroutines, created: a.created + b.created, latency: sum([a.latency, b.latency]),
    http: add(a.http, b.http), requests: a.requests + b.requests, accepted: a.accepted + b.accepted,
    read: a.read + b.read, written: a.written + b.written, classes: add(a.classes, b.classes),
    routes: new Map([...a.routes, ...[...b.routes].map(([k, n]) => [k, n + (a.routes.get(k) ?? 0)])]),
    durations: sum([a.durations, b.durations]), blocking: add(a.blocking, b.blocking), ms: add(a.ms, b.ms),
  }));
}

/** What charts show of one scope at one time. */
function frameOf(time, d) {
  const all = total(d.latency), handled = total(d.durations);
  const p = (list, n, q) => percentile(list, q, n);
  const working = d.ps.filter((x) => x.id !== SPARE);
  return {
    ...d, time, rows: rows(d.latency), samples: all,
    latency: [50, 90, 99, 99.9].map((q) => p(d.latency, all, q)),
    durations: [50, 90, 99].map((q) => p(d.durations, handled, q)),
    runq: d.global + d.ps.reduce((n, x) => n + x.runq, 0), deepest: Math.max(0, ...d.ps.map((x) => x.runq)),
    busy: working.reduce((n, x) => n + x.busy, 0), switches: d.ps.reduce((n, x) => n + x.switches, 0),
    started: d.created,
  };
}

export class Model {
  constructor() {
    this.workers = [];     // as they came last
    this.self = 0;
    this.last = new Map(); // key -> snapshot
    this.parts = new Map();// key -> what it did between the last two
    this.history = new Map();
  }

  /** The next snapshots have nothing to do with those before: a gap. */
  interrupt() {
    if (this.last.size === 0) return;
    this.last.clear();
    this.parts.clear();
    for (const frames of this.history.values())
      if (frames.length && !frames.at(-1).gap) frames.push({ time: frames.at(-1).time + 0.001, gap: true });
  }

  /** True if there is something new to show. */
  push(data) {
    this.workers = data.workers;
    this.self = data.self;
    const living = data.workers.filter((w) => w.id !== ENDED);
    const here = new Set(living.map(keyOf));
    for (const key of [...this.last.keys()]) if (!here.has(key)) this.forget(key);
    for (const worker of living) {
      const key = keyOf(worker), { age, snapshot } = worker;
      const before = this.last.get(key);
      const again = before && (before.started !== snapshot.started || before.time > snapshot.time);
      if (again) this.forget(key);    // another process, or the clock was set back
      else if (before && snapshot.time - before.time > 0.05) this.parts.set(key, between(worker.id, before, snapshot));
      else if (before) {              // the same one again: of another worker
        if (age > STALE) this.parts.delete(key);
        continue;
      }
      this.last.set(key, snapshot);
    }
    const time = data.workers[data.self]?.snapshot.time ?? Date.now() / 1000;
    const partsOf = (workers) => workers.map((w) => this.parts.get(keyOf(w))).filter(Boolean);
    const parts = partsOf(living);
    if (parts.length === 0) return false;
    this.keep("all", frameOf(time, together(parts)));
    if (living.length > 1)
      for (const id of new Set(living.map((w) => w.id))) {
        const own = partsOf(living.filter((w) => w.id === id));
        if (own.length) this.keep(String(id), frameOf(time, together(own)));
      }
    return true;
  }

  forget(key) {
    this.last.delete(key);
    this.parts.delete(key);
  }

  keep(scope, frame) {
    let frames = this.history.get(scope);
    if (!frames) this.history.set(scope, (frames = []));
    if (frames.length && frames.at(-1).time >= frame.time) frames.length = 0;   // the clock was set back
    frames.push(frame);
    if (frames.length > KEPT) frames.splice(0, frames.length - KEPT);
  }

  frames(scope) {
    return this.history.get(scope) ?? [];
  }

  /** Snapshots of a scope, those of workers that have ended included in "all". */
  snapshots(scope) {
    return this.workers.filter((w) => scope === "all" || String(w.id) === scope).map((w) => w.snapshot);
  }
}

// The views with figures: scheduler, HTTP, workers, and the tiles above them.

import { Chart } from "./charts.js";
import { Table, byId, element, setText } from "./dom.js";
import { age, bytes, count, duration, percent } from "./format.js";
import { HeatMap } from "./heatmap.js";
import { percentile, sum } from "./histogram.js";
import { SPARE } from "./model.js";

const COLORS = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"];
const MOST_LINES = 8;      // with more Ps they are not one line each
const BINARY = Array.from({ length: 40 }, (_, i) => 2 ** i);

const pName = (p, several) => `${several ? `w${p.worker} ` : ""}${p.id === SPARE ? "spare P" : `P${p.id}`}`;
const column = (frames, value) => frames.map((f) => (f.gap ? null : value(f)));
const severalWorkers = (frame) => new Set(frame.ps.map((p) => p.worker)).size > 1;


// --- tiles -------------------------------------------------------------------------------------

const TILES = [
  { name: "Goroutines", title: "Goroutines alive; how many start each second", value: (f) => count(f.goroutines), note: (f) => `${count(f.started)} started/s` },
  { name: "Utilisation", title: "Ps that were busy, of all there are", value: (f) => percent(f.busy / f.procs), note: (f) => `${f.busy.toFixed(2)} of ${f.procs} ${f.procs === 1 ? "P" : "Ps"}`,
    level: (f) => (f.busy / f.procs > 0.9 ? "warn" : "") },
  { name: "Run queue", title: "Goroutines that are ready and wait for their turn", value: (f) => count(f.runq), note: (f) => `${count(f.global)} in the global one` },
  { name: "Latency p99", title: "99 % of the goroutines ran so soon after they were ready", value: (f) => duration(f.latency[2]), note: (f) => `p50 ${duration(f.latency[0])}`,
    level: (f) => (f.latency[2] > 1e8 ? "bad" : f.latency[2] > 1e7 ? "warn" : "") },
  { name: "Switches/s", title: "Switches from one goroutine to another", value: (f) => count(f.switches), note: (f) => `${count(f.ps.reduce((n, p) => n + p.preemptions, 0))} preempted/s` },
  { name: "Requests/s", title: "HTTP requests served", value: (f) => count(f.requests), note: (f) => (f.classes["5xx"] ? `${count(f.classes["5xx"])}/s with 5xx` : "no 5xx"),
    level: (f) => (f.classes["5xx"] ? "bad" : "") },
  { name: "Handler p99", title: "99 % of the requests took no longer", value: (f) => duration(f.durations[2]), note: (f) => `p50 ${duration(f.durations[0])}` },
  { name: "Connections", title: "HTTP connections that are open", value: (f) => count(f.http.connections), note: (f) => `${count(f.http.active ?? 0)} active` },
];

export class Tiles {
  constructor(list) {
    this.parts = TILES.map((tile) => {
      const value = element("dd", { class: "value" }, "–"), note = element("dd", { class: "note" });
      const box = element("div", { class: "tile", title: tile.title }, element("dt", {}, tile.name), value, note);
      list.append(box);
      return { tile, value, note, box };
    });
  }

  draw(frame) {
    for (const { tile, value, note, box } of this.parts) {
      setText(value, tile.value(frame));
      setText(note, tile.note(frame));
      box.dataset.level = tile.level?.(frame) ?? "";
    }
  }
}

// --- scheduler ---------------------------------------------------------------------------------

const rateColumn = (label, title, key) => ({ label, title, kind: "", cell: (p) => count(p[key]) });

export class SchedulerView {
  constructor() {
    const y = (label, colour, more) => ({ label, color: colour, ...more });
    this.utilisation = new Chart(byId("utilisation"), [], { format: percent, share: true });
    this.runq = new Chart(byId("runq"), [], { format: count });
    this.heatmap = new HeatMap(byId("heatmap"));
    this.percentiles = new Chart(byId("percentiles"), [y("p50", "s1"), y("p90", "s4"), y("p99", "s2"), y("p99.9", "s5")], { format: duration, log: true });
    this.states = new Chart(byId("states"), [y("waiting", "s8", { fill: true }), y("runnable", "s2", { scale: "y2" }), y("running", "s4", { scale: "y2" })], { format: count });
    this.work = new Chart(byId("work"), [y("switches", "s6", { fill: true }), y("started", "s2")], { format: count });
    this.table = new Table(byId("ps"), [
      { label: "P", title: "256, the spare one, helps out while the thread of another is stuck", kind: "text", cell: (p) => pName(p, this.several) },
      { label: "Busy", title: "Share of time it ran goroutines", kind: "text", cell: (p) => this.meter(p) },
      { label: "Now", title: "Is its thread asleep at this moment?", kind: "text", cell: (p) => (p.sleeping ? "asleep" : "awake") },
      { label: "Queue", title: "Runnable goroutines in its queues", kind: "", cell: (p) => count(p.runq) },
      rateColumn("Picked", "Goroutines picked to run", "ticks"), rateColumn("Switches", "Switches between stacks", "switches"),
      rateColumn("Stolen", "Goroutines taken from other Ps", "stolen"), rateColumn("Preempted", "Goroutines that ran too long and had to let others run", "preemptions"),
      rateColumn("Polls", "Looks at the poller for sockets that are ready", "polls"), rateColumn("Woken", "Times another thread woke it", "wakeups"),
      rateColumn("Timers fired", "Timers whose time came", "fired"),
      { label: "Timers", title: "Timers that are pending", kind: "", cell: (p) => count(p.timers) },
      { label: "Sockets", title: "Descriptors registered with its poller", kind: "", cell: (p) => count(p.descriptors) },
    ], "No P yet.");
  }

  meter(p) {
    const text = percent(p.busy);
    return {
      same: text,
      node: () => {
        const bar = element("i");
        bar.style.width = `${p.busy * 100}%`;
        return element("span", {}, element("span", { class: "meter", "aria-hidden": "true" }, bar), text);
      },
    };
  }

  draw(frames) {
    const last = frames.at(-1), times = frames.map((f) => f.time);
    this.several = severalWorkers(last);
    const lines = this.lines(frames, last);
    this.drawUtilisation(frames, times, lines);
    this.drawQueues(frames, times, lines);
    this.heatmap.draw(frames);
    this.percentiles.draw([times, ...[0, 1, 2, 3].map((i) => column(frames, (f) => f.latency[i]))]);
    this.states.draw([times, column(frames, (f) => f.states.waiting), column(frames, (f) => f.states.runnable), column(frames, (f) => f.states.running)]);
    this.work.draw([times, column(frames, (f) => f.switches), column(frames, (f) => f.started)]);
    this.table.update(last.ps, (p) => `${p.worker}/${p.id}`);
  }

  /** A line for each P, the spare one only if it was needed; null: they would be too many. */
  lines(frames, last) {
    const needed = (p) => p.busy > 0.001;
    const ps = last.ps.filter((p) => p.id !== SPARE || needed(p) || frames.some((f) => f.ps?.some((q) => q.id === SPARE && needed(q))));
    if (ps.length > MOST_LINES) return null;
    const key = (p) => `${p.worker}/${p.id}`;
    const found = frames.map((f) => new Map((f.ps ?? []).map((p) => [key(p), p])));
    return {
      series: ps.map((p, i) => ({ label: pName(p, this.several), color: COLORS[i] })),
      values: (name) => ps.map((p) => found.map((m) => m.get(key(p))?.[name] ?? null)),
    };
  }

  /** Each P, or their mean, most and least. */
  drawUtilisation(frames, times, lines) {
    if (lines) {
      this.utilisation.setSeries(lines.series.map((s) => ({ ...s, fill: lines.series.length === 1 })));
      this.utilisation.draw([times, ...lines.values("busy")]);
      return;
    }
    const each = (pick) => column(frames, (f) => pick(f.ps.filter((p) => p.id !== SPARE).map((p) => p.busy)));
    this.utilisation.setSeries([{ label: "mean", color: "s1", fill: true }, { label: "busiest P", color: "s2" }, { label: "idlest P", color: "s8" }]);
    this.utilisation.draw([times, each((x) => x.reduce((a, b) => a + b, 0) / x.length), each((x) => Math.max(...x)), each((x) => Math.min(...x))]);
  }

  /** All together, the queue that belongs to no P, and that of each P, or the longest of them. */
  drawQueues(frames, times, lines) {
    const ofPs = lines ?? { series: [{ label: "longest of a P", color: "s2" }], values: () => [column(frames, (f) => f.deepest)] };
    this.runq.setSeries([{ label: "all", color: "text", fill: true }, { label: "global", color: "dim", dash: [4, 4] }, ...ofPs.series]);
    this.runq.draw([times, column(frames, (f) => f.runq), column(frames, (f) => f.global), ...ofPs.values("runq")]);
  }
}

// --- HTTP --------------------------------------------------------------------------------------

const CLASSES = [["2xx", "s4"], ["3xx", "s6"], ["4xx", "s7"], ["5xx", "s5"], ["none", "s8"]];
const CONNECTIONS = [["idle", "s8", "Kept alive between two requests"], ["reading", "s6", "Waiting for a request, or the rest of one"],
  ["active", "s4", "A handler runs"], ["closing", "s2", "About to be closed"], ["waiting", "s5", "Requests that wait for their turn"]];

export class HTTPView {
  constructor() {
    this.requests = new Chart(byId("requests"), [{ label: "all", color: "s1", fill: true },
      ...CLASSES.map(([label, color]) => ({ label, color, title: label === "none" ? "No response was sent" : null }))], { format: count });
    this.connections = new Chart(byId("connections"), CONNECTIONS.map(([label, color, title]) => ({ label, color, title })), { format: count });
    this.latency = new Chart(byId("http-latency"), [{ label: "p50", color: "s1" }, { label: "p90", color: "s4" }, { label: "p99", color: "s2" }],
      { format: duration, log: true });
    this.bytes = new Chart(byId("bytes"), [{ label: "read", color: "s6" }, { label: "written", color: "s1", fill: true }], { format: bytes, least: 1024, steps: BINARY });
    this.table = new Table(byId("routes"), [
      { label: "Method", kind: "text", cell: (r) => r.method },
      { label: "Route", title: "Pattern that matched", kind: "text name", cell: (r) => r.route || "(none)" },
      { label: "Requests/s", kind: "", cell: (r) => count(r.rate) },
      { label: "Requests", title: "Since the start", kind: "", cell: (r) => count(r.requests) },
      { label: "4xx", kind: "", cell: (r) => count(r.client) }, { label: "5xx", kind: "", cell: (r) => count(r.server) },
      { label: "Mean", kind: "", cell: (r) => duration(r.mean) }, { label: "p50", kind: "", cell: (r) => duration(r.p50) },
      { label: "p90", kind: "", cell: (r) => duration(r.p90) }, { label: "p99", kind: "", cell: (r) => duration(r.p99) },
      { label: "p99.9", kind: "", cell: (r) => duration(r.p999) },
    ], "No request has been served yet, or none by a route.");
  }

  draw(frames, snapshots) {
    const times = frames.map((f) => f.time);
    this.requests.draw([times, column(frames, (f) => f.requests), ...CLASSES.map(([name]) => column(frames, (f) => f.classes[name] ?? 0))]);
    this.connections.draw([times, ...CONNECTIONS.map(([name]) => column(frames, (f) => f.http[name] ?? 0))]);
    this.latency.draw([times, ...[0, 1, 2].map((i) => column(frames, (f) => f.durations[i]))]);
    this.bytes.draw([times, column(frames, (f) => f.read), column(frames, (f) => f.written)]);
    this.table.update(routesOf(snapshots, frames.at(-1).routes), (r) => `${r.method} ${r.route}`,
      (tr, r) => tr.children[5].classList.toggle("bad", r.server > 0));
  }
}

/** The routes of several snapshots together, the busiest first. */
function routesOf(snapshots, rates) {
  const all = new Map();
  for (const { routes } of snapshots)
    for (const r of routes) {
      const key = `${r.method} ${r.route}`;
      let one = all.get(key);
      if (!one) all.set(key, (one = { method: r.method, route: r.route, requests: 0, client: 0, server: 0, ns: 0, lists: [] }));
      for (const [status, n] of Object.entries(r.statuses)) {
        one.requests += n;
        if (status[0] === "4") one.client += n;
        if (status[0] === "5") one.server += n;
      }
      one.ns += r.duration.sum_ns;
      one.lists.push(r.duration.buckets);
    }
  return [...all.entries()].map(([key, r]) => {
    const list = sum(r.lists), p = (q) => percentile(list, q);
    return { ...r, rate: rates.get(key) ?? 0, mean: r.requests ? r.ns / r.requests : null, p50: p(50), p90: p(90), p99: p(99), p999: p(99.9) };
  }).sort((a, b) => b.requests - a.requests);
}

// --- workers -----------------------------------------------------------------------------------

export class WorkersView {
  /** choose(id): show that worker alone. */
  constructor(choose) {
    const figure = (label, title, value) => ({ label, title, kind: "", cell: (row) => (row.frame ? value(row.frame) : "–") });
    this.table = new Table(byId("workers"), [
      { label: "Worker", kind: "text", cell: (row) => ({
        same: `${row.name} ${row.alone}`,
        node: () => (row.ended || row.alone ? element("span", {}, row.name)
          : element("button", { type: "button", class: "link", onclick: () => choose(String(row.id)) }, row.name)),
      }) },
      { label: "Process", title: "Process id", kind: "", cell: (row) => (row.ended ? "–" : String(row.pid)) },
      { label: "Up", title: "Since when it runs", kind: "", cell: (row) => (row.ended ? "–" : age(row.snapshot.time - row.snapshot.started)) },
      { label: "Restarts", title: "How often another process has taken its place", kind: "", cell: (row) => count(row.restarts) },
      figure("Utilisation", "Ps that were busy", (f) => percent(f.busy / f.procs)),
      { label: "Goroutines", kind: "", cell: (row) => (row.ended ? "–" : count(row.snapshot.stats.goroutines)) },
      figure("Run queue", "Goroutines ready to run", (f) => count(f.runq)),
      figure("Latency p99", "Of scheduling", (f) => duration(f.latency[2])),
      { label: "Connections", kind: "", cell: (row) => (row.ended ? "–" : count(row.snapshot.stats.http.connections)) },
      figure("Requests/s", "HTTP requests served", (f) => count(f.requests)),
      { label: "Requests", title: "Since the start", kind: "", cell: (row) => count(row.snapshot.stats.http.requests) },
      { label: "Seen", title: "How old these figures are", kind: "", cell: (row) => (row.ended ? "–" : age(row.age)) },
    ], "No worker.");
  }

  draw(model) {
    const alone = model.workers.length === 1;
    this.table.update(model.workers.map((w, i) => ({
      ...w, alone, ended: w.id < 0, name: w.id < 0 ? "ended ones" : `worker ${w.id}${i === model.self ? " (answers)" : ""}`,
      frame: model.frames(alone ? "all" : String(w.id)).at(-1),
    })).map((row) => ({ ...row, frame: row.frame?.gap ? null : row.frame })), (row) => `${row.id}/${row.pid}`);
  }
}

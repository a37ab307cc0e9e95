// Latency over time: a column for each snapshot, a row for each half octave, darker where more
// goroutines have waited so long. Lines for p50 and p99 lie over it.

import { GUTTER, HEIGHT, RIGHT, watchSize } from "./charts.js";
import { element, setText } from "./dom.js";
import { clock, count, duration, short } from "./format.js";
import { ROWS, lowOf, rowOf } from "./histogram.js";
import { color, onTheme } from "./theme.js";

const STEPS = 64;
const FOOT = 28;           // px for the times
const TOP = 8;

function ramp() {
  const stops = ["heat0", "heat1", "heat2", "heat3"].map((name) => color(name).match(/[\d.]+/g).slice(0, 3).map(Number));
  return Array.from({ length: STEPS + 1 }, (_, i) => {
    const x = (i / STEPS) * (stops.length - 1), at = Math.min(stops.length - 2, Math.floor(x)), part = x - at;
    return `rgb(${stops[at].map((c, k) => Math.round(c + (stops[at + 1][k] - c) * part)).join(",")})`;
  });
}

export class HeatMap {
  constructor(panel) {
    this.canvas = element("canvas", { class: "heat", role: "img", "aria-label": "Scheduling latency: nothing yet" });
    this.legend = element("ul", { class: "legend" });
    this.note = element("li", {}, "");
    const line = (name, label) => {
      const swatch = element("i", { "aria-hidden": "true" });
      swatch.style.background = `var(--${name})`;
      return element("li", {}, swatch, label);
    };
    this.legend.append(line("s2", "p99"), line("s5", "p50"), this.note);
    panel.append(this.canvas, this.legend);
    this.frames = [];
    this.at = null;
    this.canvas.addEventListener("pointermove", (event) => {
      this.at = { x: event.offsetX, y: event.offsetY };
      this.tell();
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.at = null;
      this.tell();
    });
    watchSize(this.canvas, this);
    onTheme(() => {
      this.colors = null;
      this.resize();
    });
  }

  resize() {
    this.draw(this.frames);
  }

  /** Where things are: pixels by time and by row. */
  layout() {
    const width = this.canvas.clientWidth;
    const first = this.frames[0]?.time ?? 0, last = this.frames.at(-1)?.time ?? 1;
    const span = Math.max(last - first, 1e-3), plot = width - GUTTER - RIGHT;
    let low = ROWS, high = 0;
    for (const frame of this.frames)
      frame.rows?.forEach((n, row) => {
        if (n) low = Math.min(low, row), high = Math.max(high, row);
      });
    if (low > high) low = rowOf(1e3), high = rowOf(1e6);
    low = Math.max(0, low - 1);
    high = Math.min(ROWS, Math.max(high + 2, low + 10));
    const tall = (HEIGHT - FOOT - TOP) / (high - low);
    return {
      width, plot, low, high, tall,
      x: (time) => GUTTER + ((time - first) / span) * plot,
      y: (row) => HEIGHT - FOOT - (row - low) * tall,
      time: (x) => first + ((x - GUTTER) / plot) * span,
    };
  }

  draw(frames) {
    this.frames = frames;
    const { canvas } = this, width = canvas.clientWidth;
    if (width === 0) return;
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(HEIGHT * scale);
    const g = canvas.getContext("2d"), l = this.layout();
    g.scale(scale, scale);
    this.colors ??= ramp();
    this.axes(g, l);
    const most = Math.log1p(frames.reduce((n, f) => Math.max(n, f.rows ? Math.max(...f.rows) : 0), 1));
    frames.forEach((frame, i) => {
      if (!frame.rows || i === 0 || frames[i - 1].gap) return;
      const left = l.x(frames[i - 1].time), wide = Math.max(1, l.x(frame.time) - left);
      frame.rows.forEach((n, row) => {
        if (n === 0) return;
        g.fillStyle = this.colors[Math.max(6, Math.round((Math.log1p(n) / most) * STEPS))];
        g.fillRect(left, l.y(row + 1), wide + 0.6, l.tall + 0.6);
      });
    });
    this.line(g, l, 2, color("s2"));
    this.line(g, l, 0, color("s5"));
    this.tell();
  }

  axes(g, l) {
    g.font = "11px system-ui, sans-serif";
    g.fillStyle = color("dim");
    g.strokeStyle = color("line");
    g.lineWidth = 1;
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (let ns = 1e2; ns <= 1e9; ns *= 10) {
      const y = Math.round(l.y((Math.log2(ns) - Math.log2(lowOf(0))) * 2)) + 0.5;
      if (y < TOP || y > HEIGHT - FOOT + 1) continue;
      g.beginPath();
      g.moveTo(GUTTER, y);
      g.lineTo(l.width - RIGHT, y);
      g.stroke();
      g.fillText(short(duration(ns)), GUTTER - 6, y);
    }
    if (this.frames.length < 2) return;
    g.textBaseline = "top";
    for (const [part, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
      g.textAlign = align;
      const x = GUTTER + part * l.plot;
      g.fillText(clock(l.time(x)), x, HEIGHT - FOOT + 9);
    }
  }

  line(g, l, which, stroke) {
    g.save();
    g.beginPath();
    g.rect(GUTTER, 0, l.plot, HEIGHT - FOOT);
    g.clip();
    g.strokeStyle = stroke;
    g.lineWidth = 1.5;
    g.beginPath();
    let drawing = false;
    for (const frame of this.frames) {
      const ns = frame.gap ? null : frame.latency[which];
      if (ns === null) {
        drawing = drawing && !frame.gap;
        continue;
      }
      const y = Math.min(HEIGHT - FOOT - 1, l.y((Math.log2(ns) - Math.log2(lowOf(0))) * 2));     // shorter than any row
      if (drawing) g.lineTo(l.x(frame.time), y);
      else g.moveTo(l.x(frame.time), y);
      drawing = true;
    }
    g.stroke();
    g.restore();
  }

  /** What is under the pointer, or of the last snapshot. */
  tell() {
    const last = this.frames.at(-1);
    let text = last && !last.gap ? `${count(last.samples)} timed` : "";
    if (this.at && this.frames.length > 1) {
      const l = this.layout(), time = l.time(this.at.x);
      const frame = this.frames.find((f) => f.time >= time);
      const row = Math.floor((HEIGHT - FOOT - this.at.y) / l.tall) + l.low;
      if (frame?.rows && row >= 0 && row < ROWS)
        text = `${clock(frame.time)}: ${count(frame.rows[row])} took ${duration(lowOf(row))} to ${duration(lowOf(row + 1))}`;
    }
    setText(this.note, text);
    if (last && !last.gap)
      this.canvas.setAttribute("aria-label",
        `Scheduling latency: p50 ${duration(last.latency[0])}, p99 ${duration(last.latency[2])}, ${last.samples} timed`);
  }
}

// Line charts over time: uPlot, with a legend that shows the values under the cursor, or the last.

import { element, setText } from "./dom.js";
import { clock, short } from "./format.js";
import { color, onTheme } from "./theme.js";

/* global uPlot */

export const GUTTER = 58;  // px left of the plot, the same everywhere
export const RIGHT = 24;   // px right of it, for half of the last time
export const HEIGHT = 190;
const sync = uPlot.sync("time");
const WHOLE = Array.from({ length: 12 }, (_, i) => [1, 2, 5].map((n) => n * 10 ** i)).flat();
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const SHARES = [0.05, 0.1, 0.25, 0.5, 1];

const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) target.chart?.resize();
});

/** Draw again when the width of the panel changes. */
export function watchSize(host, chart) {
  host.chart = chart;
  resized.observe(host);
}

export class Chart {
  /**
   * series: [{label, color: "s1", scale: "y" | "y2", fill, dash, title}].
   * options: {format, log, least, share, steps}: least is how far the axis goes at least; share: from 0 to
   * 1 and no further; steps that its marks may be apart.
   */
  constructor(panel, series, options) {
    this.panel = panel;
    this.options = options;
    this.host = element("div", { class: "chart" });
    this.legend = element("ul", { class: "legend" });
    panel.append(this.host, this.legend);
    this.series = null;
    this.data = [[]];
    this.setSeries(series);
    watchSize(this.host, this);
    onTheme(() => this.plot?.redraw(false, true));
  }

  /** Other lines than before; the plot is made anew. */
  setSeries(series) {
    const same = JSON.stringify(series);
    if (same === this.same) return;
    this.same = same;
    this.series = series;
    this.plot?.destroy();
    this.plot = null;
    this.values = series.map(() => element("b", {}, ""));
    this.swatches = series.map((s) => {
      const swatch = element("i", { "aria-hidden": "true" });
      swatch.style.background = `var(--${s.color})`;
      return swatch;
    });
    this.legend.replaceChildren(...series.map((s, i) =>
      element("li", { title: s.title }, this.swatches[i], s.label, this.values[i])));
  }

  make(width) {
    const { options } = this;
    const axis = (scale, side, format) => ({
      scale, side, size: side === 3 ? GUTTER : 46, stroke: () => color("dim"), font: "11px system-ui, sans-serif",
      grid: { show: side === 3, stroke: () => color("line"), width: 1, ...decades(scale) }, ticks: { show: false }, gap: 4, space: 30,
      values: (_, ticks) => ticks.map((t) => (t === null ? "" : short(format(t)))), ...decades(scale),
      ...(options.log || options.share ? {} : { incrs: options.steps ?? WHOLE }),
    });
    const decades = (scale) => (options.log && scale === "y" ? { filter: (_, marks) => marks.map((m) => (isDecade(m) ? m : null)) } : {});
    const least = options.least ?? 4;
    const linear = (_, low, high) => [0, Math.max(high ?? 0, least) * 1.05];
    const scale = () => (options.log ? { distr: 3, range: (_, low, high) => logRange(low, high) }
      : { range: options.share ? (_, low, high) => [0, SHARES.find((s) => s >= (high ?? 0)) ?? 1] : linear });
    const two = this.series.some((s) => s.scale === "y2");
    const axes = [
      { stroke: () => color("dim"), font: "11px system-ui, sans-serif", grid: { show: false }, ticks: { show: false },
        size: 28, gap: 8, space: 80, incrs: SECONDS, values: (_, ticks) => ticks.map(clock) },
      axis("y", 3, options.format),
    ];
    if (two) axes.push(axis("y2", 1, options.format));
    return new uPlot({
      width, height: HEIGHT, padding: [8, two ? 0 : RIGHT, 0, 0], legend: { show: false },
      cursor: { sync: { key: "time" }, points: { size: 6 }, drag: { x: false, y: false }, y: false },
      scales: { x: { time: true, range: (plot) => span(plot.data[0]) }, y: scale(), ...(two ? { y2: { range: linear } } : {}) },
      axes,
      series: [{}, ...this.series.map((s) => ({
        label: s.label, scale: s.scale ?? "y", width: 1.5, dash: s.dash, stroke: () => color(s.color),
        points: { show: false, size: 4, fill: () => color(s.color), filter: (plot, at) => lonely(plot.data[at]) },
        fill: s.fill ? () => color(s.color).replace("rgb(", "rgba(").replace(")", ", 0.12)") : undefined, spanGaps: false,
      }))],
      hooks: { setCursor: [() => this.showValues()] },
    }, this.data, this.host);
  }

  resize() {
    const width = this.host.clientWidth;
    if (width === 0) return;
    if (this.plot) this.plot.setSize({ width, height: HEIGHT });
    else this.draw(this.data);
  }

  /** data: [times, values of the first series, ...]; null is a gap. */
  draw(data) {
    this.data = data;
    const width = this.host.clientWidth;
    if (width === 0) return;           // in a view that is not shown
    if (this.plot) this.plot.setData(data);
    else {
      this.plot = this.make(width);
      sync.sub(this.plot);
    }
    this.showValues();
  }

  showValues() {
    const at = this.plot?.cursor.idx ?? this.data[0].length - 1;
    this.series.forEach((s, i) => {
      const value = this.data[i + 1]?.[at];
      setText(this.values[i], this.options.format(value ?? null));
    });
    const shown = this.series.map((s, i) => `${s.label} ${this.values[i].textContent}`).join(", ");
    this.host.setAttribute("role", "img");
    this.host.setAttribute("aria-label", `${this.panel.querySelector("h2").textContent}: ${shown}`);
  }
}

/** From the first to the last time; a single one, which the library would give a day, is in the middle. */
function span(times) {
  const first = times[0] ?? Date.now() / 1000, last = times.at(-1) ?? first;
  return last > first ? [first, last] : [first - 1, first + 1];
}

/** Where there is a value, but none beside it: no line shows it. */
function lonely(values) {
  const found = [];
  for (let i = 0; i < values.length; i++)
    if (values[i] !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null) found.push(i);
  return found;
}

export const isDecade = (x) => Math.abs(Math.log10(x) - Math.round(Math.log10(x))) < 1e-6;

function logRange(low, high) {
  if (!(low > 0) || !(high > 0)) return [1e3, 1e7];
  return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
}

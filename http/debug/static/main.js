// Puts the page together: what comes from the feed goes through the model to the view that is shown.

import { byId, element, setText } from "./dom.js";
import { Feed } from "./feed.js";
import { age } from "./format.js";
import { goroutinesView, waitsView } from "./goroutines.js";
import { Model } from "./model.js";
import { setUpTabs } from "./tabs.js";
import { setUpTheme } from "./theme.js";
import { HTTPView, SchedulerView, Tiles, WorkersView } from "./views.js";

setUpTheme(byId("theme"));

const model = new Model();
const worker = byId("worker"), interval = byId("interval"), pause = byId("pause");
const tiles = new Tiles(byId("tiles"));
const chooseWorker = (id) => {
  worker.value = id;
  changeWorker();
};
const figures = { scheduler: new SchedulerView(), http: new HTTPView(), workers: new WorkersView(chooseWorker) };
const tables = { goroutines: goroutinesView(), waits: waitsView() };
let view = "scheduler";

function draw() {
  if (document.hidden) return;
  const frames = model.frames(worker.value), last = frames.at(-1);
  if (last && !last.gap) {
    tiles.draw(last);
    if (view === "scheduler") figures.scheduler.draw(frames);
    if (view === "http") figures.http.draw(frames, model.snapshots(worker.value));
  }
  if (view === "workers" && model.workers.length) figures.workers.draw(model);
}

/** The tables are of one process: that of the chosen worker, or of the first one. */
function follow() {
  const living = model.workers.filter((w) => w.id >= 0)
    .sort((a, b) => a.id - b.id || b.snapshot.started - a.snapshot.started);      // of two with one id the new one
  const chosen = living.find((w) => String(w.id) === worker.value) ?? living[0];
  if (!chosen) return;
  const name = worker.disabled ? "" : ` (worker ${chosen.id}${worker.value === "all" ? "; choose another one above" : ""})`;
  for (const table of Object.values(tables)) table.setProcess({ pid: chosen.pid, name });
}

function changeWorker() {
  follow();
  draw();
}

/** The workers to choose from, and what is known of the process. */
function describe() {
  const ids = ["all", ...new Set(model.workers.filter((w) => w.id >= 0).map((w) => String(w.id)))];
  if (ids.join() !== [...worker.options].map((o) => o.value).join()) {
    const chosen = worker.value;
    worker.replaceChildren(...ids.map((id) => element("option", { value: id }, id === "all" ? "all" : `worker ${id}`)));
    worker.value = ids.includes(chosen) && ids.length > 2 ? chosen : "all";
  }
  worker.disabled = ids.length <= 2;
  const s = model.workers[model.self]?.snapshot;
  if (s) setText(byId("process"), `${s.version} · Python ${s.python}${s.gil ? "" : " without the GIL"} · process ${s.pid} · up ${age(s.time - s.started)}`);
}

const feed = new Feed({
  snapshot(data) {
    model.push(data);
    describe();
    changeWorker();
  },
  state(state, text) {
    if (state !== "live") model.interrupt();
    byId("status").dataset.state = document.body.dataset.state = state;
    setText(byId("status-text"), text);
  },
});

interval.addEventListener("change", () => feed.start(Number(interval.value)));
worker.addEventListener("change", changeWorker);
pause.addEventListener("click", () => {
  const paused = !feed.paused;
  pause.textContent = paused ? "Resume" : "Pause";
  pause.setAttribute("aria-pressed", String(paused));
  feed.setPaused(paused);
  for (const table of Object.values(tables)) table.setPaused(paused);
});
document.addEventListener("visibilitychange", draw);
addEventListener("pagehide", () => feed.stop());
addEventListener("pageshow", (event) => {
  if (event.persisted) feed.start(Number(interval.value));       // back from the browser's cache
});

setUpTabs(document.querySelector("[role=tablist]"), (name) => {
  view = name;
  for (const [other, table] of Object.entries(tables)) table.setShown(other === name);
  draw();
});
feed.start(Number(interval.value));

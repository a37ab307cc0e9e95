// Tables of goroutines, and of what they wait for, with one goroutine beside them. They are fetched
// while they are shown; the server makes them at most a few times a second, whoever asks. They are
// of one process, and ids of goroutines mean something in that process only.

import { Table, byId, element, setText } from "./dom.js";
import { age, count, fileName } from "./format.js";

const PAGE = 50;
const EVERY = 2000;        // ms

async function get(path) {
  const response = await fetch(path, { cache: "no-store" });
  if (response.ok) return response.json();
  const told = await response.json().catch(() => null);
  throw new Error(told?.error ?? `HTTP ${response.status}`);
}

const place = (at) => `${fileName(at.file)}${at.line ? `:${at.line}` : ""}`;
const label = (who) => (who.name === `goroutine-${who.id}` ? `#${who.id}` : `#${who.id} ${who.name}`);

function chip(who, show) {
  return element("button", { type: "button", class: "chip", title: `Show goroutine ${who.id} and its stack`, onclick: () => show(who.id) }, label(who));
}

/** One goroutine: what it does and its stack. */
class Detail {
  constructor(host, hint) {
    this.host = host;
    host.append(element("p", { class: "dim" }, hint));
  }

  async show(id, pid) {
    const asked = (this.asked = {});
    let g;
    try {
      g = await get(`api/stack?id=${id}&pid=${pid}`);
    } catch (error) {
      if (asked === this.asked)
        this.host.replaceChildren(element("p", { class: "dim" }, `Goroutine ${id} of process ${pid}: ${error.message}`));
      return;
    }
    if (asked !== this.asked) return;              // another one was chosen meanwhile
    const facts = element("dl");
    const fact = (name, ...value) => facts.append(element("dt", {}, name), element("dd", {}, ...value));
    fact("Process", String(g.pid));
    fact("State", element("span", { class: `state ${g.state}` }, g.state));
    if (g.wait_reason) fact("Waits for", `${g.wait_reason}, ${age(g.wait_duration)}`);
    for (const on of g.waits_on) fact("Waits on", on.what);
    if (g.holders.length)
      fact("Held by", element("span", { class: "chips" }, ...g.holders.map((who) => chip(who, (x) => this.show(x, pid)))));
    if (g.spawned_at) fact("Started by", `${g.spawned_at.function}, `, element("span", { title: `${g.spawned_at.file}:${g.spawned_at.line}` }, place(g.spawned_at)));
    if (g.p !== null) fact("P", String(g.p));
    if (g.locked) fact("Thread", "locked to it");
    const frames = g.stack.map((f) => element("li", { title: `${f.file}:${f.line}` }, f.function, element("span", {}, place(f))));
    if (g.more_frames) frames.push(element("li", {}, `… ${g.more_frames} more`));
    this.host.replaceChildren(
      element("h3", {}, `Goroutine ${label(g)}`), facts,
      element("ol", { class: "stack", "aria-label": "Stack, innermost call first" }, ...frames));
    this.host.scrollTop = 0;
    this.host.scrollIntoView({ block: "nearest" });      // on a phone it is below the table
  }
}

/** A table that is fetched a page at a time, with a filter. */
class Pages {
  constructor(name, path, columns, keyOf, what) {
    this.path = path;
    this.what = what;
    this.keyOf = keyOf;
    this.table = new Table(byId(`${name}-rows`), columns, "Nothing of that kind.");
    this.count = byId(`${name}-count`);
    this.pages = byId(`${name}-pages`);
    this.filter = byId(`${name}-filter`);
    this.offset = 0;
    this.process = { pid: null, name: "" };        // asked for; null: whichever answers
    this.told = null;                              // whose rows there are
    this.shown = false;
    this.paused = false;
    this.timer = 0;
    let typing = 0;
    this.filter.addEventListener("input", () => {
      this.offset = 0;                             // at once: whoever goes on to the next page stays there
      clearTimeout(typing);
      typing = setTimeout(() => this.load(), 200);
    });
    this.filter.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go(0);
    });
    byId(`${name}-refresh`).addEventListener("click", () => this.load());
    this.previous = element("button", { type: "button", onclick: () => this.go(this.offset - PAGE) }, "Previous");
    this.next = element("button", { type: "button", onclick: () => this.go(this.offset + PAGE) }, "Next");
    this.where = element("span", { class: "dim" });
  }

  go(offset) {
    this.offset = Math.max(0, offset);
    this.load();
  }

  /** Show goroutines of this process from now on. */
  setProcess(process) {
    const { pid, name } = this.process;
    this.process = process;
    if (process.pid !== pid) this.offset = 0;
    else if (process.name === name) return;
    if (this.shown) this.load();
  }

  setShown(shown) {
    this.shown = shown;
    if (shown) this.load();
    else clearTimeout(this.timer);
  }

  setPaused(paused) {
    this.paused = paused;
    if (paused) clearTimeout(this.timer);
    else if (this.shown) this.load();
  }

  async load() {
    clearTimeout(this.timer);
    const asked = (this.asked = {}), { pid, name } = this.process;
    try {
      const query = new URLSearchParams({ q: this.filter.value, offset: this.offset, limit: PAGE });
      if (pid !== null) query.set("pid", pid);
      const data = await get(`${this.path}?${query}`);
      if (asked !== this.asked) return;            // another question was asked meanwhile
      this.tell(data, `${this.what(data)}, process ${data.pid}${name}`);
    } catch (error) {
      if (asked !== this.asked) return;
      if (this.told !== pid) this.tell({ pid, rows: [], shown: 0 }, "");   // those of another process
      setText(this.count, `no answer: ${error.message}`);
    }
    this.later();
  }

  tell(data, text) {
    this.told = data.pid;
    for (const row of data.rows) row.pid = data.pid;
    this.table.update(data.rows, (row) => `${row.pid} ${this.keyOf(row)}`);
    setText(this.count, text);
    this.paginate(data);
  }

  /** Load again after a while, as long as somebody looks. */
  later() {
    clearTimeout(this.timer);
    if (this.shown && !this.paused)
      this.timer = setTimeout(() => (document.hidden ? this.later() : this.load()), EVERY);
  }

  paginate(data) {
    if (data.shown <= PAGE && this.offset === 0) {
      this.pages.replaceChildren();
      return;
    }
    this.previous.disabled = this.offset === 0;
    this.next.disabled = this.offset + PAGE >= data.shown;
    setText(this.where, `${Math.min(this.offset + 1, data.shown)} to ${Math.min(this.offset + PAGE, data.shown)} of ${data.shown}`);
    if (!this.pages.hasChildNodes()) this.pages.append(this.previous, this.next, this.where);
  }
}

const sample = (row) => row.sample.map((who) => who.id).join();

function chips(row, show, most) {
  return {
    same: sample(row),
    node: () => element("span", { class: "chips" }, ...row.sample.slice(0, most).map((who) => chip(who, (id) => show(id, row.pid))),
      row.count > most ? element("span", { class: "dim" }, "…") : null),
  };
}

export function goroutinesView() {
  const detail = new Detail(byId("goroutine-detail"), "Choose a goroutine to see its stack.");
  const show = (id, pid) => detail.show(id, pid);
  const keyOf = (row) => JSON.stringify([row.spawned_at, row.state, row.wait_reason]);
  return new Pages("goroutine", "api/goroutines", [
    { label: "Count", kind: "", cell: (row) => count(row.count) },
    { label: "State", title: "Running, runnable, or what they wait for and how long the first of them does", kind: "text", cell: (row) => ({
      same: row.wait_reason ? age(row.longest) : row.state,
      node: () => element("span", {}, element("span", { class: `state ${row.state}` }, row.wait_reason ?? row.state),
        row.wait_reason ? element("span", { class: "sub" }, `for ${age(row.longest)}`) : null) }) },
    { label: "Started at", title: "The go() that started them", kind: "text name", cell: (row) => {
      const at = row.spawned_at;
      if (!at) return "by the runtime, or main";
      return { same: "", title: `${at.file}:${at.line}`, node: () => element("span", {}, at.function, element("span", { class: "sub" }, place(at))) };
    } },
    { label: "Some of them", title: "The oldest; a click shows the stack", kind: "text", cell: (row) => chips(row, show, 3) },
  ], keyOf, (data) => `${count(data.total)} goroutines in ${count(data.groups)} groups`);
}

export function waitsView() {
  const detail = new Detail(byId("wait-detail"), "Choose a goroutine to see its stack.");
  const show = (id, pid) => detail.show(id, pid);
  return new Pages("wait", "api/waits", [
    { label: "What", title: "The object that is waited for", kind: "text name", cell: (row) => ({
      same: row.what, title: row.what, node: () => element("span", {}, row.kind, element("span", { class: "sub" }, row.what)) }) },
    { label: "Waiting", title: "How many goroutines wait for it", kind: "", cell: (row) => count(row.count) },
    { label: "In", title: "What they do, and how long the first of them has waited", kind: "text", cell: (row) => ({
      same: age(row.longest), node: () => element("span", {}, row.wait_reason, element("span", { class: "sub" }, `for ${age(row.longest)}`)) }) },
    { label: "Held by", title: "Who can end the wait, where one goroutine can: it holds the lock, or is joined; and what it does itself", kind: "text", cell: (row) => {
      const holder = row.holder;
      if (!holder) return "";
      const does = holder.wait_reason ?? holder.state;
      return {
        same: `${holder.id} ${does} ${row.deadlock}`,
        node: () => element("span", {}, chip(holder, (id) => show(id, row.pid)),
          row.deadlock ? element("strong", { class: "alarm", title: "It waits, by way of others, for what it holds itself: none of them goes on unless one is cancelled" }, "deadlock") : null,
          element("span", { class: "sub" }, does)),
      };
    } },
    { label: "Who waits", title: "The oldest; a click shows the stack", kind: "text", cell: (row) => chips(row, show, 3) },
  ], (row) => JSON.stringify([row.what, row.wait_reason]), (data) => `${count(data.objects)} are waited for`);
}

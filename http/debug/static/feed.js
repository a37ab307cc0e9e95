// Snapshots from the server, by server-sent events. The browser connects again by itself where the
// server has gone for a while; where it has given up (an error instead of events) we do.

const AGAIN = 3000;        // ms until we try again

export class Feed {
  /** handlers: {snapshot(data), state("live" | "connecting" | "lost" | "paused", text)} */
  constructor(handlers) {
    this.handlers = handlers;
    this.interval = 1;
    this.paused = false;
    this.source = null;
    this.timer = 0;
  }

  start(interval) {
    this.interval = interval;
    if (!this.paused) this.connect();
  }

  setPaused(paused) {
    this.paused = paused;
    if (paused) {
      this.stop();
      this.handlers.state("paused", "paused");
    } else this.connect();
  }

  stop() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  connect() {
    this.stop();
    this.handlers.state("connecting", "connecting");
    const source = new EventSource(`api/events?interval=${this.interval}`);
    this.source = source;
    source.addEventListener("snapshot", (event) => {
      this.handlers.state("live", "live");
      this.handlers.snapshot(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.handlers.state("lost", "no connection, trying again");
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.explain(), AGAIN);
      }
    });
  }

  /** The server has answered, but with no events: say why, then try again. */
  async explain() {
    if (this.paused) return;
    try {
      const response = await fetch("api/snapshot", { cache: "no-store" });
      if (response.status === 401 || response.status === 403) {
        this.handlers.state("lost", "not allowed any more: load the page again");
        return;
      }
    } catch { /* not there yet */ }
    if (!this.paused) this.connect();
  }
}

// Light, dark, or as the system has it; and the colours of the style sheet for what is drawn.

const KEY = "gosched.theme";
const NAMES = ["auto", "light", "dark"];
const listeners = [];
const cache = new Map();
const probe = document.createElement("span");

function stored() {
  try {
    const name = localStorage.getItem(KEY);
    return NAMES.includes(name) ? name : "auto";
  } catch { return "auto"; }
}

function apply(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  cache.clear();
  for (const listener of listeners) listener();
}

/** Calls back whenever the colours have changed. */
export const onTheme = (listener) => listeners.push(listener);

/** What --name stands for now, as rgb(...). */
export function color(name) {
  if (!cache.has(name)) {
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    cache.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return cache.get(name);
}

export function setUpTheme(button) {
  let name = stored();
  const show = () => { button.lastElementChild.textContent = name; };
  button.addEventListener("click", () => {
    name = NAMES[(NAMES.indexOf(name) + 1) % NAMES.length];
    try { localStorage.setItem(KEY, name); } catch { /* then only for now */ }
    show();
    apply(name);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(name));
  show();
  apply(name);
}

"""Names of the keys that a terminal sends."""

from __future__ import annotations

import re

# ECMA-48: CSI with parameters, SS3 with one character, or the key Esc.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)
_NAMES = {
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "esc",
    "\x08": "backspace",
    "\x7f": "backspace",
    "\x1b[Z": "shift+tab",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[1~": "home",
    "\x1b[7~": "home",
    "\x1b[4~": "end",
    "\x1b[8~": "end",
} | {
    f"\x1b{kind}{letter}": name
    for kind in "[O"
    for letter, name in zip("ABCDHF", ("up", "down", "right", "left", "home", "end"), strict=True)
}


def keys(pressed: str) -> list[str]:
    """What was pressed, key by key: a name, or the character. Unknown keys are left out."""
    found = [_NAMES.get(key, key) for key in _KEY.findall(pressed)]
    return [key for key in found if not key.startswith("\x1b")]

"""Which code has points where `explore` may preempt, and how the core is called there."""

from __future__ import annotations

import opcode
import os
import sys
import sysconfig
from types import CodeType
from typing import Any

from runtime import _core

# Kinds of opcodes, for csrc/py_points.c.
_SHARED, _LOCAL, _LOCAL_IF_CALL, _LOCAL_TEST, _SHARED_TEST, _AFTER_TEST = range(6)

# They touch the frame's own variables and stack only, or make a new object.  Not so those that
# jump backward, lest a loop has no points at all.
# WITH_EXCEPT_START leaves a block, which holds what it has entered up to then.
_LOCAL_NAMES = """
    ASYNC_GEN_WRAP BUILD_CONST_KEY_MAP BUILD_LIST BUILD_MAP BUILD_SET BUILD_SLICE BUILD_STRING
    BUILD_TUPLE CACHE COPY COPY_FREE_VARS DELETE_FAST END_FOR END_SEND GET_ITER INTERPRETER_EXIT
    JUMP_BACKWARD_NO_INTERRUPT JUMP_FORWARD KW_NAMES LIST_APPEND LIST_TO_TUPLE
    LOAD_ASSERTION_ERROR LOAD_BUILD_CLASS LOAD_CLOSURE LOAD_COMMON_CONSTANT LOAD_CONST LOAD_FAST
    LOAD_FAST_AND_CLEAR LOAD_FAST_BORROW LOAD_FAST_BORROW_LOAD_FAST_BORROW LOAD_FAST_CHECK
    LOAD_FAST_LOAD_FAST LOAD_METHOD LOAD_SMALL_INT MAKE_CELL MAKE_FUNCTION MAP_ADD NOP NOT_TAKEN
    POP_EXCEPT POP_ITER
    POP_JUMP_FORWARD_IF_NONE POP_JUMP_FORWARD_IF_NOT_NONE POP_JUMP_IF_NONE POP_JUMP_IF_NOT_NONE
    POP_TOP PRECALL PUSH_EXC_INFO PUSH_NULL RERAISE RESUME RETURN_CONST RETURN_GENERATOR
    RETURN_VALUE SET_ADD SET_FUNCTION_ATTRIBUTE STORE_FAST STORE_FAST_LOAD_FAST
    STORE_FAST_STORE_FAST SWAP WITH_EXCEPT_START YIELD_VALUE
"""
_KINDS = {
    # What is called is looked up: the call itself is a point.
    _LOCAL_IF_CALL: "LOAD_GLOBAL" + (" LOAD_ATTR" if sys.version_info >= (3, 12) else ""),
    _LOCAL_TEST: "CHECK_EXC_MATCH IS_OP",
    _SHARED_TEST: "COMPARE_OP CONTAINS_OP TO_BOOL UNARY_NOT",
    _AFTER_TEST: """
        JUMP_IF_FALSE_OR_POP JUMP_IF_TRUE_OR_POP POP_JUMP_FORWARD_IF_FALSE
        POP_JUMP_FORWARD_IF_TRUE POP_JUMP_IF_FALSE POP_JUMP_IF_TRUE
    """,
    _LOCAL: _LOCAL_NAMES,
}


def _kinds() -> bytes:
    kinds = bytearray(256)
    for kind, names in _KINDS.items():
        for name in names.split():
            code = opcode.opmap.get(name, 256)
            if code < 256:
                kinds[code] = kind
    return bytes(kinds)


def _stdlib() -> tuple[str, ...]:
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return tuple(p + os.sep for p in {*paths, os.path.dirname(os.__file__)})


_SITE = ("site-packages" + os.sep, "dist-packages" + os.sep)
_STDLIB = _stdlib()
_RUNTIME = os.path.dirname(os.path.abspath(_core.__file__)) + os.sep
_TOOLS = ("_pytest", "coverage", "hypothesis", "pluggy")  # what runs tests
_known: dict[str, bool] = {}


def _is_program(file: str) -> bool:
    if file.startswith(("<frozen ", _RUNTIME)):
        return False
    for stdlib in _STDLIB:
        if file.startswith(stdlib) and not file.startswith(_SITE, len(stdlib)):
            return False
    for name in _TOOLS:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is not None and file.startswith(os.path.dirname(path) + os.sep):
            return False
    return True


def is_program(code: CodeType) -> bool:
    """Is it code that is to be tested, and not the standard library's, this package's, pytest's?"""
    return is_program_file(code.co_filename)


def is_program_file(file: str) -> bool:
    known = _known.get(file)
    if known is None:
        known = _known[file] = _is_program(file)
    return known


class Points:
    """Between begin and end explored goroutines call the core at their points."""

    def __init__(self, where: int) -> None:
        self._where = where

    def begin(self) -> None:
        _core._points_begin(self._where)

    def end(self) -> None:
        _core._points_end()


if sys.version_info >= (3, 12):
    _monitoring = sys.monitoring
    _EVENTS = (0, _monitoring.events.LINE, _monitoring.events.INSTRUCTION)

    class MonitoredPoints(Points):
        """The same, by events of a sys.monitoring tool."""

        def __init__(self, where: int) -> None:
            super().__init__(where)
            self._event = _EVENTS[where]
            self._tool = -1
            self._codes: set[int] = set()
            self._kept: list[CodeType] = []  # so that no address is used again

        def begin(self) -> None:
            super().begin()
            if not self._event:
                return
            # By convention 0 to 2 and 5 belong to debuggers, coverage tools and so on.
            for tool in (3, 4):
                try:
                    _monitoring.use_tool_id(tool, "gosched explore")
                except ValueError:
                    continue
                break
            else:
                raise RuntimeError("explore(): no tool id of sys.monitoring is free (3 or 4)")
            self._tool = tool
            events = _monitoring.events
            _monitoring.register_callback(tool, self._event, _core._on_point)
            for event in (events.PY_START, events.PY_RESUME):
                _monitoring.register_callback(tool, event, self._on_start)
            _monitoring.set_events(tool, events.PY_START | events.PY_RESUME)
            _monitoring.restart_events()

        def _on_start(self, code: CodeType, _offset: int) -> Any:
            if is_program(code) and id(code) not in self._codes:
                self._codes.add(id(code))
                self._kept.append(code)
                _monitoring.set_local_events(self._tool, code, self._event)
            return _monitoring.DISABLE

        def end(self) -> None:
            if self._tool >= 0:
                tool, events = self._tool, _monitoring.events
                _monitoring.set_events(tool, 0)
                for code in self._kept:
                    _monitoring.set_local_events(tool, code, 0)
                for event in (self._event, events.PY_START, events.PY_RESUME):
                    _monitoring.register_callback(tool, event, None)
                _monitoring.free_tool_id(tool)
                self._tool = -1
            super().end()

    points: type[Points] = MonitoredPoints
    _core._set_points(is_program, _kinds(), _monitoring.DISABLE)
else:
    points = Points
    _core._set_points(is_program, _kinds(), None)

"""The C functions of the HTTP/1 parser (csrc/rt_http1*.c), on bytes, without the runtime.

They are built into a library of their own and called through cffi.
"""

import pathlib
import re
import subprocess
import sysconfig

import cffi

CSRC = pathlib.Path(__file__).resolve().parents[2] / "csrc"
MAX_TARGET, MAX_HEAD, MAX_FIELDS = 2000, 8000, 50


def places(cuts, data):
    """Where to cut the data, its end included."""
    return [*sorted({c for c in cuts if 0 < c < len(data)}), len(data)]


class Parser:
    """The C functions, on bytes.  `why` is the sentence of the last refusal, "" without one."""

    why = ""

    def __init__(self, ffi, lib):
        self.ffi, self.lib = ffi, lib
        self.limits = ffi.new("rt_http1_limits *", (MAX_TARGET, MAX_HEAD, MAX_FIELDS))
        self.fields = ffi.new("rt_http1_field[]", MAX_FIELDS)

    def feed(self, data, seen=0):
        """One call: (answer, request)."""
        req = self.ffi.new("rt_http1_req *")
        req.fields = self.fields
        buf = self.ffi.new("char[]", len(data) or 1)
        self.ffi.memmove(buf, data, len(data))
        rc = self.lib.rt_http1_parse_head(buf, len(data), seen, self.limits, req)
        return rc, req

    def head(self, data, cuts=()):
        """The answer as a comparable value, for data that arrives in parts."""
        seen = 0
        for cut in places(cuts, data):
            rc, req = self.feed(data[:cut], seen)
            if rc != 0:
                break
            seen = cut
        self.why = self.ffi.string(req.error).decode() if rc < 0 else ""
        if rc <= 0:
            return rc

        def text(s):
            assert s.off + s.len <= rc
            return data[s.off : s.off + s.len]

        return {
            "length": rc,
            "method": text(req.method),
            "method_id": req.method_id,
            "target": text(req.target),
            "path": text(req.path),
            "query": text(req.query) if req.has_query else None,
            "host": text(req.host),
            "minor": req.minor,
            "content_length": req.content_length,
            "chunked": req.chunked,
            "keep_alive": req.keep_alive,
            "expect_continue": req.expect_continue,
            "upgrade": req.upgrade,
            "fields": [
                (text(f.name), text(f.value)) for f in self.ffi.unpack(req.fields, req.nfields)
            ],
        }

    def body(self, data, cuts=()):
        """Decode a chunked body: (status, bytes used, body)."""
        state = self.ffi.new("rt_http1_chunked *")
        used = self.ffi.new("uint32_t *")
        run = self.ffi.new("rt_slice *")
        self.lib.rt_http1_chunked_init(state)
        body, at, rc = b"", 0, 0
        for cut in places(cuts, data):
            while rc == 0 and at < cut:
                part = data[at:cut]
                rc = self.lib.rt_http1_chunked_feed(state, part, len(part), used, run)
                assert 0 < used[0] <= len(part)
                assert run.off + run.len <= used[0]
                body += part[run.off : run.off + run.len]
                at += used[0]
        self.why = self.ffi.string(state.error).decode() if rc < 0 else ""
        return rc, at, body


def build(out: pathlib.Path, *flags: str) -> Parser:
    """Compile the parser in a folder, and load it."""
    library = out / "http1.so"
    (out / "throw.c").write_text(
        '#include "rt_base.h"\n#include <stdlib.h>\n'
        "_Noreturn void rt_throw(const char *msg) { (void)msg; abort(); }\n"
    )
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    options = ["-std=gnu11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags]
    sources = [*sorted(CSRC.glob("rt_http1*.c")), out / "throw.c"]
    subprocess.run([*compiler, *options, f"-I{CSRC}", "-o", library, *sources], check=True)

    header = re.sub(r"/\*.*?\*/", "", (CSRC / "rt_http1.h").read_text(), flags=re.S)
    header = re.sub(r"(RT_HTTP1_TRAILERS =) 8 \* 1024", r"\1 8192", header)
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"^#.*$", "", header, flags=re.M))
    return Parser(ffi, ffi.dlopen(str(library)))

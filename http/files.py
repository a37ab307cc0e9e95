"""Files as responses: serve_content, serve_file and file_server.

A file is opened once; all that is said of it (size, time, entity tag) and sent comes from that one
descriptor.  What a client's path may reach: opening.py.  Conditions and ranges: conditions.py.
"""

from __future__ import annotations

import datetime
import errno
import functools
import html
import io
import mimetypes
import os
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import runtime
from runtime._core import detect_content_type
from runtime._http.conditions import (
    Range,
    Unsatisfiable,
    http_date,
    is_etag,
    parse_ranges,
    precondition,
    preferred_codings,
    range_holds,
)
from runtime._http.opening import FLAGS, Links, open_below
from runtime._http.pattern import quote_query
from runtime._http.replies import error, send_redirect

if TYPE_CHECKING:
    from _typeshed import StrPath

    from runtime._core import Request, ResponseWriter

__all__ = ["file_server", "serve_content", "serve_file"]

PIECE = 65536
SNIFF = 512

# --- content types --------------------------------------------------------------------------------

# What is common on the web, the same on every machine; others are looked up in the system's tables.
_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".gz": "application/gzip",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp4": "video/mp4",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "text/xml; charset=utf-8",
    ".zip": "application/zip",
    ".zst": "application/zstd",
}


@functools.lru_cache(1024)
def _type_of(extension: str) -> str:
    """The content type of an extension, dot included; "" if there is none."""
    extension = extension.lower()
    known = _TYPES.get(extension)
    if known is not None:
        return known
    if not extension or extension in mimetypes.encodings_map:
        return ""
    kind = mimetypes.guess_type("x" + extension)[0] or ""
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


# --- contents -------------------------------------------------------------------------------------


class _File:
    """A regular file of the system, by its descriptor, which stays its owner's."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size = fd, size

    def start(self) -> bytes:
        return os.pread(self.fd, SNIFF, 0)

    def send(self, w: ResponseWriter, start: int, length: int) -> None:
        w.send_file(self.fd, start, length)


class _Stream:
    """Any other binary file that can seek."""

    __slots__ = ("file", "size")

    def __init__(self, file: Any) -> None:
        self.file = file
        self.size: int = file.seek(0, io.SEEK_END)

    def start(self) -> bytes:
        self.file.seek(0)
        data: bytes = self.file.read(SNIFF)
        return data

    def send(self, w: ResponseWriter, start: int, length: int) -> None:
        self.file.seek(start)
        while length > 0:
            data = self.file.read(min(PIECE, length))
            if not data:
                raise OSError("the content became shorter while it was sent")
            w.write(data)
            length -= len(data)


def _content(content: Any) -> _File | _Stream:
    if isinstance(content, bytes | bytearray | memoryview):
        return _Stream(io.BytesIO(content))
    # Others may have the descriptor of something else, as gzip's files do.
    raw = content
    if isinstance(content, io.BufferedReader | io.BufferedRandom):
        raw = content.raw
        if content.writable():
            content.flush()
    if isinstance(raw, io.FileIO):
        info = os.fstat(raw.fileno())
        if stat.S_ISREG(info.st_mode):
            return _File(raw.fileno(), info.st_size)
    return _Stream(content)


# --- responses ------------------------------------------------------------------------------------


def _error(w: ResponseWriter, text: str, status: int) -> None:
    """error(), instead of content whose header fields do not apply to it.  Go's serveError."""
    for name in ("Cache-Control", "Content-Encoding", "ETag", "Last-Modified", "Vary"):
        w.headers.delete(name)
    error(w, text, status)


def _not_found(w: ResponseWriter) -> None:
    _error(w, "404 page not found", 404)


def _redirect(w: ResponseWriter, r: Request, location: str) -> None:
    """301 to a path relative to the request's: right even where a proxy has cut off a prefix."""
    query = quote_query(r.raw_query)
    send_redirect(w, r, f"{location}?{query}" if query else location, 301)


def _no_content(w: ResponseWriter, status: int) -> None:
    """304 or 412."""
    headers = w.headers
    if status == 304:
        for name in ("Content-Type", "Content-Length", "Content-Encoding"):
            headers.delete(name)
        if "ETag" in headers:
            headers.delete("Last-Modified")
    w.write_header(status)


def _send_ranges(
    w: ResponseWriter, content: _File | _Stream, ranges: list[Range], kind: str, head: bool
) -> None:
    boundary = secrets.token_hex(16)
    w.headers.set("Content-Type", f"multipart/byteranges; boundary={boundary}")
    heads = []
    for i, part in enumerate(ranges):
        field = f"Content-Type: {kind}\r\n" if kind else ""
        heads.append(
            f"{'' if i == 0 else chr(13) + chr(10)}--{boundary}\r\n"
            f"Content-Range: {part.content_range(content.size)}\r\n{field}\r\n"
        )
    end = f"\r\n--{boundary}--\r\n"
    total = sum(len(text) for text in heads) + len(end) + sum(part.length for part in ranges)
    w.headers.set("Content-Length", total)
    w.write_header(206)
    if head:
        return
    for part, text in zip(ranges, heads, strict=True):
        w.write(text)
        content.send(w, part.start, part.length)
    w.write(end)


def _serve(
    w: ResponseWriter,
    r: Request,
    extension: str,
    modified: int | None,
    content: _File | _Stream,
    encoded: bool = False,
    plain: _File | None = None,
) -> None:
    """Go's serveContent.  encoded: content is a coding, ours, of plain."""
    headers, asked = w.headers, r.headers
    if modified is not None:
        headers.set("Last-Modified", http_date(modified))
    etag = headers.get("ETag", "")
    method = r.method
    status = precondition(method, asked, etag, modified)
    if status != 200:
        _no_content(w, status)
        return
    kind = headers.get("Content-Type")
    size = content.size
    if kind is None:
        kind = _type_of(extension)
        if not kind and size:
            kind = detect_content_type((plain or content).start())
        if kind:
            headers.set("Content-Type", kind)
    ranges: list[Range] = []
    wanted = asked.get("range")
    # RFC 9110 section 14.2: ranges are of GET.
    if (
        wanted is not None
        and method != "HEAD"
        and range_holds(asked.get("if-range"), etag, modified)
    ):
        try:
            ranges = parse_ranges(wanted, size)
        except Unsatisfiable as exc:
            headers.set("Content-Range", f"bytes */{size}")
            _error(w, str(exc), 416)
            return
    headers.set("Accept-Ranges", "bytes")
    head = method == "HEAD"
    if len(ranges) > 1:
        _send_ranges(w, content, ranges, kind, head)
        return
    start, length = 0, size
    if ranges:
        start, length = ranges[0]
        headers.set("Content-Range", ranges[0].content_range(size))
    # A handler that has chosen a coding may be about to change the length.
    if encoded or ranges or "Content-Encoding" not in headers:
        headers.set("Content-Length", length)
    if ranges:
        w.write_header(206)
    elif head or length == 0:
        w.write_header(200)
    if not head and length:
        content.send(w, start, length)


def serve_content(
    w: ResponseWriter,
    r: Request,
    name: str,
    modtime: float | datetime.datetime | None,
    content: Any,
) -> None:
    """Answer with content: ranges, conditions and HEAD included.

        http.serve_content(w, r, "report.pdf", row.changed, io.BytesIO(row.data))

    content is bytes or a binary file that can seek; a plain file is sent by the system, without a
    copy.  name only tells the type, by its extension; without a known one the first bytes do.  A
    Content-Type that was set before stays, "" is for none.  modtime, in seconds since the epoch or
    as a datetime, is for Last-Modified and its conditions; None: not known.  For conditions by
    entity tag set ETag before.

    Go: http.ServeContent.
    """
    modified: int | None = None
    if isinstance(modtime, datetime.datetime):
        modified = int(modtime.timestamp())
    elif modtime is not None:
        modified = int(modtime)
    etag = w.headers.get("ETag")
    if etag is not None and not is_etag(etag):
        raise ValueError(f'the ETag {etag!r} is none: it must be in quotes, as in "v1"')
    _serve(w, r, os.path.splitext(name)[1], modified, _content(content))


def _serve_opened(
    w: ResponseWriter,
    r: Request,
    name: str,
    fd: int,
    info: os.stat_result,
    coding: tuple[str, int, os.stat_result] | None = None,
) -> None:
    """Answer with an open regular file, or with its coding."""
    plain = content = _File(fd, info.st_size)
    suffix = ""
    if coding is not None:
        suffix, fd, info = coding
        content = _File(fd, info.st_size)
        w.headers.set("Content-Encoding", suffix)
        suffix = "-" + suffix
    if "ETag" not in w.headers:
        # A file that was just written may change again within its clock's tick.
        weak = "W/" if time.time() - info.st_mtime < 1 else ""
        w.headers.set("ETag", f'{weak}"{info.st_mtime_ns:x}-{info.st_size:x}{suffix}"')
    extension = os.path.splitext(name)[1]
    modified = int(info.st_mtime)
    _serve(w, r, extension, modified, content, coding is not None, plain)


_NOT_THERE = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EXDEV,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,
        errno.ENXIO,
        errno.ENODEV,
    )
)


def _opened(w: ResponseWriter, open_it: Callable[[], int]) -> int:
    """A descriptor, or -1 where the answer was given: there is no such file, or no right to it."""
    try:
        return open_it()
    except (ValueError, UnicodeError):  # a NUL, or no name this system can have
        _not_found(w)
    except OSError as exc:
        _failed(w, exc)
    return -1


def _failed(w: ResponseWriter, exc: OSError) -> None:
    """A file could not be opened.  What is the server's own trouble is raised again."""
    if exc.errno in _NOT_THERE:
        _not_found(w)
    elif exc.errno in (errno.EACCES, errno.EPERM):
        _error(w, "403 Forbidden", 403)
    else:
        raise exc


def serve_file(w: ResponseWriter, r: Request, path: StrPath) -> None:
    """Answer with the file of that path; of a directory, with its index.html.

        mux.handle("GET /favicon.ico", lambda w, r: http.serve_file(w, r, "static/logo.ico"))

    As serve_content() does, with an ETag of the file's size and time.  404 where there is no such
    regular file.  The path is the program's: where it is made of what a client has sent, use
    file_server(), which lets nobody out of its directory.  As a second line a request whose own
    path has a ".." is refused with 400.

    Go: http.ServeFile.
    """
    if ".." in r.path.replace("\\", "/").split("/"):
        _error(w, "invalid URL path", 400)
        return
    name = os.fspath(path)
    fd = _opened(w, lambda: os.open(name, FLAGS))
    if fd < 0:
        return
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            if not r.path.endswith("/"):
                _redirect(w, r, _segment(r.path) + "/")
                return
            os.close(fd)
            name = os.path.join(name, "index.html")
            fd = _opened(w, lambda: os.open(name, FLAGS))
            if fd < 0:
                return
            info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode):
            _serve_opened(w, r, name, fd, info)
        else:
            _not_found(w)
    finally:
        if fd >= 0:
            os.close(fd)


def _segment(path: str) -> str:
    """The last segment of a path, so that it can be nothing else but a path."""
    return "./" + quote(path.rstrip("/").rpartition("/")[2], safe="")


# --- directories ----------------------------------------------------------------------------------

_EXTENSIONS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}


class _FileServer:
    """What file_server() returns."""

    __slots__ = (
        "_cache_control",
        "_codings",
        "_dotfiles",
        "_index",
        "_links",
        "_lists",
        "_root",
    )

    def __init__(
        self,
        root: str,
        index: str,
        lists: bool,
        links: Links,
        codings: tuple[str, ...],
        dotfiles: bool,
        cache_control: str,
    ) -> None:
        self._root, self._index, self._lists, self._links = root, index, lists, links
        self._codings, self._dotfiles, self._cache_control = codings, dotfiles, cache_control

    def __repr__(self) -> str:
        return f"file_server({self._root!r})"

    def __call__(self, w: ResponseWriter, r: Request) -> None:
        if r.method not in ("GET", "HEAD"):
            w.headers.set("Allow", "GET, HEAD")
            _error(w, "Method Not Allowed", 405)
            return
        path = r.path
        names = [name for name in path.split("/") if name and name != "."]
        if self._refuses(path, names):
            _not_found(w)
            return
        index = self._index
        if index and path.endswith("/" + index):
            _redirect(w, r, "./")
            return
        below = "/".join(names) or "."
        fd = _opened(w, lambda: open_below(self._root, below, self._links))
        if fd < 0:
            return
        try:
            info = os.fstat(fd)
            is_directory = path.endswith("/") or not names
            if stat.S_ISDIR(info.st_mode):
                if not is_directory:
                    _redirect(w, r, _segment(path) + "/")
                else:
                    self._directory(w, r, below, fd)
            elif not stat.S_ISREG(info.st_mode):
                _not_found(w)
            elif is_directory:
                _redirect(w, r, "../" + _segment(path)[2:])
            else:
                self._file(w, r, below, fd, info)
        finally:
            os.close(fd)

    def _refuses(self, path: str, names: list[str]) -> bool:
        """Is the path one that no client has a reason to send?  Opening it would do no harm."""
        if "\\" in path or "\0" in path or ".." in names:
            return True
        return not self._dotfiles and any(
            name[0] == "." and name != ".well-known" for name in names
        )

    def _file(
        self, w: ResponseWriter, r: Request, below: str, fd: int, info: os.stat_result
    ) -> None:
        if self._cache_control:
            w.headers.set("Cache-Control", self._cache_control)
        if not self._codings:
            _serve_opened(w, r, below, fd, info)
            return
        w.headers.add("Vary", "Accept-Encoding")
        accept = r.headers.get("accept-encoding", "")
        for coding in preferred_codings(accept, self._codings) if accept else ():
            try:
                sibling = open_below(self._root, below + _EXTENSIONS[coding], self._links)
            except OSError:
                continue
            try:
                coded = os.fstat(sibling)
                if stat.S_ISREG(coded.st_mode):
                    _serve_opened(w, r, below, fd, info, (coding, sibling, coded))
                    return
            finally:
                os.close(sibling)
        _serve_opened(w, r, below, fd, info)

    def _directory(self, w: ResponseWriter, r: Request, below: str, fd: int) -> None:
        if self._index:
            index = f"{below}/{self._index}"
            try:
                found = open_below(self._root, index, self._links)
            except OSError as exc:
                if exc.errno not in _NOT_THERE:
                    _failed(w, exc)
                    return
            else:
                try:
                    info = os.fstat(found)
                    if stat.S_ISREG(info.st_mode):
                        self._file(w, r, index, found, info)
                        return
                finally:
                    os.close(found)
        if self._lists:
            _list(w, runtime.blocking(_entries, fd), self._dotfiles)
        else:
            _not_found(w)


def _entries(fd: int) -> list[str]:
    """The names in a directory, in order, those of directories with a slash at the end."""
    with os.scandir(fd) as entries:
        return sorted(
            entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
        )


def _list(w: ResponseWriter, names: list[str], dotfiles: bool) -> None:
    w.headers.set("Content-Type", "text/html; charset=utf-8")
    lines = ['<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n']
    for name in names:
        if name.startswith(".") and not dotfiles:
            continue
        # Names that are no UTF-8 cannot be asked for, but can be seen.
        shown = html.escape(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        href = quote(os.fsencode(name), safe="/")
        lines.append(f'<a href="./{href}">{shown}</a>\n')
    lines.append("</pre>\n")
    w.write("".join(lines))


def file_server(
    root: StrPath,
    *,
    index: str = "index.html",
    list_directories: bool = False,
    follow_symlinks: Links = "inside",
    precompressed: Sequence[str] = (),
    dotfiles: bool = False,
    cache_control: str = "",
) -> Callable[[ResponseWriter, Request], None]:
    """A handler that serves the files below a directory.

        mux.handle("/", http.file_server("/srv/www", precompressed=("br", "gzip")))

    It answers GET and HEAD as serve_content() does.  The path of the request is the path below
    root; nothing else can be reached by it, whatever it holds.  Only regular files are served.

    index             is served for a directory, and a request for it by name is redirected to the
                      directory; "" for none.
    list_directories  lets directories without index be listed.
    follow_symlinks   "inside": symbolic links that are relative and stay below root; "never";
                      "always": wherever they lead, as Go does.
    precompressed     codings, best first, of "br", "zstd" and "gzip": where a client accepts one
                      and the file has a sibling with the extension .br, .zst or .gz, that is sent
                      as its coding.  It is up to you that both have the same content.
    dotfiles          lets names that begin with a dot be served; .well-known always is.
    cache_control     is sent as Cache-Control with every file, such as "max-age=3600".

    Raises ValueError for options that make no sense, NotADirectoryError where root is none.

    Go: http.FileServer.
    """
    path = os.path.abspath(os.fspath(root))
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, "file_server() needs a directory", path)
    if follow_symlinks not in ("inside", "never", "always"):
        raise ValueError(
            f'follow_symlinks must be "inside", "never" or "always", not {follow_symlinks!r}'
        )
    if isinstance(precompressed, str):
        precompressed = (precompressed,)
    unknown = [coding for coding in precompressed if coding not in _EXTENSIONS]
    if unknown:
        raise ValueError(f'precompressed: "br", "zstd" and "gzip" are known, not {unknown[0]!r}')
    if "/" in index or index in (".", ".."):
        raise ValueError(f"index: want the name of a file, not {index!r}")
    return _FileServer(
        path, index, list_directories, follow_symlinks, tuple(precompressed), dotfiles,
        cache_control,
    )  # fmt: skip

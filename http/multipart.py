"""Bodies of the type multipart/form-data: part by part as they come, or as a whole form.

The syntax is read by the push parser of the package ``multipart``, which does no I/O.  What is
kept of files is in memory up to a limit and then on disk, in files without a name, so nothing is
left behind however a program ends.  The disk may be slow: it is written on the threads of
``runtime.blocking``, in pieces that are worth a switch to one.

Names of files come from the client.  Only their last part is handed out, and nothing is ever
opened by it.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import runtime
from runtime._http.errors import BadRequestError, BodyTooLargeError
from runtime._http.maxbytes import PIECE, Reader, read_all
from runtime._http.values import Values

if TYPE_CHECKING:
    from _typeshed import StrPath

__all__ = ["FormFile", "MultipartForm", "MultipartReader", "Part"]

MAX_HEADERS = 32  # of a part
MAX_HEADER_BYTES = 8192  # of one of them
MAX_BOUNDARY = 256  # bytes; RFC 2046 allows 70
BATCH = 1 << 20  # bytes written to disk at once
SLOW_CLOSE = 8 << 20  # bytes of a file whose blocks take a while to be freed


def _library() -> Any:
    try:
        import multipart
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "multipart bodies need the package multipart: pip install 'gosched[multipart]'",
            name="multipart",
        ) from None
    return multipart


def base_name(filename: str) -> str:
    """The last part of a client's file name, free of what could lead anywhere else."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(c for c in name if c.isprintable()).strip()
    return "" if name in (".", "..") else name


# --- streaming ------------------------------------------------------------------------------------


class Part:
    """One part of a multipart body, to be read before the next one is asked for.

    Iteration gives pieces as they arrive.  Go: multipart.Part.
    """

    __slots__ = ("_at", "_next", "_rest", "content_type", "filename", "headers", "is_file", "name")

    def __init__(self, segment: Any, following: Callable[[Part], bytes]) -> None:
        self.name: str = segment.name or ""
        """The name of the form's field."""
        self.is_file: bool = bool(segment.filename)
        """Does it have a file name?"""
        self.filename: str = base_name(segment.filename or "")
        """The last part of the client's name of the file, "" for none.  Do not trust it."""
        self.headers: dict[str, str] = dict(segment.headerlist)
        """The header fields, by names in Title-Case."""
        self.content_type: str = self.headers.get("Content-Type", "")
        self._next = following
        self._rest = b""  # the piece being read, and how much of it has been
        self._at = 0

    def __repr__(self) -> str:
        return f"<Part {self.name!r} {self.filename!r}>"

    def read(self, n: int | None = -1, /) -> bytes:
        """Read up to n bytes, as soon as there are some; b"" at the end.  Without n: all."""
        if n is None or n < 0:
            return read_all(self)  # type: ignore[arg-type]
        if n == 0:
            return b""
        if self._at == len(self._rest):
            self._rest, self._at = self._next(self), 0
        data = self._rest[self._at : self._at + n]
        self._at += len(data)
        return data

    def __iter__(self) -> Part:
        return self

    def __next__(self) -> bytes:
        data = self.read(PIECE)
        if not data:
            raise StopIteration
        return data


class MultipartReader:
    """The parts of a multipart/form-data body, one after another as they arrive.

    What is left of a part is skipped when the next one is asked for.  Go: multipart.Reader.
    """

    __slots__ = ("_events", "_part")

    def __init__(self, body: Reader, content_type: str, *, max_parts: int = 1000) -> None:
        """content_type is the body's, with its boundary.

        Raises BadRequestError where that is not multipart/form-data.
        """
        library = _library()
        kind, options = library.parse_options_header(content_type)
        if kind != "multipart/form-data":
            raise BadRequestError(f"the body is {kind or 'of no type'}, not multipart/form-data")
        boundary = options.get("boundary", "")
        if not 0 < len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
            raise BadRequestError("the Content-Type of the multipart body has no valid boundary")
        self._part: Part | None = None
        self._events = self._parse(library, body, boundary, max_parts)

    @staticmethod
    def _parse(library: Any, body: Reader, boundary: str, max_parts: int) -> Iterator[Any]:
        try:
            parser = library.PushMultipartParser(
                boundary,
                max_header_size=MAX_HEADER_BYTES,
                max_header_count=MAX_HEADERS,
                max_segment_count=max_parts,
            )
            while chunk := body.read(PIECE):
                yield from parser.parse(chunk)
            parser.close()
        except library.ParserLimitReached as exc:
            raise BodyTooLargeError(f"multipart body: {exc}") from None
        except library.MultipartError as exc:
            raise BadRequestError(f"malformed multipart body: {exc}") from None

    def __iter__(self) -> MultipartReader:
        return self

    def __next__(self) -> Part:
        if self._part is not None:
            self._part._rest, self._part._at = b"", 0
        while self._part is not None:
            self._more(self._part)
        segment = next(self._events)  # StopIteration: there are no more
        self._part = Part(segment, self._more)
        return self._part

    def _more(self, part: Part) -> bytes:
        """The next bytes of the part, b"" at its end."""
        if part is not self._part:
            return b""
        data = next(self._events, None)
        if data is None:
            self._part = None
            return b""
        return bytes(data)


# --- whole forms ----------------------------------------------------------------------------------


class FormFile:
    """An uploaded file.  It is open until the handler returns.  Go: multipart.FileHeader."""

    __slots__ = ("_disk", "content_type", "file", "filename", "headers", "name", "size")

    def __init__(self, part: Part, size: int, file: Any, disk: _Disk | None) -> None:
        self.name = part.name
        """The name of the form's field."""
        self.filename = part.filename
        """The last part of the client's name of the file.  Do not trust it."""
        self.headers = part.headers
        """The header fields of its part, by names in Title-Case."""
        self.content_type = part.content_type
        """What the client says it is; "" for nothing."""
        self.size = size
        """In bytes."""
        self.file = file
        """A binary file, at its beginning."""
        self._disk = disk

    def __repr__(self) -> str:
        return f"<FormFile {self.filename!r}, {self.size} bytes>"

    @property
    def in_memory(self) -> bool:
        """False where it is on disk."""
        return self._disk is None

    def read(self, n: int = -1, /) -> bytes:
        """Read from file."""
        data: bytes = self.file.read(n)
        return data

    def save(self, path: StrPath) -> None:
        """Write the whole of it to a new file; FileExistsError where there is one.

        The path is yours to choose: never make it of what the client has sent.
        """
        runtime.blocking(self._save, path)

    def _save(self, path: StrPath) -> None:
        self.file.seek(0)
        with open(path, "xb") as target:
            while piece := self.file.read(BATCH):
                target.write(piece)

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()
        else:
            self.file.close()


class MultipartForm:
    """A whole multipart form.  Go: multipart.Form."""

    __slots__ = ("files", "values")

    def __init__(self) -> None:
        self.values = Values()
        """The fields that are no files."""
        self.files: dict[str, list[FormFile]] = {}
        """The files, by the names of their fields."""

    def file(self, name: str) -> FormFile | None:
        """Return the first file of that field, or None.  Go: Request.FormFile."""
        files = self.files.get(name)
        return files[0] if files else None

    def close(self) -> None:
        """Close all files; those on disk are gone then."""
        for files in self.files.values():
            for file in files:
                file.close()


class _Disk:
    """A temporary file, written on other threads.

    Whoever gives up while one writes leaves it alone: the descriptor's number may be somebody
    else's by the time it is used.
    """

    __slots__ = ("_busy", "_lock", "file", "size")

    def __init__(self) -> None:
        self.file: Any = None  # owned; made by the first write
        self.size = 0
        self._busy = False  # a write was begun and has not come back to its caller
        self._lock = threading.Lock()  # held by the thread that uses the file

    def write(self, pieces: list[bytes]) -> None:
        self._busy = True
        runtime.blocking(self._write, pieces)
        self._busy = False

    def _write(self, pieces: list[bytes]) -> None:
        with self._lock:
            if self.file is None:
                self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (close closes it)
            data = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            while data:
                n = self.file.write(data)
                self.size += n
                data = data[n:]

    def opened(self) -> Any:
        """The file as one to be read from its beginning."""
        self.file.seek(0)
        self.file = io.BufferedReader(self.file)
        return self.file

    def close(self) -> None:
        if self._busy or self.size >= SLOW_CLOSE:
            runtime.go.named("http.FormFile.close")(runtime.blocking, self._close)
        else:
            self._close()

    def _close(self) -> None:
        with self._lock:
            if self.file is not None:
                self.file.close()


class _Budget:
    """Bytes of files that may still be in memory."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


def _read_file(part: Part, budget: _Budget) -> FormFile:
    memory = io.BytesIO()
    size = 0
    disk: _Disk | None = None  # what does not fit into the budget
    held: list[bytes] = []  # to be written to it
    nheld = 0
    try:
        for piece in part:
            size += len(piece)
            if disk is None:
                if size <= budget.left:
                    memory.write(piece)
                    continue
                disk = _Disk()
                disk.write([memory.getvalue()])
                memory.close()
            held.append(piece)
            nheld += len(piece)
            if nheld >= BATCH:
                disk.write(held)
                held, nheld = [], 0
        if disk is None:
            budget.left -= size
            memory.seek(0)
            return FormFile(part, size, memory, None)
        if held:
            disk.write(held)
        return FormFile(part, size, disk.opened(), disk)
    except BaseException:
        if disk is not None:
            disk.close()
        raise


def read_form(reader: MultipartReader, max_memory: int, max_value_bytes: int) -> MultipartForm:
    """Read all parts.  Whatever it raises, no file stays open."""
    form = MultipartForm()
    budget = _Budget(max_memory)
    left = max_value_bytes
    try:
        for part in reader:
            if part.is_file:
                form.files.setdefault(part.name, []).append(_read_file(part, budget))
                continue
            pieces = []
            for piece in part:
                left -= len(piece)
                if left < 0:
                    raise BodyTooLargeError(
                        f"the fields of a multipart form may have {max_value_bytes} bytes in all"
                    )
                pieces.append(piece)
            text = b"".join(pieces).decode("utf-8", "replace")
            form.values.setdefault(part.name, []).append(text)
    except BaseException:
        form.close()
        raise
    return form

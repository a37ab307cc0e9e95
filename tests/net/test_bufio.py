"""Buffers around streams, and files made of connections."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime
from programs import run
from runtime import net
from runtime.net import bufio

NEVER = 60.0


class Pieces:
    """A stream that gives what it has in pieces; an exception among them is raised."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self, n):
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        if len(piece) > n:
            self.pieces.insert(0, piece[n:])
        return piece[:n]


pieces = st.lists(st.binary(min_size=1, max_size=12), max_size=8)

operations = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 20)),
        st.tuples(st.just("read_exactly"), st.integers(0, 20)),
        st.tuples(st.just("peek"), st.integers(0, 8)),
        st.tuples(st.just("discard"), st.integers(0, 20)),
        st.tuples(st.just("read_until"), st.sampled_from([b"\0", b"\0\1"])),
        st.tuples(st.just("read_line"), st.just(9)),
    ),
    max_size=12,
)


@given(pieces, operations, st.integers(8, 16))
def test_reader_does_what_a_string_of_bytes_would(pieces, operations, size):
    data = b"".join(pieces)
    reader = bufio.Reader(Pieces(*pieces), size)
    for name, argument in operations:
        try:
            got = getattr(reader, name)(argument)
        except net.UnexpectedEOFError as e:
            assert e.partial == data
            if name == "read_until":
                assert argument not in data
            else:
                assert len(data) < argument
            data = b""
            continue
        except bufio.LimitError:
            assert name == "read_line"
            assert b"\n" not in data[:9] and len(data) >= 9
            continue
        if name == "read":
            assert len(got) <= argument and bool(got) == bool(data and argument)
            assert data.startswith(got)
            data = data[len(got) :]
        elif name == "peek":
            assert got == data[:argument]
        elif name == "discard":
            assert got == min(argument, len(data))
            data = data[got:]
        elif name == "read_line":
            if got is None:
                assert not data
                continue
            line, end, data = data.partition(b"\n")
            assert got == (line[:-1] if end and line.endswith(b"\r") else line)
        else:
            end = argument if name == "read_exactly" else data.index(argument) + len(argument)
            assert got == data[:end]
            data = data[end:]
    rest = b""
    while piece := reader.read():
        rest += piece
    assert rest == data


def test_reader_loses_nothing_of_what_came_before_an_error():
    late = TimeoutError("late")
    reader = bufio.Reader(Pieces(b"abc", late, late, late, b"def\n", b"rest"))
    for use in (lambda: reader.read_exactly(5), lambda: reader.peek(4), reader.read_line):
        with pytest.raises(TimeoutError):
            use()
        assert reader.buffered == 3
    assert reader.peek(2) == b"ab"
    assert reader.read_line() == b"abcdef"
    buffer = bytearray(10)
    assert reader.read_into(buffer) == 4
    assert buffer[:4] == b"rest"


def test_reader_is_iterated_by_lines():
    assert list(bufio.Reader(Pieces(b"one\ntw", b"o\r\n\nthree"))) == [
        b"one",
        b"two",
        b"",
        b"three",
    ]


def test_reader_takes_what_a_connection_has():
    a, b = net.pipe()
    g = runtime.go(a.write, b"hello")
    reader = bufio.Reader(b)
    assert reader.read(100) == b"hello"
    g.join(NEVER)
    g = runtime.go(a.write, b"line\n")
    assert reader.read_line() == b"line"
    g.join(NEVER)


@pytest.mark.parametrize(
    "use",
    [
        lambda reader: reader.read(-1),
        lambda reader: reader.read_exactly(-1),
        lambda reader: reader.peek(-1),
        lambda reader: reader.discard(-1),
        lambda reader: reader.read_until(b""),
        lambda reader: reader.peek(100),
        lambda _: bufio.Reader(Pieces(), 0),
        lambda _: bufio.Writer(io.BytesIO(), 0),
        lambda _: bufio.Scanner(Pieces(), limit=0),
    ],
)
def test_senseless_arguments_are_refused(use):
    with pytest.raises(ValueError):
        use(bufio.Reader(Pieces(b"x"), 16))


class Sink:
    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(data)


@given(st.lists(st.one_of(st.binary(max_size=30), st.none()), max_size=20), st.integers(1, 16))
def test_writer_keeps_the_order_and_its_size(writes, size):
    sink, expected = Sink(), b""
    with bufio.Writer(sink, size) as writer:
        for data in writes:
            if data is None:
                writer.flush()
                assert b"".join(sink.writes) == expected
            else:
                assert writer.write(data) == len(data)
                expected += data
            assert writer.buffered <= size
            assert writer.available == size - writer.buffered
    assert b"".join(sink.writes) == expected


def test_writer_joins_small_writes():
    sink = Sink()
    with bufio.Writer(sink, 10) as writer:
        for i in range(6):
            writer.write(b"%03d" % i)
    assert sink.writes == [b"0000010020", b"03004005"]


def test_writer_that_has_failed_fails_on():
    class Broken:
        def write(self, data):
            raise BrokenPipeError("gone")

    writer = bufio.Writer(Broken(), 4)
    writer.write(b"abc")
    for use in (writer.flush, writer.flush, lambda: writer.write(b"x")):
        with pytest.raises(BrokenPipeError, match="gone"):
            use()


@given(pieces)
def test_scanner_finds_lines_and_words_as_python_does(pieces):
    data = b"".join(pieces)
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]
    last = data.split(b"\n")[-1]
    assert list(bufio.Scanner(Pieces(*pieces))) == lines + [last] * bool(last)
    assert list(bufio.Scanner(Pieces(*pieces), bufio.scan_words)) == data.split()


def test_scanner_refuses_what_is_too_long():
    scanner = bufio.Scanner(Pieces(b"12345678\r\n", b"12345678\n123456789\n"), limit=8)
    assert next(scanner) == next(scanner) == b"12345678"
    with pytest.raises(bufio.LimitError, match="more than 8 bytes"):
        next(scanner)
    scanner = bufio.Scanner(Pieces(b"12345678 ", b"x" * 100), bufio.scan_words, limit=8)
    assert next(scanner) == b"12345678"
    with pytest.raises(bufio.LimitError, match="more than 8 bytes"):
        next(scanner)


def test_scanner_takes_a_split_function():
    def numbers(data, at_end):
        end = data.find(b",")
        if end >= 0:
            return end + 1, data[:end]
        return (len(data), data) if at_end and data else (0, None)

    assert list(bufio.Scanner(Pieces(b"1,2", b"3,4"), numbers)) == [b"1", b"23", b"4"]
    with pytest.raises(ValueError, match="has used"):
        next(bufio.Scanner(Pieces(b"x"), lambda data, at_end: (5, b"x")))


@pytest.mark.parametrize("procs", [1, 4], indirect=True)
def test_files_of_a_connection_read_and_write(procs, tcp):
    client, server = tcp

    def serve():
        with server.makefile("rw") as file:
            for line in file:
                print(line.strip().upper(), file=file, flush=True)

    g = runtime.go(serve)
    with client.makefile("w") as out, client.makefile("rb") as file:
        print("grüße", file=out, flush=True)
        assert file.readline() == "GRÜSSE\n".encode()
        print(json.dumps([1]), file=out, flush=True)
        assert json.loads(file.readline()) == [1]
    client.close_write()
    g.join(NEVER)
    assert not client.closed
    raw = client.makefile("wb", buffering=0)
    assert isinstance(raw, io.RawIOBase)
    assert not raw.readable() and raw.writable()


@pytest.mark.parametrize(
    ("mode", "buffering"), [("", -1), ("a", -1), ("b", -1), ("rr", -1), ("r", 0), ("r+", -1)]
)
def test_senseless_modes_are_refused(mode, buffering):
    a, _ = net.pipe()
    with pytest.raises(ValueError, match="makefile"):
        a.makefile(mode, buffering)


def test_files_may_wait_in_development_mode():
    program = """
        from runtime import go, net
        a, b = net.pipe()
        g = go(a.write, b"hello\\n")
        print(b.makefile().readline(), end="")
        g.join()
    """
    result = run(program, GOSCHED_CHECK_WAITS="1")
    assert (result.stdout, result.returncode) == ("hello\n", 0), result.stderr

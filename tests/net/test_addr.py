"""Address strings; the tables are Go's."""

import pytest

from runtime import net
from runtime._net.addr import from_sockaddr, lookup_port


@pytest.mark.parametrize(
    ("hostport", "host", "port"),
    [
        ("localhost:http", "localhost", "http"),
        ("localhost:80", "localhost", "80"),
        ("localhost%lo0:80", "localhost%lo0", "80"),
        ("[localhost%lo0]:80", "localhost%lo0", "80"),
        ("127.0.0.1:80", "127.0.0.1", "80"),
        ("[::1]:http", "::1", "http"),
        ("[::1%lo0]:80", "::1%lo0", "80"),
        (":http", "", "http"),
        ("[::1]:", "::1", ""),
        (":", "", ""),
        ("[]:", "", ""),
        ("golang.org:https%foo", "golang.org", "https%foo"),
    ],
)
def test_split_host_port_takes_apart(hostport, host, port):
    assert net.split_host_port(hostport) == (host, port)


@pytest.mark.parametrize(
    ("hostport", "problem"),
    [
        ("golang.org", "missing port in address"),
        ("127.0.0.1", "missing port in address"),
        ("", "missing port in address"),
        ("[::1]", "missing port in address"),
        ("[fe80::1%lo0]", "missing port in address"),
        ("[localhost%lo0]", "missing port in address"),
        ("localhost%lo0", "missing port in address"),
        ("::1", "too many colons in address"),
        ("fe80::1%lo0", "too many colons in address"),
        ("fe80::1%lo0:80", "too many colons in address"),
        ("[foo:bar]", "missing port in address"),
        ("[foo:bar]baz", "missing port in address"),
        ("[foo]bar:baz", "missing port in address"),
        ("[foo]:[bar]:baz", "too many colons in address"),
        ("[foo]:[bar]baz", "unexpected '[' in address"),
        ("foo[bar]:baz", "unexpected '[' in address"),
        ("foo]bar:baz", "unexpected ']' in address"),
        ("[foo:80", "missing ']' in address"),
    ],
)
def test_split_host_port_says_what_is_wrong(hostport, problem):
    with pytest.raises(net.AddrError) as e:
        net.split_host_port(hostport)
    assert str(e.value) == f"address {hostport}: {problem}"


@pytest.mark.parametrize(
    ("host", "port", "joined"),
    [
        ("localhost", "http", "localhost:http"),
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("::1%lo0", 80, "[::1%lo0]:80"),
        ("", "", ":"),
        ("::1", "0", "[::1]:0"),
    ],
)
def test_join_host_port_puts_brackets_where_needed(host, port, joined):
    assert net.join_host_port(host, port) == joined
    assert net.split_host_port(joined) == (host, str(port))


@pytest.mark.parametrize("network", ["tcp", "unix"])
@pytest.mark.parametrize("use", [net.listen, net.dial])
@pytest.mark.parametrize("address", [None, 8080, ("localhost", 80), b"localhost:80"])
def test_address_that_is_no_str_is_a_type_error(use, network, address):
    kind = type(address).__name__
    with pytest.raises(TypeError, match=f"an address is a str such as '.*', not {kind}"):
        use(network, address)


def test_lookup_port_takes_numbers_and_names():
    assert lookup_port("") == 0
    assert lookup_port("0") == 0
    assert lookup_port("080") == 80
    assert lookup_port("65535") == 65535


@pytest.mark.parametrize("service", ["65536", "9" * 5000, "-1", "+80", "٣", " 80", "nothing"])
def test_lookup_port_refuses_the_rest(service):
    with pytest.raises(net.AddrError):
        lookup_port(service)


def test_socket_addresses_become_addrs():
    assert from_sockaddr(("1.2.3.4", 5)) == net.TCPAddr("1.2.3.4", 5) == ("1.2.3.4", 5)
    assert str(from_sockaddr(("::1", 5, 0, 0))) == "[::1]:5"
    assert str(from_sockaddr(("::ffff:1.2.3.4", 5, 0, 0))) == "1.2.3.4:5"
    assert str(from_sockaddr(("fe80::1", 5, 0, 1))) == "[fe80::1%lo]:5"
    assert str(from_sockaddr(("fe80::1", 5, 0, 99999))) == "[fe80::1%99999]:5"
    assert str(from_sockaddr("/tmp/x")) == "/tmp/x"
    assert str(from_sockaddr(b"\0x")) == "@x"
    assert from_sockaddr(None) is None

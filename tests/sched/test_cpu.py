"""The number of usable CPUs, in made-up trees of /proc and cgroups."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime._cpu import MAX_PROCS, default_procs, procs_from_env

AFFINITY = 64

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHERS = [
    "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "24 23 0:5 / /dev rw master:2 propagate_from:2 - devtmpfs udev rw,size=8k",
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
    "34 31 0:31 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct",
    "35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
]


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(AFFINITY)))


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


class Machine:
    """A root directory with the files default_procs() reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts(V2)

    def mounts(self, *lines: str) -> None:
        write(self.root / "proc/self/mountinfo", "".join(f"{m}\n" for m in [*OTHERS, *lines]))

    def cgroups(self, *lines: str) -> None:
        write(self.root / "proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def v2(self, path: str, cpu_max: str | bytes) -> None:
        write(self.root / "sys/fs/cgroup" / path / "cpu.max", cpu_max)

    def v1(self, path: str, quota: str, period: str = "100000\n") -> None:
        directory = self.root / "sys/fs/cgroup/cpu,cpuacct" / path
        write(directory / "cpu.cfs_quota_us", quota)
        write(directory / "cpu.cfs_period_us", period)

    def procs(self) -> int:
        return default_procs(self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- affinity -------------------------------------------------------------------------------------


def test_default_procs_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= default_procs() <= len(os.sched_getaffinity(0))


def test_default_procs_without_any_file_is_the_affinity(tmp_path: Path) -> None:
    assert default_procs(tmp_path) == AFFINITY


def test_default_procs_without_affinity_counts_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert default_procs(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_procs(tmp_path) == 1


# --- version 2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu_max", "procs"),
    [
        ("max 100000\n", AFFINITY),
        ("100000 100000\n", 1),
        ("100001 100000\n", 2),
        ("250000 100000\n", 3),
        ("300000 100000", 3),
        ("1000 100000\n", 1),
        ("1 1000000\n", 1),
        ("10000 5000\n", 2),
        ("6400000 100000\n", 64),
        ("6400001 100000\n", AFFINITY),
        (f"{1 << 44} 1000\n", AFFINITY),
    ],
)
def test_v2_quota_is_rounded_up(machine: Machine, cpu_max: str, procs: int) -> None:
    machine.cgroups("0::/app")
    machine.v2("app", cpu_max)
    assert machine.procs() == procs


def test_v2_tightest_quota_up_to_the_root_counts(machine: Machine) -> None:
    machine.cgroups("0::/a/b/c")
    machine.v2("a/b/c", "800000 100000\n")
    assert machine.procs() == 8
    machine.v2("a", "300000 100000\n")
    assert machine.procs() == 3
    machine.v2("a/b", "max 100000\n")
    assert machine.procs() == 3
    machine.v2("a/b", "200000 100000\n")
    assert machine.procs() == 2


def test_v2_quotas_of_other_cgroups_do_not_count(machine: Machine) -> None:
    machine.cgroups("0::/a/b")
    machine.v2("a/b", "800000 100000\n")
    machine.v2("a/b/child", "100000 100000\n")
    machine.v2("a/other", "100000 100000\n")
    write(machine.root / "sys/fs/cpu.max", "100000 100000\n")
    write(machine.root / "cpu.max", "100000 100000\n")
    assert machine.procs() == 8


def test_v2_in_a_cgroup_namespace_the_mount_point_is_the_cgroup(machine: Machine) -> None:
    machine.cgroups("0::/")
    machine.v2("", "150000 100000\n")
    assert machine.procs() == 2


def test_v2_bind_mount_of_the_cgroup(machine: Machine) -> None:
    machine.mounts(V2.replace(" / /sys", " /docker/0123 /sys"))
    machine.cgroups("0::/docker/0123")
    machine.v2("", "400000 100000\n")
    machine.v2("docker/0123", "100000 100000\n")  # would be /docker/0123/docker/0123
    assert machine.procs() == 4
    machine.cgroups("0::/docker/0123/inner")
    machine.v2("inner", "300000 100000\n")
    assert machine.procs() == 3


@pytest.mark.parametrize("root", ["/docker", "/docker/012", "/docker/0123/4", "/..", "/../x"])
def test_v2_bind_mount_of_another_cgroup_says_nothing(machine: Machine, root: str) -> None:
    machine.mounts(V2.replace(" / /sys", f" {root} /sys"))
    machine.cgroups("0::/podman/0123")
    machine.v2("", "100000 100000\n")
    assert machine.procs() == AFFINITY
    machine.mounts(V2.replace(" / /sys", f" {root} /sys"), V2.replace("/sys/fs/cgroup", "/cg"))
    write(machine.root / "cg/podman/cpu.max", "200000 100000\n")
    assert machine.procs() == 2


def test_v2_process_outside_of_its_cgroup_namespace(machine: Machine) -> None:
    machine.cgroups("0::/../other")
    machine.v2("", "100000 100000\n")
    write(machine.root / "sys/fs/other/cpu.max", "100000 100000\n")
    assert machine.procs() == AFFINITY


def test_v2_cgroup_that_was_deleted_still_has_parents(machine: Machine) -> None:
    machine.cgroups("0::/a/b (deleted)")
    machine.v2("a", "200000 100000\n")
    assert machine.procs() == 2


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"/my\040cgroups", "my cgroups"),
        (r"/tab\011new\012line", "tab\tnew\nline"),
        (r"/back\134040slash", r"back\040slash"),
        ("/ünï\u2028code", "ünï\u2028code"),
        (r"/odd\8\9zz\0", r"odd\8\9zz\0"),
    ],
)
def test_v2_mount_point_with_odd_characters(machine: Machine, written: str, name: str) -> None:
    machine.mounts(V2.replace("/sys/fs/cgroup", written))
    machine.cgroups("0::/a b:c\u2028d")
    write(machine.root / name / "a b:c\u2028d" / "cpu.max", "200000 100000\n")
    assert machine.procs() == 2


def test_v2_names_that_are_not_utf8(machine: Machine) -> None:
    write(machine.root / "proc/self/cgroup", b"0::/\xff\xfe\n")
    write(Path(os.fsdecode(bytes(machine.root) + b"/sys/fs/cgroup/\xff\xfe/cpu.max")), "2 1\n")
    assert machine.procs() == 2


# --- version 1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "period", "procs"),
    [
        ("-1\n", "100000\n", AFFINITY),
        ("100000\n", "100000\n", 1),
        ("100001\n", "100000\n", 2),
        ("50000\n", "100000\n", 1),
        ("350000\n", "50000\n", 7),
    ],
)
def test_v1_quota_is_rounded_up(machine: Machine, quota: str, period: str, procs: int) -> None:
    machine.mounts(V1)
    machine.cgroups("4:memory:/other", "3:cpu,cpuacct:/app", "1:name=systemd:/x")
    machine.v1("app", quota, period)
    assert machine.procs() == procs


def test_v1_tightest_quota_up_to_the_root_counts(machine: Machine) -> None:
    machine.mounts(V1)
    machine.cgroups("3:cpuacct,cpu:/kubepods/pod1/c1")
    machine.v1("kubepods/pod1/c1", "-1")
    machine.v1("kubepods/pod1", "400000")
    machine.v1("kubepods", "900000")
    machine.v1("", "-1")
    assert machine.procs() == 4


def test_v1_container_sees_its_cgroup_at_the_mount_point(machine: Machine) -> None:
    machine.mounts(V1.replace(" / /sys", " /docker/0123 /sys"))
    machine.cgroups("3:cpu,cpuacct:/docker/0123")
    machine.v1("", "300000")
    assert machine.procs() == 3


def test_v1_other_controllers_do_not_count(machine: Machine) -> None:
    machine.mounts(V1.replace("rw,cpu,cpuacct", "rw,cpuset,cpuacct"))
    machine.cgroups("3:cpuset:/app", "4:cpuacct:/app")
    machine.v1("app", "100000")
    assert machine.procs() == AFFINITY
    machine.mounts(V1)
    assert machine.procs() == AFFINITY


@pytest.mark.parametrize(("v1", "v2", "procs"), [("300000", "max 100000", 3), ("-1", "2 1", 2)])
def test_both_versions(machine: Machine, v1: str, v2: str, procs: int) -> None:
    machine.mounts(V1, V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))
    machine.cgroups("3:cpu,cpuacct:/app", "0::/init.scope")
    machine.v1("app", v1)
    machine.v2("unified/init.scope", v2)
    assert machine.procs() == procs


# --- nonsense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "max", "100000", "max max", "-1 100000", "0 100000", "100000 0", "1e3 1"),
        *("2 1 1", "100000 -1", "\u0661 1", "1_0 10", "x y", "9" * 5000 + " 1", "0x1 1"),
        *(b"\x00\xff 1", b"\xff\xff"),
    ],
)
def test_garbled_quota_is_ignored(machine: Machine, text: str | bytes) -> None:
    machine.cgroups("0::/a/b")
    machine.v2("a/b", text)
    assert machine.procs() == AFFINITY
    machine.v2("a", "200000 100000\n")
    assert machine.procs() == 2


@pytest.mark.parametrize("name", ["cpu.cfs_quota_us", "cpu.cfs_period_us"])
@pytest.mark.parametrize("text", [None, "", "x", "0", "1 1", "-5"])
def test_garbled_v1_quota_is_ignored(machine: Machine, name: str, text: str | None) -> None:
    machine.mounts(V1)
    machine.cgroups("3:cpu,cpuacct:/app")
    machine.v1("app", "200000")
    path = machine.root / "sys/fs/cgroup/cpu,cpuacct/app" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert machine.procs() == AFFINITY


def test_missing_and_unreadable_files_are_ignored(machine: Machine) -> None:
    machine.cgroups("0::/app")
    assert machine.procs() == AFFINITY
    (machine.root / "sys/fs/cgroup/app/cpu.max").mkdir(parents=True)
    assert machine.procs() == AFFINITY
    (machine.root / "proc/self/mountinfo").unlink()
    assert machine.procs() == AFFINITY


@pytest.mark.parametrize(
    "line",
    ["", "0", "0:", "0:/app", "0::", "0::app", "::/app", ":cpu", "0::/a\x00b", "0::/" + "a" * 9000],
)
def test_garbled_cgroup_lines_are_skipped(machine: Machine, line: str) -> None:
    machine.v2("app", "200000 100000\n")
    machine.cgroups(line)
    assert machine.procs() == AFFINITY
    machine.cgroups(line, "0::/app", line)
    assert machine.procs() == 2


@pytest.mark.parametrize(
    "line",
    [
        *("", " - ", "x " * 99, " - cgroup2 cgroup2 rw", "31 23 0:28 / - cgroup2 cgroup2 rw"),
        *("1 2 3 4 5 6 - cgroup2", V2.replace(" - ", " "), V2.partition(" - ")[2]),
        V2.replace("/sys", "/\x00"),
    ],
)
def test_garbled_mounts_are_skipped(machine: Machine, line: str) -> None:
    machine.v2("app", "200000 100000\n")
    machine.cgroups("0::/app")
    machine.mounts(line)
    assert machine.procs() == AFFINITY
    machine.mounts(line, V2, line)
    assert machine.procs() == 2


words = st.sampled_from(
    [
        *("0", "1", "-1", "3", "cpu", "max", "cgroup", "cgroup2", "/", "/app", "/..", ".."),
        *("rw", "/sys/fs", " ", "  ", " - ", ":", "::", ",", "\n", "\\040", "\\", "\x00", "\udcff"),
        "100000",
    ]
)
garbage = st.lists(words, max_size=30).map("".join)


@given(cgroup=garbage, mounts=garbage, quota=garbage)
def test_any_text_gives_a_number(
    tmp_path_factory: pytest.TempPathFactory, cgroup: str, mounts: str, quota: str
) -> None:
    root = tmp_path_factory.mktemp("root")
    for path, text in {
        "proc/self/cgroup": f"{cgroup}\n0::/app\n3:cpu:/app\n",
        "proc/self/mountinfo": f"{mounts}\n{V2}\n{V1}\n",
        "sys/fs/cgroup/app/cpu.max": quota,
        "sys/fs/cgroup/cpu.max": "300000 100000",
        "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000",
    }.items():
        write(root / path, text.encode(errors="surrogateescape"))
    assert 1 <= default_procs(root) <= 3


@given(quotas=st.lists(st.none() | st.integers(1, 10**8), min_size=1, max_size=6))
def test_quota_is_the_least_of_all(
    tmp_path_factory: pytest.TempPathFactory, quotas: list[int | None]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("root"))
    names = [f"level{i}" for i in range(len(quotas))]
    machine.cgroups("0::/" + "/".join(names))
    for i, quota in enumerate(quotas):
        machine.v2("/".join(names[: i + 1]), f"{'max' if quota is None else quota} 100000\n")
    limits = [(quota + 99_999) // 100_000 for quota in quotas if quota is not None]
    assert machine.procs() == min([AFFINITY, *limits])


# --- GOMAXPROCS -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "procs"), [("1", 1), ("4", 4), (" 8\n", 8), ("007", 7), ("256", 256)]
)
def test_gomaxprocs_number(text: str, procs: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert procs_from_env({"GOMAXPROCS": text}) == procs
    assert capsys.readouterr().err == ""


def test_gomaxprocs_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert procs_from_env({}) is None
    assert procs_from_env({"GOMAXPROCS": ""}) is None
    assert procs_from_env({"GOMAXPROCS": "  "}) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text", ["0", "-1", "+1", "2.0", "two", "1 2", "0x2", "1_0", "\u0664", "²", "\udcff", "1\n2"]
)
def test_gomaxprocs_that_is_no_number_is_told(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert procs_from_env({"GOMAXPROCS": text}) is None
    assert capsys.readouterr().err == (
        f"runtime: GOMAXPROCS={text!r} is not a whole number from 1 to 256: using the default\n"
    )


@pytest.mark.parametrize("text", ["257", "1000", "0" * 50 + "300", "9" * 10000])
def test_gomaxprocs_that_is_too_large_is_told(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert procs_from_env({"GOMAXPROCS": text}) == MAX_PROCS == 256
    err = capsys.readouterr().err
    assert err.startswith(f"runtime: GOMAXPROCS='{text[:40]}")
    assert err.endswith(" is more than 256: using 256\n")
    assert len(err) < 120


@given(st.text())
def test_gomaxprocs_any_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as m:
        m.setattr(sys, "stderr", None)
        procs = procs_from_env({"GOMAXPROCS": text})
    assert procs is None or 1 <= procs <= 256

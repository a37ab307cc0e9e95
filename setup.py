"""Build of the C core; everything that is not about compiling is in pyproject.toml.

    python setup.py preflight            is this machine able to build? one line if not
    python setup.py requirements NAME... print requirements: "build", "run" or the name of an extra

These two run on a bare Python, without setuptools; the Makefile uses them.

Environment:
    GOSCHED_WERROR=1                     compiler warnings are errors
    GOSCHED_SANITIZE=address,undefined   build with these sanitizers (make asan)
    GOSCHED_NETPOLL=kqueue               poll with kqueue, on Linux its stand-in (make test-kqueue)
"""

import glob
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig


def find_compiler():
    """The compiler command as a list, or None.

    CC wins; otherwise the compiler that built this Python, and where that one is not installed
    (Pythons built elsewhere) any usual one, which is then put into CC for setuptools to see.
    """
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC")):
        if command and shutil.which(shlex.split(command)[0]):
            return shlex.split(command)
        if command and command == os.environ.get("CC"):
            return None
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            os.environ["CC"] = name
            return [name]
    return None


def missing_for_build():
    """What keeps this machine from building the core, as one line; None if nothing does."""
    if sys.version_info < (3, 11):
        return f"gosched: Python 3.11 or newer is needed, this is {sys.version.split()[0]}"
    cc = find_compiler()
    if cc is None:
        return 'gosched: no C compiler found: install one, e.g. "apt-get install gcc libc6-dev"'
    paths = sysconfig.get_paths()
    dirs = [paths["include"], paths["platinclude"]]
    if not any(os.path.exists(os.path.join(d, "Python.h")) for d in dirs):
        return 'gosched: Python.h not found: install it, e.g. "apt-get install python3-dev"'
    probe = subprocess.run(
        [*cc, *("-I" + d for d in dirs), "-E", "-x", "c", "-"],
        input=b"#include <Python.h>\n",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if probe.returncode:
        return 'gosched: no C library headers found: install them, e.g. "apt-get install libc6-dev"'
    return None


def missing_for_venv():
    """What keeps this Python from creating a virtual environment, as one line, or None."""
    try:
        import ensurepip
        import venv  # noqa: F401

        ensurepip.version()
    except (ImportError, AttributeError, OSError):
        return 'gosched: no venv module found: install it, e.g. "apt-get install python3-venv"'
    return None


def requirements(names):
    import tomllib

    with open("pyproject.toml", "rb") as f:
        meta = tomllib.load(f)
    groups = {
        "build": meta["build-system"]["requires"],
        "run": meta["project"]["dependencies"],
        **meta["project"]["optional-dependencies"],
    }
    return [requirement for name in names for requirement in groups[name]]


if sys.argv[1:] == ["preflight"]:
    sys.exit(missing_for_build() or missing_for_venv())
if sys.argv[1:2] == ["requirements"]:
    print("\n".join(requirements(sys.argv[2:])))
    sys.exit()

import greenlet
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("GOSCHED_SANITIZE", "")
HEADERS = sorted(glob.glob("csrc/*.h"))
NETPOLL_SOURCES = sorted(glob.glob("csrc/rt_netpoll_*.c"))

# The rt_ files do not include Python.h, which would ask for the system's whole API.
CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
LDFLAGS = []
if os.environ.get("GOSCHED_WERROR") == "1":
    CFLAGS.append("-Werror")
if SANITIZE:
    CFLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-UNDEBUG"]
    CFLAGS.append("-fsanitize=" + SANITIZE)
    LDFLAGS.append("-fsanitize=" + SANITIZE)


class BuildCore(build_ext):
    """build_ext that can explain what is missing and leaves the modules importable in place."""

    def build_extensions(self):
        for ext in self.extensions:
            ext.extra_compile_args = [*CFLAGS, *(ext.extra_compile_args or [])]
            ext.extra_link_args = [*LDFLAGS, *(ext.extra_link_args or [])]
            if "address" in SANITIZE and self.is_gcc():
                # Greenlet copies whole slices of the C stack; red zones between the variables on
                # it would all be reported.
                ext.extra_compile_args.append("--param=asan-stack=0")
            if ext.name == "runtime._netpoll":
                self.prepare_netpoll(ext)
        super().build_extensions()

    def run(self):
        problem = missing_for_build()
        if problem:
            sys.exit(problem)
        super().run()
        if not (self.inplace or SANITIZE or os.environ.get("GOSCHED_NETPOLL")):
            self.copy_extensions_to_source()

    def prepare_netpoll(self, ext):
        # No stable ABI: its one file name (.abi3.so) would be shared by all the Pythons that are
        # tried from one checkout, and free-threaded ones cannot load it.
        ext.py_limited_api = False
        # Once, and empty: so it is in the source that cffi 2 writes for free-threaded Pythons.
        macros = [macro for macro in ext.define_macros if macro[0] != "_CFFI_NO_LIMITED_API"]
        ext.define_macros = [*macros, ("_CFFI_NO_LIMITED_API", "")]
        ext.depends = sorted({*ext.depends, *HEADERS, *NETPOLL_SOURCES, "csrc/netpoll_ffi.py"})

    def is_gcc(self):
        version = subprocess.check_output([self.compiler.compiler_so[0], "--version"])
        return b"Free Software Foundation" in version


core = Extension(
    "runtime._core",
    sources=sorted({*glob.glob("csrc/py_*.c"), *glob.glob("csrc/rt_*.c")} - {*NETPOLL_SOURCES}),
    include_dirs=["csrc", os.path.dirname(greenlet.__file__)],
    depends=[*HEADERS, *NETPOLL_SOURCES, "csrc/netpoll_ffi.py"],  # all of it goes into the sdist
)

setup(
    ext_modules=[core],
    cffi_modules=["csrc/netpoll_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildCore},
)

# The whole workflow; `make help` lists the targets.
#
#   PYTHON=...  the interpreter to work with   VENV=...  where its virtual environment goes
#   ARGS=...    passed on to pytest (make test), the demo (make run) or the benchmarks
#   JOBS=...    how many processes run the tests; each runs the tests of one file at a time
#
# Stamp files in $(VENV) make every target incremental; `make clean` removes them and all builds.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 2
FUZZ_SECONDS ?= 600
SOAK_SECONDS ?= 3600
SANITIZE_CC ?= gcc
FUZZ_CC ?= clang
# A free-threaded interpreter for `make test-ft`; looked for only when that target runs.
FT_BUILDER = ../shared/tools/build-python-ft
FT_PYTHON ?= $(shell if [ -x $(FT_BUILDER) ]; then $(FT_BUILDER); \
	else command -v python3.14t || command -v python3.13t; fi)

PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check --quiet
PYTEST = $(PY) -m pytest -q -n $(JOBS) --dist loadfile
KQUEUE_TESTS = tests/net tests/http/test_server_life.py tests/sched/test_signals.py \
	tests/sched/test_fork.py tests/sched/test_deadlock.py
CORE_SOURCES = $(wildcard csrc/*.c csrc/*.h csrc/*.py)
# requirements NAME...: quoted requirements out of pyproject.toml
requirements = $(PY) setup.py requirements $(1) >$(VENV)/requirements.txt \
	&& $(PIP) install -r $(VENV)/requirements.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run develop build test test-c test-ft test-kqueue asan tsan fuzz lint types bench docs clean soak

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# --- environment and build ----------------------------------------------------------------

$(VENV)/.stamp-venv:
	@$(PYTHON) setup.py preflight
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(INHERIT),$(INHERIT) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/inherited.pth)
	@touch $@

$(VENV)/.stamp-deps: $(VENV)/.stamp-venv pyproject.toml
	@echo "installing what the build needs"
	@$(call requirements,build run)
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-deps pyproject.toml .ci/tools
	@.ci/tools
	@echo "installing what the tests need"
	@$(call requirements,test)
	@for package in pycares brotli zstandard cryptography; do \
		$(PIP) install --only-binary :all: $$package 2>/dev/null || echo "no $$package for this Python"; done
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-deps pyproject.toml
	@echo "installing the linters"
	@$(call requirements,dev)
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-deps pyproject.toml
	@$(call requirements,docs)
	@touch $@

# The modules land beside the Python sources, so the checkout itself can be imported.
$(VENV)/.stamp-build: $(VENV)/.stamp-deps setup.py pyproject.toml $(CORE_SOURCES)
	@echo "building the core"
	@$(PY) setup.py -q build_ext --inplace --build-temp build/$(notdir $(VENV))
	@touch $@

# Makes `import runtime` work from any directory in $(VENV).
$(VENV)/.stamp-editable: $(VENV)/.stamp-build setup.py pyproject.toml
	@[ -f $@ ] && [ ! setup.py -nt $@ ] && [ ! pyproject.toml -nt $@ ] || \
		$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

build: $(VENV)/.stamp-editable ## build the core in place
develop: build $(VENV)/.stamp-test $(VENV)/.stamp-dev ## all that working on the project needs

run: build ## build, then start the demo server
	@$(PY) examples/demo.py $(ARGS)

# --- tests ----------------------------------------------------------------------------------

test: build $(VENV)/.stamp-test ## the whole test suite
	$(PYTEST) $(ARGS)

test-c: ## only the C tests of the core: ASan + UBSan, TSan, and the model of its wake-ups
	@$(MAKE) --no-print-directory -C tests/c asan tsan model

tsan: ## only the multi-threaded C tests, under ThreadSanitizer
	@$(MAKE) --no-print-directory -C tests/c tsan

# PYTHON_GIL=0: before 3.14 greenlet and cffi do not say that they need no GIL.
test-ft: ## the suite on a free-threaded build of Python, without the GIL (FT_PYTHON=...)
	@python="$(FT_PYTHON)"; [ -n "$$python" ] \
		|| { echo "gosched: no free-threaded Python found: set FT_PYTHON"; exit 1; }; \
	PYTHON_GIL=0 $(MAKE) test VENV=.venv-ft PYTHON="$$python" INHERIT="$$python"

# The stand-in for kqueue is in tests/kqueue.
test-kqueue: $(VENV)/.stamp-test build ## the tests that sleep in the poller on a core that polls with kqueue
	@rm -rf build/kqueue
	@GOSCHED_NETPOLL=kqueue $(PY) setup.py -q build --build-base build/kqueue-work \
		--build-lib build/kqueue
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/kqueue GOSCHED_NETPOLL=kqueue \
		$(PYTEST) $(or $(ARGS),$(KQUEUE_TESTS))

# Greenlet throws C++ exceptions and swaps stacks: libstdc++ must be there before ASan's
# interceptors look for it, and fake stacks (use-after-return) must be off.  ASan does not take
# its allocator's locks at a fork, so a child may wait for one for ever: tests that fork are left out.
# It has taken its address space beforehand, so a limit of that means nothing, and does not start under
# libfaketime.
asan: $(VENV)/.stamp-test build ## the Python tests on a core built with ASan + UBSan
	@rm -rf build/asan
	@CC=$(SANITIZE_CC) GOSCHED_SANITIZE=address,undefined $(PY) setup.py -q build \
		--build-base build/asan-work --build-lib build/asan
	LD_PRELOAD="$(foreach lib,asan stdc++,$$($(SANITIZE_CC) -print-file-name=lib$(lib).so))" \
	ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=64 \
	UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONMALLOC=malloc PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/asan \
		$(PYTEST) --ignore=tests/test_c.py -k 'not fork and not server_out_of_memory and not wall_clock' $(ARGS)

# rt_runq.c has rt_throw().
fuzz: ## fuzz the HTTP/1 parser for FUZZ_SECONDS
	@FUZZ_CC="$(FUZZ_CC)" .ci/tools fuzz
	@mkdir -p build/fuzz/corpus
	$(FUZZ_CC) -std=c11 -D_GNU_SOURCE -g -O1 -Icsrc -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=undefined \
		-o build/fuzz/http1 tests/c/fuzz_http1.c $(wildcard csrc/rt_http1*.c) csrc/rt_runq.c
	build/fuzz/http1 -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
		-artifact_prefix=build/fuzz/ build/fuzz/corpus $(wildcard tests/corpus/http1)

soak: $(VENV)/.stamp-test build ## the tests marked soak, for SOAK_SECONDS each
	GOSCHED_SOAK_SECONDS=$(SOAK_SECONDS) $(PYTEST) -o faulthandler_timeout=0 -m soak $(ARGS)

# --- checks, benchmarks, documentation -----------------------------------------------------

lint: $(VENV)/.stamp-dev ## ruff
	$(PY) -m ruff check .

types: $(VENV)/.stamp-dev build ## mypy --strict on the public API, stubtest on the C core's stubs
	$(PY) -m mypy -p runtime
	$(PY) -m mypy.stubtest runtime._core

bench: ## benchmarks against their peers (in .venv-bench)
	@$(MAKE) build VENV=.venv-bench
	.venv-bench/bin/python benchmarks/peers/build.py --install
	.venv-bench/bin/python benchmarks/http_hello.py $(ARGS)
	.venv-bench/bin/python benchmarks/http_table.py $(ARGS)
	.venv-bench/bin/python benchmarks/http_overload.py
	.venv-bench/bin/python benchmarks/http_files.py $(ARGS)
	.venv-bench/bin/python benchmarks/mux.py $(ARGS)
	.venv-bench/bin/python benchmarks/middleware.py $(ARGS)
	.venv-bench/bin/python benchmarks/workers.py $(ARGS)
	.venv-bench/bin/python benchmarks/live_page.py
	.venv-bench/bin/python benchmarks/net_echo.py $(ARGS)
	.venv-bench/bin/python benchmarks/net_stream.py $(ARGS)
	.venv-bench/bin/python benchmarks/net_churn.py $(ARGS)
	.venv-bench/bin/python benchmarks/net_idle.py $(ARGS)
	.venv-bench/bin/python benchmarks/sched.py $(ARGS)

docs: $(VENV)/.stamp-docs ## HTML documentation in build/docs; broken links are errors
	$(PY) -m sphinx -q -W --keep-going docs build/docs
	@echo "build/docs/index.html"

clean: ## remove everything that was built (virtual environments stay)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f runtime/*.so .venv*/.stamp-build .venv*/.stamp-editable $(VENV)/.stamp-build \
		$(VENV)/.stamp-editable
	find runtime net http tests examples benchmarks .ci -name __pycache__ -prune -exec rm -rf {} +

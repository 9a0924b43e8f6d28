# What a stranger types. Each target sets up what it needs: only git and make are taken for granted.
#
#   make demo         the whole line end to end on this machine, without torch (about two minutes)
#   make demo-learn-good   learns from good parts and inspects others, with heat maps in a page; your own: GOOD=, NEW=
#   make demo-federated    five plants train a detector together; one is killed, and a curious hub sees masked numbers only
#   make demo-screen  operator screen and fleet dashboard in a browser, on simulated parts, until Ctrl-C
#   make test         all tests against real peers
#   make test-ci      the same; a test that fails runs once more, alone, and is flaky if it then passes (docs/figures/ci.md)
#   make check        format, lint, types, import rules and cycles, rendered pages, the site, and a smoke run of every benchmark
#   make bench        benchmarks, JSON under benchmarks/results/
#   make figures      render the tables of figures in README.md, docs/ and the model cards from that JSON
#   make docs         render the reference from the code, and build the site of docs/ into site/
#   make bench-training  training on several workers: bytes, waiting, prediction, deaths (an hour; root for the wire), accuracy (an hour)
#   make test-system  whole journeys and faults that take longer than CI has, one file after the other, logged in tests/system/log.json (FILES="test_board test_pnnx")
#   make test-gpu     every path that an NVIDIA GPU enables, at most 20 minutes; without a GPU each step says so
#   make soak         the agent at full speed for two hours (MINUTES=120), memory and file handles watched from outside
#   make fuzz         coverage-guided fuzzing of every topic's payload, an hour (SECONDS=3600)
#   make setup        the development environment in .venv
#   make proto        compile the inference protocol's messages again, after a change of the .proto

VENV := .venv
BIN := $(VENV)/bin
# The host side needs Python 3.11 to 3.13; the device side runs on 3.10 as well.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	then echo $$p; break; fi; done)
SUDO := $(shell if [ "$$(id -u)" = 0 ]; then echo env; else command -v sudo; fi)
# pip compiles 18,000 files on one core, about 50 s; compileall uses all, and leaves out the packages' own tests and what nothing here imports. Files that are no Python 3 are templates.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|_inductor|_vendor|benchmarks|checkpoint|combinatorics|elastic|networkx|nncf|omegaconf|pennylane|pipelining|pydantic|pymdownx|ray/data|scipy|sparse|stats|torchgen|rllib|sklearn|pandas|mypyc?|pip|physics|lexers|serve|orm|signal|transformers|uniprops|setuptools|autoscaler|tune|llm|dashboard|async_api|narwhals|labs|distutils|autolev|av|backbones|cffi|cli|hipify|inference|latex|material|mssql|mysql|oracle|portalocker|pycparser|rapidocr|sandbox|shapely|typer|visualization)/' $(VENV)/lib || true
OUT ?= demo-out
# Two workers kept two cores half busy: tests wait for processes, brokers and timers.
WORKERS ?= 4

# Hundreds of processes that the tests start would compile our modules anew: 0.15 s for each agent.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo demo-learn-good demo-federated demo-screen test test-ci check static types smoke bench bench-training docs figures test-system test-gpu soak fuzz proto peers clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/.base:
	@tests/peers/install.sh python
	@test -n "$(PYTHON)" || { echo "lineside needs Python 3.11 to 3.13 on the host side; none was found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The demo's environment: the device and [convert], no torch. A full development environment serves as well.
$(VENV)/.convert: pyproject.toml | $(VENV)/.base
	@echo "setting up $(VENV) with lineside[convert]: numpy, onnxruntime, OpenCV, onnx, ... (no torch)" >&2
	$(BIN)/python tests/ci/install.py --editable '.[convert]'
	$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.base
	@echo "setting up $(VENV) with lineside[dev]: everything, with torch; this is the long one" >&2
	$(BIN)/python tests/ci/install.py --editable '.[dev]'
	$(COMPILE)
	@touch $(VENV)/.convert $(VENV)/.screen $(VENV)/.train $@

setup: $(VENV)/.dev peers

# Debian packages of the real peers: installed where root or sudo is there, said where not.
peers:
	@tests/peers/install.sh peers

demo: $(VENV)/.convert
	$(BIN)/lineside demo --out $(OUT)

$(VENV)/.screen: pyproject.toml | $(VENV)/.convert
	$(PIP) --editable '.[convert,screen,web]'
	@touch $@

demo-screen: $(VENV)/.screen
	$(BIN)/lineside demo --screen --out $(OUT)-screen

LEARNED := $(OUT)-learn-good
# Without GOOD and NEW, frames of the line simulator.
demo-learn-good: $(VENV)/.convert
ifeq ($(GOOD)$(NEW),)
	$(BIN)/python -m lineside.demo.strip_frames $(LEARNED)
endif
	$(BIN)/lineside learn-good --source $(or $(GOOD),$(LEARNED)/good) --out $(LEARNED)/bundle --overwrite
	$(BIN)/lineside inspect $(or $(NEW),$(LEARNED)/new) --model $(LEARNED)/bundle --page $(LEARNED)/report.html
	@echo "the page: $(LEARNED)/report.html"

$(VENV)/.train: pyproject.toml | $(VENV)/.convert
	$(PIP) --editable '.[train]'
	@touch $@

demo-federated: $(VENV)/.train
	$(BIN)/python -m lineside.demo.federation $(OUT)-federated

# Threads of torch and of numpy's OpenBLAS spin while they wait for one that has no core: beside other tests, learning from
# good parts took 17 s of processor time instead of 2.
test test-ci: export OMP_WAIT_POLICY := PASSIVE
test test-ci: export OPENBLAS_NUM_THREADS := 1
# A training alone takes a fifteenth less processor time on one thread than on two.
test test-ci: export OMP_NUM_THREADS := 1
# Ray's workers have niceness 15 otherwise: beside other tests they got no core, and two of them trained for four minutes.
test test-ci: export RAY_worker_niceness := 0

TESTS := tests --ignore tests/system --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15

test: $(VENV)/.dev peers
	$(BIN)/python -m pytest $(TESTS)

test-ci: $(VENV)/.dev peers
	$(BIN)/python -m tests.ci.rerun $(TESTS)

# All at once: each has steps that use one core.
check: $(VENV)/.dev peers
	@$(MAKE) --no-print-directory --jobs 3 static types smoke

static: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.ci.import_cycles
	$(BIN)/python -m tests.ci.structure
	$(BIN)/python -m tests.system --check
	$(BIN)/python -m benchmarks.figures --check
	$(BIN)/python -m tests.docs --check
	$(SITE)

types: $(VENV)/.dev
	$(BIN)/mypy

smoke: $(VENV)/.dev peers
	$(BIN)/python -m benchmarks --smoke

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

bench-training: $(VENV)/.dev
	$(BIN)/python -m benchmarks training

figures: $(VENV)/.dev
	$(BIN)/python -m benchmarks.figures

test-system: $(VENV)/.dev peers
	$(BIN)/python -m tests.system $(FILES)

# The benchmark looks for a GPU first, and installs NVIDIA's packages (.venv-gpu, some GB) only where there is one.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m benchmarks gpu

soak: $(VENV)/.dev peers
	$(BIN)/python -m benchmarks soak --minutes $(or $(MINUTES),120)

fuzz: $(VENV)/.dev
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),3600)

SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs: $(VENV)/.dev
	$(BIN)/python -m tests.docs
	$(SITE)

PROTO := runtime/lineside_runtime/server/proto

proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc -I $(PROTO) --descriptor_set_out=$(PROTO)/open_inference.binpb open_inference.proto

clean:
	rm -rf $(VENV) .venv-gpu site demo-out demo-out-learn-good demo-out-federated demo-out-screen test-report .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# `make test` and `make demo` do their whole set-up themselves: all they need is
# Python 3.10 to 3.13, git, make and PyPI. PYTHON=... chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# atheris is not for every Python and machine: it has an environment of its own.
FUZZ := .venv-fuzz
FUZZ_SECONDS ?= 120
# Networks are slow where this runs first.
export UV_HTTP_TIMEOUT ?= 600
export PIP_DEFAULT_TIMEOUT ?= 120
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# TensorFlow's C++ side logs to stderr before anyone can ask it not to.
export TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_ENABLE_ONEDNN_OPTS ?= 0

.PHONY: help test torture lint demo bench bench-guard bench-scale fuzz golden completions reference clean

help:
	@echo 'make test         lint, types and the whole suite'
	@echo 'make torture      kills, failing disks and power cuts at every call (PYTEST="-k merge" for some)'
	@echo 'make demo         TensorFlow trains with increments; merge; training goes on'
	@echo 'make bench        everything that is measured, and the pages that quote it (BENCH="--gb 1.5" without the larger fulls)'
	@echo 'make bench-scale  time and memory against size, shards, tensors, increments: hours, 60 GB of disk, resumable'
	@echo 'make bench-guard  five minutes: fails where something became much slower or larger'
	@echo 'make fuzz         coverage-guided fuzzing of every reader, FUZZ_SECONDS=$(FUZZ_SECONDS) in all'
	@echo 'make lint         ruff and mypy alone'
	@echo 'make golden       write the golden bundles of tests/golden/tf anew'
	@echo 'make completions  write completions/ anew'
	@echo 'make reference    write docs/cli-reference.md anew'

$(READY): pyproject.toml
	@python=$$(./.ci/find-python $(PYTHON)) || exit 1; \
	echo "set-up: $(VENV) with $$python, once"; \
	test -x $(BIN)/python || $$python -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --retries 10 'uv>=0.7'
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
		--group dev --editable .
	@touch $@

test: lint
	$(BIN)/pytest -n 2 $(PYTEST)

torture: $(READY)
	$(BIN)/pytest -n 2 -m torture $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(READY)
	@$(BIN)/python -m demo.run $(DEMO)

bench: $(READY)
	@$(BIN)/python -m bench.run $(BENCH)
	@$(BIN)/python -m bench.reads --keep $(BENCH_READS)
	@$(BIN)/python -m bench.questions $(BENCH_READS)
	@$(BIN)/python -m bench.start $(BENCH_START)
	@$(BIN)/python -m bench.cron $(BENCH_CRON)
	@$(BIN)/python -m bench.training $(BENCH_TRAINING)
	@$(BIN)/python -m bench.pages --collect

bench-guard: $(READY)
	@$(BIN)/python -m bench.guard

bench-scale: $(READY)
	@$(BIN)/python -m bench.scale $(BENCH_SCALE)
	@$(BIN)/python -m bench.pages --collect

$(FUZZ)/.ready: pyproject.toml
	@python=$$(./.ci/find-python $(PYTHON)) || exit 1; \
	echo "set-up: $(FUZZ) with $$python, once"; \
	test -x $(FUZZ)/bin/python || $$python -m venv $(FUZZ)
	@$(FUZZ)/bin/python -m pip install --quiet --retries 10 'uv>=0.7'
	@$(FUZZ)/bin/uv pip install --quiet --compile-bytecode --python $(FUZZ)/bin/python \
		--group fuzz --editable '.[snappy]'
	@touch $@

fuzz: $(FUZZ)/.ready
	@$(FUZZ)/bin/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

golden: $(READY)
	$(BIN)/python tests/golden/make_tf.py
	$(or $(CKPTCTL_TF115_PYTHON),.venv-tf115/bin/python) tests/golden/make_tf.py

completions: $(READY)
	@mkdir -p completions
	$(BIN)/ckptctl completion bash > completions/ckptctl.bash
	$(BIN)/ckptctl completion zsh > completions/_ckptctl
	$(BIN)/ckptctl completion fish > completions/ckptctl.fish

reference: $(READY)
	$(BIN)/python -m ckptctl.commands.reference > docs/cli-reference.md

clean:
	rm -rf $(VENV) .venv-* build dist .mypy_cache .pytest_cache .ruff_cache

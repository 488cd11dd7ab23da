# HarmonicIO's commands. Each one sets up what it needs in a virtual environment of the project; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
LOCK    := requirements.lock
IMAGE_LOCK := deploy/docker/requirements.lock
STAMP   := $(VENV)/.installed
# Test processes that run at the same time.
JOBS    ?= 2
# Fast tests have their folders on a disk in memory, where there is one with 2 GB to spare: a store makes and flushes
# hundreds of them. Slow tests have real disks.
QUICK_DISK := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 2000000 { print "/dev/shm" }')

FAST_TESTS := $(wildcard tests/unit tests/property tests/contract tests/test_architecture.py)
# These share a Docker engine, so one process runs them.
CONTAINER_TESTS := $(wildcard tests/containers)
# These make machines of their own and install what is in the wheelhouse.
CLUSTER_TESTS := $(wildcard tests/cluster)
comma      := ,
SLOW_TESTS := $(filter-out $(FAST_TESTS) $(CONTAINER_TESTS) $(CLUSTER_TESTS),$(patsubst %/,%,$(wildcard tests/*/))) $(wildcard processing_engines)

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

# ── set-up ───────────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: install
install: $(STAMP) ## set up the virtual environment from the lock file

# Reinstalled only when the lock or the project's own metadata (scripts, entry points) has changed.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say which with PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

.PHONY: lock
lock: ## pin the newest allowed dependencies, with hashes, for every platform; and those of the images
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --extra all --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --upgrade --quiet -o $(LOCK)
	sed -E '/--hash/d; s/ *\\$$//' $(LOCK) > $(VENV)/constraints.txt
	$(BIN)/uv pip compile pyproject.toml deploy/docker/requirements.in --extra all -c $(VENV)/constraints.txt \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet -o $(IMAGE_LOCK)

# ── quality ──────────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: check
check: install ## format, lint, types, import contracts and fast tests, in under two minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(QUICK_DISK),PYTEST_DEBUG_TEMPROOT=$(QUICK_DISK)) $(BIN)/python -m pytest -n $(JOBS) -q \
		-o tmp_path_retention_policy=failed $(FAST_TESTS)

.PHONY: test
test: check perf-smoke wheelhouse compiled-test ## all that CI runs
	$(BIN)/python -m pytest -n $(JOBS) -q $(SLOW_TESTS)
	$(BIN)/python -m pytest -q $(CONTAINER_TESTS)
	$(BIN)/python -m pytest -q $(CLUSTER_TESTS)

# The hot path compiled, for this Python: a wheel, and an environment of its own, which takes all else from the usual one.
# Where it runs, sources of the folder that one stands in must not come first.
COMPILED_WHEEL := build/compiled
COMPILED_VENV  := .venv-compiled
COMPILED_BIN   := $(abspath $(COMPILED_VENV))/bin

$(COMPILED_WHEEL)/.made: hatch_build.py pyproject.toml README.md $(shell find harmonicio -type f -not -name '*.pyc') | $(STAMP)
	rm -rf $(COMPILED_WHEEL)
	COMPILED=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation . \
		-w $(COMPILED_WHEEL)
	touch $@

$(COMPILED_VENV)/.installed: $(COMPILED_WHEEL)/.made
	test -x $(COMPILED_BIN)/python || $(PYTHON) -m venv --without-pip $(COMPILED_VENV)
	$(BIN)/python -m pip --quiet --disable-pip-version-check --python $(COMPILED_BIN)/python install --no-deps \
		--force-reinstall $(COMPILED_WHEEL)/*.whl
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		echo "import site; site.addsitedir('$$($(BIN)/python -c "$$packages")')" \
			> "$$($(COMPILED_BIN)/python -c "$$packages")/usual.pth"
	touch $@

.PHONY: compiled
compiled: $(COMPILED_WHEEL)/.made ## make a wheel whose hot path is compiled, in build/compiled; needs a C compiler

.PHONY: compiled-test
compiled-test: $(COMPILED_VENV)/.installed ## the same tests with the hot path compiled: fast ones, simulation, connectors and engines
	$(if $(QUICK_DISK),PYTEST_DEBUG_TEMPROOT=$(QUICK_DISK)) PYTHONSAFEPATH=1 FORM=compiled $(COMPILED_BIN)/python \
		-m pytest -n $(JOBS) -q -o tmp_path_retention_policy=failed $(FAST_TESTS) tests/simulation \
		$(wildcard tests/integration/test_connector_*.py tests/integration/test_engine_*.py)

.PHONY: format
format: install ## put the code into the house's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# ── the long forms of tests ──────────────────────────────────────────────────────────────────────────────────────────

# Each prints what it counted; CI runs a short form of each.

.PHONY: simulate
simulate: install ## run simulated clusters under faults and audit them; RUNS=, PLANT=, LASTING=; SEED=number alone shows one run
	cd tests && PYTHONPATH=. $(abspath $(BIN))/python -m simulation.run --runs $(or $(RUNS),1) --seed $(or $(SEED),1) \
		--jobs $(JOBS) $(if $(PLANT),--plant $(PLANT)) $(if $(LASTING),--lasting "$(LASTING)")

.PHONY: chaos
chaos: install ## kill, freeze, cut off and starve a real cluster under load; MINUTES=10, SEED= of another day, or PLAN=file
	PYTHONPATH=tests $(BIN)/python -m chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
		$(if $(PLAN),--plan "$(PLAN)")

.PHONY: kill-master
kill-master: install ## 20 kills of a master with 1,000 messages of 2 MB in its backlog; KILL_SEED=number
	KILL_MASTER=full $(BIN)/python -m pytest -q -s tests/system/test_system_master_kills.py

.PHONY: fill-disk
fill-disk: install ## 400 MB sent to a master whose backlog has a disk of 200 MB
	FILL_DISK=full $(BIN)/python -m pytest -q -s tests/system/test_system_full_disk.py

.PHONY: store-faults
store-faults: install ## the backlog's store killed, refused and without power at every single call to its disk
	STORE_FAULTS=all $(BIN)/python -m pytest -n $(JOBS) -q tests/integration/test_backlog_disk_faults.py

.PHONY: outage
outage: install ## a master that is away for 10 s and comes back to 1,000 connectors, and 10,000 idle connections
	OUTAGE=full $(BIN)/python -m pytest -q -s tests/system/test_system_outage.py

.PHONY: cluster-test
cluster-test: install wheelhouse ## the playbook on three machines that it makes, the cluster hurt and upgraded; for root; CLUSTER_TEST=full, EARLIER=commit
	$(if $(CLUSTER_TEST),CLUSTER_TEST=$(CLUSTER_TEST)) $(if $(EARLIER),CLUSTER_EARLIER=$(EARLIER)) $(BIN)/python -m pytest -q -s $(CLUSTER_TESTS)

.PHONY: security-test
security-test: install wheelhouse ## what docs/security.md says, a line for each row; for root
	$(BIN)/python -m pytest -q --rows tests

# What audits has an environment of its own, so that what it needs meets nothing of ours.
AUDIT_VENV := .venv-audit
BOM        := build/harmonicio.cdx.json

$(AUDIT_VENV)/.installed: Makefile
	test -x $(AUDIT_VENV)/bin/python || $(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.10,<3" "cyclonedx-bom>=7.5,<8"
	touch $@

# Strict: a package that could not be looked up is a failure, not one without faults.
.PHONY: audit
audit: $(AUDIT_VENV)/.installed ## look for known faults of all that is pinned; needs the network, to pypi.org
	for lock in $(LOCK) $(IMAGE_LOCK); do $(AUDIT_VENV)/bin/pip-audit --strict --require-hashes --disable-pip -r $$lock; done

.PHONY: sbom
sbom: $(AUDIT_VENV)/.installed ## write what hosts and images install, with digests, into build/harmonicio.cdx.json (CycloneDX)
	mkdir -p $(dir $(BOM))
	$(AUDIT_VENV)/bin/cyclonedx-py requirements --output-reproducible --of JSON -o $(BOM) $(IMAGE_LOCK)

.PHONY: sizes
sizes: install ## messages of 2 and 4 GiB, and of a byte more and less
	SIZES=full $(BIN)/python -m pytest -q -rA --durations=0 tests/integration/test_connector_sizes.py

# What guides the fuzzer by coverage is needed by nobody else, and is installed by its first use.
.PHONY: fuzz
fuzz: install ## fuzz the data protocol: FRAMES=1000000, or MINUTES=10 guided by coverage; SEED=1 repeats a run of FRAMES
ifdef MINUTES
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[fuzz]'
	cd tests && $(abspath $(BIN))/python -m fuzzing.coverage_guided -max_total_time=$$(($(MINUTES) * 60))
else
	cd tests && $(abspath $(BIN))/python -m fuzzing.frames --frames $(or $(FRAMES),100000) --seed $(or $(SEED),1)
endif

.PHONY: fuzz-rest
fuzz-rest: install ## fuzz every route of the REST API for MINUTES=10, by its own document; SEED=1 says with which requests to begin
	cd tests && $(abspath $(BIN))/python -m fuzzing.rest --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

# ── measurements ─────────────────────────────────────────────────────────────────────────────────────────────────────

# Other systems have an environment of their own, so that what they need meets nothing of ours. RabbitMQ is found where the
# system has it: apt-get install rabbitmq-server. What is missing is told in the table. The hot path is compiled in that
# environment; FORM=interpreted measures the sources as they stand here.
PEERS      ?= usual
FORM       ?= compiled
PEERS_VENV := .venv-peers
MICRO      := -m micro $(BENCH) --peers $(PEERS) $(if $(SIZES),--sizes $(SIZES)) $(if $(PAIRS),--pairs $(PAIRS))

$(PEERS_VENV)/.installed-$(PEERS): $(COMPILED_WHEEL)/.made $(LOCK)
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps $(COMPILED_WHEEL)/*.whl
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		"$$(echo $(COMPILED_WHEEL)/*.whl)[cluster,peers$(if $(filter all,$(PEERS)),$(comma)peers-large)]"
	touch $@

.PHONY: perf
perf: $(PEERS_VENV)/.installed-$(PEERS) ## measure everything beside its limit, into perf/results; BENCH="p2p files", SIZES=1MB, PAIRS=3, PEERS=all, FORM=interpreted
	PYTHONSAFEPATH=1 PYTHONPATH=$(abspath perf)$(if $(filter interpreted,$(FORM)),:$(CURDIR)) $(PEERS_VENV)/bin/python $(MICRO) \
		--results perf/results

.PHONY: perf-smoke
perf-smoke: install ## every measurement, as short as can be: whether it runs
	PYTHONPATH=perf $(BIN)/python $(MICRO) --smoke

# ── to see it work ───────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: demo
demo: install $(if $(filter docker,$(RUNTIME)),images) ## stream micrographs through a local cluster and report; IMAGES=folder for your own, RUNTIME=docker
	$(BIN)/harmonicio demo $(if $(IMAGES),--images "$(IMAGES)") $(if $(RUNTIME),--runtime "$(RUNTIME)") \
		$(if $(OUTPUT),--output "$(OUTPUT)")

# ── container images ─────────────────────────────────────────────────────────────────────────────────────────────────

# What the images begin with: any image that has Python 3.11 and its module venv.
BASE_IMAGE ?= python:3.11-slim
CONTEXT    := build/images
IMAGE_PLATFORMS := $(foreach each,manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014,--platform $(each)_$(shell uname -m)) --platform any

# What the images install, for the Python in them, whatever Python runs here.
$(CONTEXT)/requirements.lock: $(IMAGE_LOCK) | $(STAMP)
	rm -rf $(CONTEXT)/wheels
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
		--python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none $(IMAGE_PLATFORMS) \
		-r $(IMAGE_LOCK) -d $(CONTEXT)/wheels
	cp $(IMAGE_LOCK) $@

# COMPILED=1: for hosts and images with the Python that runs here.
$(CONTEXT)/own/.made$(filter 1,$(COMPILED)): pyproject.toml hatch_build.py README.md $(shell find harmonicio -type f -not -name '*.pyc') | $(STAMP)
	rm -rf $(CONTEXT)/own
	COMPILED=$(filter 1,$(COMPILED)) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation . -w $(CONTEXT)/own
	touch $@

.PHONY: wheelhouse
wheelhouse: install $(CONTEXT)/requirements.lock $(CONTEXT)/own/.made$(filter 1,$(COMPILED)) ## fetch and build all that hosts install, for deploy/ansible; COMPILED=1

.PHONY: images
images: install $(CONTEXT)/requirements.lock $(CONTEXT)/own/.made$(filter 1,$(COMPILED)) ## build all container images; BASE_IMAGE=one with Python 3.11, COMPILED=1
	$(BIN)/python deploy/docker/build_images.py --from $(BASE_IMAGE) $(CONTEXT)

# ── tidying ──────────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: clean
clean: ## remove the virtual environment and everything that was built or cached
	rm -rf $(VENV) $(COMPILED_VENV) $(PEERS_VENV) $(AUDIT_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

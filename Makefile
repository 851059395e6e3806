# vlmtrace: `make all` takes the bundled model from images to its circuits, `make test` proves the parts.
# Nothing but Python 3.11 or newer (with venv) and GNU make is needed before; `make help` lists what there is.

# What a run is made of. Set them on the command line: make all TASKS="rendered_svo" SEED=1 RUN=other
MODEL    = tiny-blip
# Of a model on the hub: the branch, tag or commit that is used; empty: main.
REVISION =
TASKS    = rendered_states rendered_faces rendered_svo
# Where a dataset lies (for tasks that need one; a folder in it named as the task goes first); empty: data/raw/<task>.
ROOT     =
# For the task folder: the question, with {a} and {b} in place of the options.
QUESTION =
SAMPLES  =
SEED     = 0
RUN      = $(if $(filter tiny-blip,$(MODEL)),default,$(firstword $(subst @, ,$(notdir $(MODEL:/=)))))
# A run of another model that the report compares with; for tiny-llava, tiny-blip's is made where it is missing.
BESIDE   = $(if $(filter tiny-llava,$(MODEL)),default)
DEVICE   = cpu
# Stages that run side by side; one where a GPU would have to hold a model for each.
JOBS     = $(if $(filter cpu,$(DEVICE)),2,1)
# Of the app: the interface it listens on, its port (or the next that is free), light or dark.
HOST     = 127.0.0.1
PORT     = 8866
THEME    = light
# The Python that the environment in .venv is made with.
PYTHON3  = python3

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
.SUFFIXES:
# Values reach the recipes through the environment, so that no character in them can be misread by the shell.
export MODEL REVISION TASKS ROOT QUESTION SAMPLES SEED RUN DEVICE BESIDE HOST PORT THEME

# Side by side, stages share the cores: more threads than cores make small models many times slower.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=$(JOBS)
endif
THREADS   := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores > $(JOBS) ? cores / $(JOBS) : 1)))
all explore: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),$(THREADS))

INSTALLED := .venv/.installed
PYTHON    := .venv/bin/python
VLMTRACE  := $(PYTHON) -m vlmtrace
FOLDER    := data/runs/$(RUN)
REPORT    := $(FOLDER)/report/index.html

.PHONY: all explore test test-browser lint lab app model bench clean help check FORCE

all: $(REPORT)  ## the whole road for every task: tables, figures, executed notebooks, report
	@echo "$(if $(WORKED),Done,Nothing to do: run $(RUN) is up to date). Open $(REPORT) in a browser."

explore:  ## single images and open questions: causal tracing, the visual lens, the explorer (of both bundled models)

test: $(INSTALLED)  ## prove the parts
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n 2 --dist loadfile --ignore=tests/browser
	@echo "Skipped: tests/browser, which need chromium and minutes; make test-browser runs them."

test-browser: $(INSTALLED)  ## use the explorer in a browser as a person would (needs chromium; root gets it by apt)
	@command -v chromium chromium-browser > /dev/null || [[ $$(id -u) == 0 ]] || \
	    { echo "There is no chromium: install it (Debian: apt-get install chromium) and run make test-browser again." >&2; exit 1; }
	@command -v chromium chromium-browser > /dev/null || \
	    { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium > /dev/null; }
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q tests/browser

lint: $(INSTALLED)  ## style and types
	.venv/bin/ruff check .
	.venv/bin/mypy

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	.venv/bin/jupyter lab --notebook-dir=. notebooks

app: $(INSTALLED)  ## the explorer of notebook 09 as a page without cells, for this machine only (see HOST)
	@$(PYTHON) -m vlmtrace.explore.app --model "$$MODEL" --tasks "$$TASKS" --run "$$RUN" --seed "$$SEED" \
	    --device "$$DEVICE" --host "$$HOST" --port "$$PORT" --theme "$$THEME"

model: $(INSTALLED)  ## train the bundled models again from nothing (an hour each on two cores; overwrites data/models)
	$(PYTHON) -m vlmtrace.training tiny-blip
	$(PYTHON) -m vlmtrace.training tiny-llava

bench: .venv/.bench  ## how fast the exact sweep is, against hooks, the published procedure and two libraries
	$(PYTHON) -m vlmtrace.bench

.venv/.bench: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	@touch $@

clean:  ## remove the run RUN, the rendered images and caches; the models and the installation stay
	@[[ "$$RUN" =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$$ ]] || { echo "RUN=$$RUN is not the name of a run." >&2; exit 1; }
	rm -rf -- "data/runs/$$RUN" data/raw/rendered_* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@echo "make TARGET [NAME=VALUE ...]"
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
	@echo "Names of a run, with their values now:"
	@printf '  %-9s %s\n' MODEL "$$MODEL" REVISION "$${REVISION:-(main)}" TASKS "$$TASKS" \
	    ROOT "$${ROOT:-(data/raw/<task>)}" QUESTION "$${QUESTION:-(as in notebook 01)}" \
	    SAMPLES "$${SAMPLES:-(as in notebook 01)}" SEED "$$SEED" RUN "$$RUN" DEVICE "$$DEVICE" JOBS "$(JOBS)"

# Installation ---------------------------------------------------------------------------------------------------

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# Parameters -----------------------------------------------------------------------------------------------------
# One file a parameter and run. It is rewritten only when the value changes, so what depends on it is made again
# just then. A wrong name stops make before any of them is touched.

STAMPS := $(FOLDER)/.parameters
stamp   = $(addprefix $(STAMPS)/,$(1))

check: $(INSTALLED)
	@$(VLMTRACE) check --model "$$MODEL" --revision "$$REVISION" --tasks "$$TASKS" --root "$$ROOT" \
	    --question "$$QUESTION" --samples "$$SAMPLES" --seed "$$SEED" --run "$$RUN"

$(call stamp,MODEL REVISION TASKS ROOT QUESTION SAMPLES SEED): FORCE | check
	@mkdir -p "$(@D)"
	@[[ -f "$@" && "$$(cat "$@")" == "$$$(@F)" ]] || printf '%s\n' "$$$(@F)" > "$@"

FORCE:

# Stages ---------------------------------------------------------------------------------------------------------
# The tables are the targets. Each depends on the tables it is made from, the parameters it is made with, its
# notebook, and the modules of the package that decide about its numbers.

sources  = $(sort $(wildcard $(addprefix vlmtrace/,$(addsuffix .py,$(1)) $(addsuffix /*.py,$(1)) $(addsuffix /*/*.py,$(1)))))
WEIGHTS := $(wildcard data/models/$(MODEL)/*.safetensors data/models/$(MODEL)/*.json)
MODELS  := $(call sources,models tokens corruption metrics) $(WEIGHTS)
tables   = $(TASKS:%=$(FOLDER)/%/$(1).parquet)
# $(call run,NOTEBOOK,TASK option,further parameters)
run      = $(eval WORKED := yes)@$(VLMTRACE) run $(1) --run "$$RUN" $(2) \
           -p model="$$MODEL$${REVISION:+@$$REVISION}" -p seed="$$SEED" -p device="$$DEVICE" $(3)

$(call tables,pairs): $(FOLDER)/%/pairs.parquet: notebooks/01_preprocess.ipynb $(call sources,tasks evaluate) $(MODELS) \
        $(call stamp,MODEL REVISION SEED SAMPLES) $(if $(filter-out rendered_%,$(TASKS)),$(call stamp,ROOT QUESTION)) | check
	$(call run,$<,--task $*,-p samples="$$SAMPLES" $(if $(filter rendered_%,$*),,-p root="$$ROOT") \
	    $(if $(filter folder,$*),-p question="$$QUESTION"))

$(call tables,evaluated): $(FOLDER)/%/evaluated.parquet: notebooks/02_evaluate.ipynb $(FOLDER)/%/pairs.parquet \
        $(call sources,evaluate) $(MODELS) $(call stamp,MODEL REVISION SEED) | check
	$(call run,$<,--task $*)

$(call tables,selected): $(FOLDER)/%/selected.parquet: notebooks/03_select_samples.ipynb \
        $(FOLDER)/%/evaluated.parquet $(call sources,select) $(call stamp,MODEL REVISION SEED) | check
	$(call run,$<,--task $*)

$(call tables,module_patching): $(FOLDER)/%/module_patching.parquet: notebooks/04_module_patching.ipynb \
        $(FOLDER)/%/selected.parquet $(call sources,patching groups regions knockout) $(MODELS) $(call stamp,MODEL REVISION SEED) | check
	$(call run,$<,--task $*)

$(call tables,head_patching): $(FOLDER)/%/head_patching.parquet: notebooks/05_head_patching.ipynb \
        $(FOLDER)/%/selected.parquet $(call sources,patching groups regions) $(MODELS) $(call stamp,MODEL REVISION SEED) | check
	$(call run,$<,--task $*)

# One notebook writes both tables; make learns it from the grouped target (&:).
CIRCUITS := $(FOLDER)/heads.parquet $(FOLDER)/universal_heads.parquet
$(CIRCUITS) &: notebooks/06_circuit_analysis.ipynb $(call tables,selected) $(call tables,head_patching) \
        $(call sources,circuits verification stats attention patching groups regions select plots) $(MODELS) \
        $(call stamp,MODEL REVISION SEED TASKS) | check
	$(call run,$<,,-p tasks="$$TASKS")

# Explorers -------------------------------------------------------------------------------------------------------
# Beside the road: they need no other stage. The visual lens is for decoder-only models; those of your own that look at
# the image by cross-attention (BLIP) are told by their configuration or name. Without a MODEL of your own, both bundled
# models are explored, each in its run.

ASKS_BLIP := $(or $(filter tiny-blip,$(MODEL)),$(findstring blip-vqa,$(MODEL)),\
                  $(if $(wildcard $(MODEL)/config.json),$(shell grep -s '"BlipForQuestionAnswering"' '$(MODEL)/config.json')))
TRACED    := $(FOLDER)/causal_tracing.parquet
LENS      := $(FOLDER)/lens_contributions.parquet

$(TRACED): notebooks/07_causal_tracing.ipynb $(call sources,causal_tracing trace_summary noise patching groups regions stats tasks) $(MODELS) \
        $(call stamp,MODEL REVISION SEED) | check
	$(call run,$<,)

$(LENS): notebooks/08_visual_lens.ipynb $(call sources,lens lens_words grounding textual knockout groups regions stats tasks) $(MODELS) \
        $(call stamp,MODEL REVISION SEED) | check
	$(call run,$<,)

# Notebook 09 is for looking, and writes no table: what is made is the notebook with its example's pictures.
EXPLORED  := $(FOLDER)/notebooks/09_explorer.ipynb
$(EXPLORED): notebooks/09_explorer.ipynb $(call sources,explore intervention relevancy explanation hiding causal_graph \
        attention patching groups regions knockout stats tasks) $(wildcard vlmtrace/explore/static/*) $(MODELS) \
        $(call stamp,MODEL REVISION SEED TASKS) | check
	$(call run,$<,,-p tasks="$$TASKS")

explore: $(TRACED) $(if $(ASKS_BLIP),,$(LENS)) $(EXPLORED)
	@$(if $(WORKED),$(VLMTRACE) report --run "$$RUN" --beside "$$BESIDE")
	@echo "$(if $(WORKED),Done,Nothing to do: the explorers of run $(RUN) are up to date). Open $(REPORT) in a browser."
ifeq ($(MODEL),tiny-blip)
	@$(MAKE) --no-print-directory explore MODEL=tiny-llava RUN=$(if $(filter default,$(RUN)),tiny-llava,$(RUN)-llava)
endif

OTHER := $(if $(filter tiny-llava,$(MODEL)),$(if $(BESIDE),$(filter-out $(REPORT),data/runs/$(BESIDE)/report/index.html)))
$(REPORT): $(call tables,module_patching) $(CIRCUITS) $(call sources,report compare) $(wildcard vlmtrace/templates/*) \
        $(OTHER) | check
	$(eval WORKED := yes)@$(VLMTRACE) report --run "$$RUN" --beside "$$BESIDE"

ifneq ($(OTHER),)
$(OTHER): FORCE | check
	@$(MAKE) --no-print-directory all MODEL=tiny-blip RUN="$(BESIDE)" BESIDE=
endif

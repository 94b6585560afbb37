# make setup         install limelm and what runs and analyses need into .venv
# make demo          train four models on this Python's standard library and write demo/report.html
# make test          run all tests
# make lint          check style, format and types
# make docs          build the site: site/index.html; its tutorials run, for minutes the first time
# make package       build the source distribution and the wheel of what is committed into dist/, and check them
# make test-oldest   run the tests with the oldest supported transformers
# make test-newest   run the tests with the newest releases that pyproject.toml allows, from the package index each time
# make test-hf       run transformers' own common model tests on every model, beside Llama
# make chaos         kill a training a hundred times and compare its end with that of one left alone: half an hour
# make wrong-calls   make two thousand wrong calls upon broken files, each of which must end in one line: half an hour
# make clean         remove what these have made
#
# Experiments are in runs/: laptop.sh and gpu.sh.
#
# All first install what they need into .venv, at the exact versions of constraints.txt; later calls need no network, except
# for test-newest.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
# make test-newest: a version to hold back all the same, such as torch==2.13.0 where only that is at hand.
NEWEST_BUT ?=
DEMO := demo
SITE := site
CHAOS := .chaos
# Tests of one file stay together: some share what a file has made once.
IN_PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test lint docs package test-oldest test-newest test-hf chaos wrong-calls clean

setup: $(VENV)/.runs

demo: $(VENV)/.runs
	$(VENV)/bin/limelm demo --out $(DEMO)

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(IN_PARALLEL)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.installed
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going -b html -d .docs-cache/doctrees -c docs . $(SITE)

package: $(VENV)/.installed
	$(VENV)/bin/python -m dev.package

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest $(IN_PARALLEL)

# What the models stand on is at its newest; the tools around them stay as they are.
test-newest:
	$(check_python)
	test -d $(NEWEST) || $(PYTHON) -m venv $(NEWEST)
	grep -vE '^(torch|triton|transformers|huggingface_hub|tokenizers|safetensors|accelerate|peft|trl|numpy)==' constraints.txt \
		> $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --constraint $(NEWEST)/constraints.txt \
		--editable '.[dev]' $(NEWEST_BUT)
	$(NEWEST)/bin/python -m pytest $(IN_PARALLEL)

test-hf: $(VENV)/.installed
	$(VENV)/bin/python -m tests.hf --numprocesses auto --maxprocesses 8 --dist loadscope

chaos: $(VENV)/.installed
	rm -rf $(CHAOS)
	$(VENV)/bin/python -m tests.training.chaos --kills 100 --commands --out $(CHAOS)

wrong-calls: $(VENV)/.installed
	$(VENV)/bin/python -m tests.wrong_calls

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) dist .hf-tests .docs-cache jupyter_execute $(CHAOS) $(DEMO) $(SITE)

# What runs and analyses need, without the tools of tests and benchmarks.
$(VENV)/.runs: pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,analysis,.runs)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,dev,.installed)

$(OLDEST)/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	mkdir -p $(OLDEST)
	grep -vE '^(transformers|huggingface_hub)==' constraints.txt | cat - constraints-oldest.txt > $(OLDEST)/constraints.txt
	$(call install,$(OLDEST),$(OLDEST)/constraints.txt,dev,.installed)

check_python = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "limelm needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'

# $(call install,FOLDER,CONSTRAINTS,EXTRA,MARK). Python compiles a module when it is first imported; of the many that are
# installed most never are, and compiling all of them takes most of a minute.
define install
	$(check_python)
	@echo "Installing limelm[$(3)] and what it needs into $(1): about 3 GB, some minutes"
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --no-compile --constraint $(2) --editable '.[$(3)]'
	touch $(1)/$(4)
endef

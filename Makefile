# make demo          train four models on this Python's standard library and write demo/report.html
# make test          run all tests
# make lint          check style, format and types
# make test-oldest   run the tests with the oldest supported transformers
#
# Each sets up .venv first, with the exact versions of constraints.txt; later calls need no network.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
DEMO := demo

.PHONY: demo test lint test-oldest clean

demo: $(VENV)/.installed
	$(VENV)/bin/limelm reproduce --scale tiny --out $(DEMO)

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest

clean:
	rm -rf $(VENV) $(OLDEST) $(DEMO)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt)

$(OLDEST)/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	mkdir -p $(OLDEST)
	grep -vE '^(transformers|huggingface_hub)==' constraints.txt | cat - constraints-oldest.txt > $(OLDEST)/constraints.txt
	$(call install,$(OLDEST),$(OLDEST)/constraints.txt)

# $(call install,FOLDER,CONSTRAINTS)
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "limelm needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --constraint $(2) --editable '.[dev]'
	touch $(1)/.installed
endef

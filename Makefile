# make demo          train four models on this Python's standard library and write demo/report.html
# make seeds         train five models with five seeds each, and write seeds/report.html: which differ, and by how much
# make arithmetic    train four models with five seeds each to calculate, and write arithmetic/report.html
# make test          run all tests
# make lint          check style, format and types
# make test-oldest   run the tests with the oldest supported transformers
# make test-newest   run the tests with the newest releases that pyproject.toml allows, from the package index each time
# make test-hf       run transformers' own common model tests on every model, beside Llama
# make chaos         kill a training a hundred times and compare its end with that of one left alone: half an hour
# make wrong-calls   make two thousand wrong calls upon broken files, each of which must end in one line: half an hour
# make gpu           on a machine with a CUDA device: its tests, and the benchmarks of docs/performance.md, to results/gpu
# make gpu-small     on such a machine: the recipe small on GPU_DATA for nine minutes; started again, it goes on
# make gpu-synthetic on such a machine: 5 and 6 operands and ProsQA, three minutes each; started again, it goes on
# make gpu-attach    on such a machine: continued training of GPU_BASE on GPU_DATA with and without LIMe, and its cost
#
# All but gpu... first install what they need into .venv, at the exact versions of constraints.txt; later calls need no
# network, except for test-newest.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
# make test-newest: a version to hold back all the same, such as torch==2.13.0 where only that is at hand.
NEWEST_BUT ?=
DEMO := demo
SEEDS := seeds
ARITHMETIC := arithmetic
CHAOS := .chaos
# Tests of one file stay together: some share what a file has made once.
IN_PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile
# make gpu takes the Python that has the machine's CUDA build of PyTorch, and limelm from this folder.
GPU_PYTHON ?= python3
GPU_RESULTS ?= results/gpu
# make gpu-small: a folder made by `limelm data prepare`, the run's folder, and changes to the recipe.
GPU_DATA ?= tokens
GPU_RUN ?= .gpu-small
GPU_SMALL ?= --models all --steps 600
# make gpu-synthetic: the tasks, and changes to their recipes.
GPU_TASKS ?= arithmetic-5 arithmetic-6 prosqa
GPU_SYNTHETIC ?= --seeds 3
# make gpu-attach: a pretrained model, and data prepared with its tokenizer.
GPU_BASE ?= base
GPU_ATTACH_DATA ?= $(GPU_BASE)-tokens
GPU_ATTACH ?= --models base,full,kv-full,static-full --seeds 3 --steps 1000 --batch-size 16 --micro-batch-size 16 \
	--sequence-length 1024 --precision bf16 --eval-steps 1000 --save-steps 1000 --warmup-steps 50
GPU_DEEP = --preset deep --depths 64,128 --batch 4 --tokens 2048 --vocab 50257 --rounds 3
GPU_BENCH = $(GPU_PYTHON) -m limelm bench --device cuda --dtype bfloat16

.PHONY: demo seeds arithmetic test lint test-oldest test-newest test-hf chaos wrong-calls gpu gpu-small gpu-synthetic gpu-attach clean

demo: $(VENV)/.runs
	$(VENV)/bin/limelm reproduce --scale tiny --out $(DEMO)

seeds: $(VENV)/.runs
	$(VENV)/bin/limelm reproduce --scale tiny --out $(SEEDS) --seeds 5 --models llama,hc,static,dynamic,kv --eval-steps 20

arithmetic: $(VENV)/.runs
	$(VENV)/bin/limelm reproduce --scale synthetic-arithmetic-3 --out $(ARITHMETIC) --models llama,static,dynamic,kv
	$(VENV)/bin/limelm reproduce --scale synthetic-arithmetic-4 --out $(ARITHMETIC) --models llama,static,dynamic,kv

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(IN_PARALLEL)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

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

gpu:
	mkdir -p $(GPU_RESULTS)
	cd $(GPU_RESULTS) && rm -rf paper paper-triton deep deep-triton
	-timeout 150 env TRITON_INTERPRET=0 $(GPU_PYTHON) -m pytest tests/gpu tests/routing/triton > $(GPU_RESULTS)/tests.txt 2>&1; tail -n 15 $(GPU_RESULTS)/tests.txt
	-timeout 110 $(GPU_BENCH) --preset paper --tasks train,decode --rounds 5 --out $(GPU_RESULTS)/paper \
		--cases static,static-grouped,dynamic,dynamic-grouped,kv,kv-grouped,hc
	-timeout 60 $(GPU_BENCH) --preset paper --tasks train --rounds 5 --out $(GPU_RESULTS)/paper-triton \
		--cases static-triton,dynamic-triton,kv-triton
	-timeout 80 $(GPU_BENCH) $(GPU_DEEP) --out $(GPU_RESULTS)/deep --cases static,dynamic,kv,static-bounded
	-timeout 60 $(GPU_BENCH) $(GPU_DEEP) --out $(GPU_RESULTS)/deep-triton --cases static-triton,dynamic-triton,kv-triton

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) .hf-tests $(DEMO)

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

# $(call install,FOLDER,CONSTRAINTS,EXTRA,MARK)
define install
	$(check_python)
	@echo "Installing limelm[$(3)] and what it needs into $(1): about 3 GB, some minutes"
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --constraint $(2) --editable '.[$(3)]'
	touch $(1)/$(4)
endef

gpu-small:
	-timeout 540 $(GPU_PYTHON) -m limelm reproduce --scale small --data $(GPU_DATA) --out $(GPU_RUN) $(GPU_SMALL)
	mkdir -p $(GPU_RESULTS)/small
	-cp -r $(GPU_RUN)/summary.json $(GPU_RUN)/report.html $(GPU_RUN)/figures $(GPU_RESULTS)/small

gpu-synthetic:
	-for task in $(GPU_TASKS); do \
		timeout 180 $(GPU_PYTHON) -m limelm reproduce --scale synthetic-$$task --out .gpu-synthetic $(GPU_SYNTHETIC); \
	done
	mkdir -p $(GPU_RESULTS)/synthetic
	-cp -r .gpu-synthetic/report.html .gpu-synthetic/figures $(GPU_RESULTS)/synthetic

gpu-attach:
	mkdir -p $(GPU_RESULTS)
	cd $(GPU_RESULTS) && rm -rf attach-cost
	-timeout 120 $(GPU_BENCH) --attach $(GPU_BASE) --batch 8 --tokens 1024 --rounds 5 --out $(GPU_RESULTS)/attach-cost
	-timeout 540 $(GPU_PYTHON) -m limelm reproduce --scale attach --from $(GPU_BASE) --data $(GPU_ATTACH_DATA) \
		--out .gpu-attach $(GPU_ATTACH)
	mkdir -p $(GPU_RESULTS)/attach
	-cp -r .gpu-attach/adaptation.json .gpu-attach/report.html .gpu-attach/figures $(GPU_RESULTS)/attach

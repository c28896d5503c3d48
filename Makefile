# Every target sets itself up: the virtual environment, the locked packages, koasr itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench trust torture clean

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# A fresh output each time, so that there is something to watch; --max-reject-rate because
# 5 of the bundled recordings are broken on purpose.
demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/koasr transcribe examples/speech --output runs/demo --model examples/model --max-reject-rate 0.1
	$(BIN)/python examples/show.py runs/demo
	$(BIN)/koasr report runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python bench/bench.py $(ARGS)

trust: $(STAMP)
	$(BIN)/python bench/trust.py $(ARGS)

torture: $(STAMP)
	PYTHONPATH=tests $(BIN)/python bench/torture.py $(ARGS)

clean:
	rm -rf $(VENV) .swift .dagster runs/demo

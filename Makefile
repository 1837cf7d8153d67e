# Shortcuts for contributors. `make check` is what continuous integration runs.
VENV ?= $(or $(COFACTOR_VENV),.venv)
PYTHON := "$(VENV)/bin/python"
export OMP_NUM_THREADS ?= 1

.PHONY: check test slow lint format types layers clean

check: ## everything that has to pass
	./.ci/run

test: ## the quick suite; ARGS="-k macpf -x" goes to pytest
	./run.sh test $(ARGS)

slow: ## the tests that the quick suite leaves out
	./run.sh test -m slow $(ARGS)

lint: ## mistakes and style
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: ## what can be mended automatically
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

layers: ## who imports whom
	PYTHONPATH=src $(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()"

clean: ## caches; results and the environment stay
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

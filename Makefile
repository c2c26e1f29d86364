# Shortcuts. Each installs what is missing; see scripts/ for what they do.
SHELL := bash
.PHONY: setup test test-slow lint format quickstart clean

setup:
	bash setup.sh
test:
	bash scripts/test.sh
test-slow:
	bash scripts/test.sh slow
lint:
	source scripts/env.sh && "$$PYTHON" -m ruff check . && "$$PYTHON" -m ruff format --check . && "$$PYTHON" -m mypy && "$$PYTHON" -m vulture
format:
	source scripts/env.sh && "$$PYTHON" -m ruff check --fix . && "$$PYTHON" -m ruff format .
quickstart:
	bash scripts/quickstart.sh
clean: # caches only: environment, data and results stay
	rm -rf .pytest_cache .ruff_cache build ./*.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

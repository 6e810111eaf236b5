# `make demo` shows it on a pretend site, `make run` starts the daemon, `make test` and `make check`
# test it; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a Raspberry Pi the pins come with Debian's python3-rpi-lgpio, outside any venv.
SITE := $(shell $(PYTHON) -c "import RPi" 2>/dev/null && echo --system-site-packages)

.PHONY: run demo test check lint bench-edges bench-capture bench-demo bench-web bench-pages clean

run: $(VENV)/.installed
	$(BIN)/python main.py

# A whole pretend site; make demo ARGS='--data kept --demo-fault offline'
demo: $(VENV)/.installed
	$(BIN)/python main.py --demo $(ARGS)

test: $(VENV)/.installed-dev
	scripts/install_test_packages.sh
	$(BIN)/python -m pytest

check: lint test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-edges: $(VENV)/.installed-dev
	scripts/install_test_packages.sh
	$(BIN)/python -m bench.edges

bench-capture: $(VENV)/.installed-dev
	scripts/install_test_packages.sh
	$(BIN)/python -m bench.capture

bench-demo: $(VENV)/.installed-dev
	$(BIN)/python -m bench.demo

bench-web: $(VENV)/.installed-dev
	$(BIN)/python -m bench.web

bench-pages: $(VENV)/.installed-dev
	scripts/install_test_packages.sh
	$(BIN)/python -m bench.pages

# What must survive everything: torture-crash, torture-power, ... (see tests/torture/); each at most
# 20 minutes, taken up where it was interrupted.
torture-%: $(VENV)/.installed-dev
	scripts/install_test_packages.sh
	$(BIN)/python -m tests.torture.$*

clean:
	rm -rf $(VENV) tests/.cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(SITE) $(VENV) \
		|| { rm -rf $(VENV); echo "Install venv first: sudo apt install python3-venv"; exit 1; }

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.lock | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

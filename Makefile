# Every command of the book. `make` alone lists them; each one sets up what it needs.

# The interpreter that .venv is made with: `make book PYTHON=python3.12` picks another.
# HOST_TORCH=1 keeps the torch and triton (and their versions of the rest) that PYTHON already has.
# Both are remembered, so that the next `make test` does not set up again.
CHOICE := $(shell cat .venv/choice 2>/dev/null)
PYTHON ?= $(or $(firstword $(CHOICE)),python3)
HOST_TORCH ?= $(word 2,$(CHOICE))

RUN := .venv/bin/python
CONSTRAINTS := $(if $(HOST_TORCH),,--constraint constraints.txt)
# The set-up counts as done only when this file is there. Its name changes with all that it depends on.
KEY := $(shell { cat requirements.txt constraints.txt; echo '$(CURDIR) $(PYTHON) $(HOST_TORCH)'; } | cksum | cut -d' ' -f1)
READY := .venv/ready-$(KEY)

.PHONY: help book test lint serve record readme figures pins clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(READY)  ## execute the chapters and write the website to _build/html
	@# A build that failed or was cut short has read pages whose warnings would not come again.
	@if [ -e _build/unfinished ]; then rm -rf _build/.doctrees; fi
	@mkdir -p _build && touch _build/unfinished && rm -rf _build/html/reports
	@.venv/bin/jupyter-book build . -W --keep-going -n || { \
	  find _build/html/reports -name '*.log' 2>/dev/null | sed 's/^/Traceback of a failed cell: /' >&2; \
	  echo "The book was not built: mend the warnings and errors above, then run the same command again." >&2; \
	  exit 1; }
	@rm _build/unfinished
	@echo "The book is built: open _build/html/index.html, or run 'make serve'."

test: $(READY)  ## run every test
	@$(RUN) -m pytest -n 2

lint: $(READY)  ## check the code's style
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

serve: book  ## build the book and show it at http://localhost:8000
	@$(RUN) -m http.server --bind 127.0.0.1 --directory _build/html 8000

record: $(READY)  ## on a GPU: measure, and write results/<gpu>.json and the README's table
	@$(RUN) -m bench run
	@$(RUN) -m bench readme

readme: $(READY)  ## redraw the README's figure and table from results/
	@$(RUN) -m bench readme

figures: $(READY)  ## draw every record as PNG and SVG into results/figures
	@$(RUN) -m bench figures

pins:  ## for keepers: renew constraints.txt (Python 3.10 to 3.13 must be installed)
	@$(PYTHON) .ci/pins.py python3.10 python3.11 python3.12 python3.13

clean:  ## remove what these commands made
	@rm -rf _build .venv .pytest_cache .ruff_cache
	@find bench chapters kernels tests -name __pycache__ -prune -exec rm -rf {} +

$(READY):
	@$(PYTHON) -V >/dev/null 2>&1 || { \
	  echo "There is no '$(PYTHON)' here: install Python 3.10 or newer, or name one, as in 'make book PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1), and the book needs 3.10 or newer: name another, as in 'make book PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make a virtual environment: install its venv package (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Setting up .venv: once, a few minutes."
	@rm -rf .venv
	@$(PYTHON) -m venv $(if $(HOST_TORCH),--system-site-packages) .venv && \
	  .venv/bin/python -m pip --disable-pip-version-check install --requirement requirements.txt $(CONSTRAINTS) || { \
	  echo "The set-up did not finish (pip gives the reason above): check network and disk space, then run the same command again." >&2; exit 1; }
	@echo '$(PYTHON) $(HOST_TORCH)' > .venv/choice
	@touch $@

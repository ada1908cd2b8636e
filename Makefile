# Every command of the book. `make` alone lists them; each one sets up what it needs.

# The interpreter that .venv is made with: `make book PYTHON=python3.12` picks another.
# HOST_TORCH=1 keeps the torch and triton (and their versions of the rest) that PYTHON already has.
# Both are remembered, so that the next `make test` does not set up again.
CHOICE := $(shell cat .venv/choice 2>/dev/null)
PYTHON ?= $(or $(firstword $(CHOICE)),python3)
HOST_TORCH ?= $(word 2,$(CHOICE))
ifeq ($(strip $(PYTHON)),)
$(error PYTHON is empty: name an interpreter, as in 'make book PYTHON=python3.12', or leave PYTHON out)
endif
ifneq ($(filter-out 0 1,$(HOST_TORCH)),)
$(error HOST_TORCH is '$(HOST_TORCH)': type HOST_TORCH=1 to keep the torch of PYTHON, or HOST_TORCH=0 to install one)
endif
override HOST_TORCH := $(filter 1,$(HOST_TORCH))

RUN := .venv/bin/python
BASE ?= main
COLAB_IMAGE ?= us-docker.pkg.dev/colab-images/public/runtime:latest
TOOL := PYTHONPATH=chapters/_ext $(RUN) -m book_ext
SEE_HOST := import glob, site; open(glob.glob('.venv/lib/python*/site-packages')[0] + '/host.pth', 'w').write('\n'.join(site.getsitepackages()))
CONSTRAINTS := $(if $(HOST_TORCH),,--constraint constraints.txt)
# The set-up counts as done only when this file is there. Its name changes with all that it depends on.
KEY := $(shell { cat requirements.txt constraints.txt; echo '$(CURDIR) $(PYTHON) $(HOST_TORCH)'; } | cksum | cut -d' ' -f1)
READY := .venv/ready-$(KEY)

.PHONY: help doctor book serve test test-site test-notebooks offline pdf lint check-workflows execute record record-quality studies
.PHONY: readme figures regression colab wheelhouse fetch publish republish comment pins clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

doctor:  ## say what this machine can do, and what to do about what it lacks
	@$(PYTHON) .ci/doctor.py

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

test: $(READY)  ## run every test of the code and the texts
	@$(RUN) -m pytest -n 2

test-notebooks: book  ## run every notebook in an environment like Colab's
	@$(RUN) .ci/notebooks.py

test-site: book  ## open every page of the website in a headless Chromium, and check it
	@$(TOOL).browser >/dev/null
	@$(RUN) -m pytest tests/site -n 2 --ignore tests/site/test_light.py
	@$(RUN) -m pytest tests/site/test_light.py  # timed, and so alone

offline: book  ## write the website as a zip that opens without a server to _build
	@$(TOOL).offline

pdf: book  ## print the whole book with Chromium to one PDF in _build
	@$(TOOL).pdf

lint: $(READY)  ## check the code's style
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

check-workflows: $(READY)  ## check the workflows of .github, without a network
	@.venv/bin/actionlint
	@.venv/bin/zizmor --offline --no-progress --quiet .github

serve: book  ## build the book and show it at http://localhost:8000
	@$(RUN) -m http.server --bind 127.0.0.1 --directory _build/html 8000

execute: book  ## build the book, and gather its outputs in _build/executed for another machine
	@$(TOOL).executed

record: $(READY)  ## on a GPU: measure, and write results/<gpu>.json and the README's table
	@$(RUN) -m bench run
	@$(RUN) -m bench readme

studies: $(READY)  ## on a GPU: measure what the chapters need beside that, into results/studies
	@$(RUN) -c 'import sys; from importlib.util import find_spec as f; sys.exit(not (f("fla") and f("einops")))' || \
	  $(RUN) -m pip --disable-pip-version-check install --quiet --no-deps --requirement .ci/rivals.txt || \
	  echo "The packages of .ci/rivals.txt could not be installed: records that have times of them are kept." >&2
	@$(RUN) -m bench study

record-quality: $(READY)  ## on a GPU: train the models of chapter 11, into results/studies
	@$(RUN) -m bench study quality quality-lengths

readme: $(READY)  ## redraw the README's figure and table from results/
	@$(RUN) -m bench readme

figures: $(READY)  ## draw the README's figure and every record as PNG and SVG into results/figures
	@$(RUN) -m bench figures

regression: $(READY)  ## on a GPU: this commit against BASE (main), the table in _build/regression
	@BASE="$(BASE)" .ci/regression.sh

colab: book  ## run every notebook in Colab's own image (needs Docker)
	@docker run --rm --volume "$(CURDIR)":/book --workdir /book --entrypoint python3 \
	  $(COLAB_IMAGE) .ci/notebooks.py --here

wheelhouse:  ## collect the packages for a GPU host without a network, in .wheels
	@$(PYTHON) .ci/wheelhouse.py $(if $(HOST),--host $(HOST))

fetch:  ## for keepers: bring what gpu.yml made for this commit (needs gh)
	@$(PYTHON) .ci/fetch.py

publish:  ## for keepers: push the site in _build/html to gh-pages
	@.ci/publish.sh

republish:  ## for keepers: start publish.yml on GitHub (needs gh)
	@gh workflow run publish.yml --ref main

comment:  ## for keepers: put the table of `make regression` under pull request NUMBER (needs gh)
	@NUMBER="$(NUMBER)" .ci/comment.sh

pins:  ## for keepers: renew constraints.txt (Python 3.10 to 3.13 must be installed)
	@$(PYTHON) .ci/pins.py python3.10 python3.11 python3.12 python3.13

clean:  ## remove what these commands made, except .wheels
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
	@# Where PYTHON is that of a virtual environment, a new one sees that one's packages by a .pth file alone.
	@$(PYTHON) -m venv $(if $(HOST_TORCH),--system-site-packages) .venv && \
	  $(if $(HOST_TORCH),$(PYTHON) -c "$(SEE_HOST)" &&) \
	  .venv/bin/python -m pip --disable-pip-version-check install --requirement requirements.txt $(CONSTRAINTS) || { \
	  echo "The set-up did not finish (pip gives the reason above): check network and disk space, then run the same command again." >&2; exit 1; }
	@echo '$(PYTHON) $(HOST_TORCH)' > .venv/choice
	@touch $@

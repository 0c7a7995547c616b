# Plain `make` lists what can be made.   Options:  TORCH=cpu   PYTHON=python3.12   VENV=folder   PORT=8000
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?=
PORT   ?= 8000
RUN    := $(VENV)/bin/python

# One thread: these arrays are small, chapters run side by side, and sums are then added in one order.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: help book test figures notebooks check bench lint serve stamp clean environment

help:       ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "  options: TORCH=cpu (Linux: 0.2 GB of torch instead of 2.7 GB), PYTHON=python3.12, VENV=folder, PORT=8000"

book: environment       ## run the chapters and build the site in _build/html
	@$(RUN) -m press build

test: book              ## build, then all tests: the code, the notebooks' outputs, the pages in a browser
	@$(RUN) -m pytest -n logical

figures: environment    ## as `make book`, with the paper's figures at the paper's size (minutes; kept until their code changes)
	@BOOK_SIZE=paper $(RUN) -m press build

notebooks: environment  ## run the chapters and store their outputs in book/*.ipynb (CHAPTERS=book/NAME.md for some)
	@$(RUN) -m press notebooks $(CHAPTERS)

check: environment      ## run the checks of one claim and print what they saw: CLAIM=eq1 (none: list all claims)
	@$(RUN) -m press check $(CLAIM)

bench: environment      ## time the engine against ordinary PyTorch loops (CASES="linear-b1 jobs" for some)
	@$(RUN) -m bench $(CASES)

lint: environment       ## style of the code, spelling, and whether the notebooks are up to date
	@$(RUN) -m ruff check
	@$(RUN) -m codespell_lib
	@$(RUN) -m press notebooks --check

serve: book             ## build, then serve the site on this machine
	@echo "http://localhost:$(PORT)/   (Ctrl-C ends it; PORT=8001 if that port is taken)"
	@$(RUN) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

stamp: environment      ## write the repository's address from _config.yml into README.md and CITATION.cff
	@$(RUN) -m press stamp

clean:                  ## delete what was built (not the environment)
	rm -rf _build .ruff_cache .pytest_cache .hypothesis
	find lib press bench tests book -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# The virtual environment, in step with requirements.txt; takes no time and says nothing when it is.
environment:
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON); install Python 3.11 or newer, or name one: make book PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) press/environment.py $(VENV) $(if $(TORCH),--$(TORCH))

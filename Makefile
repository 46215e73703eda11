# Needs only Python 3.11 or newer and a package index. See `make help`.
PYTHON ?= python3
VENV ?= .venv
# Where torch comes from; empty: the default index, which on Linux means CUDA and GBs.
TORCH_INDEX ?=
# Which notebooks, for example NB="04 05"; empty: all.
NB ?=
# More words for pytest, for example ARGS="-k delta".
ARGS ?=

CPU_INDEX := https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
SHELL := /bin/bash
# A module of the same name elsewhere must not be picked up instead of the pinned one.
unexport PYTHONPATH
.NOTPARALLEL:
.PHONY: help tour explore live test quick lab sync notebooks student teacher site clean

help:
	@echo "make tour    install into $(VENV), then see the small model read and answer"
	@echo "make explore see in the browser what a memory keeps of a note, and which experts fire"
	@echo "make live    in the browser, with the small model in the page: type, and watch it"
	@echo "make lab     install the course's tools and open the notebooks"
	@echo "make test    install the test tools, then lint and run every test"
	@echo "make quick   the same without the slow ones: two minutes, before each commit"
	@echo "make sync    copy the package's code into the notebook cells that teach it"
	@echo "make notebooks    execute and store all notebooks, or NB=\"04 05\""
	@echo "make student the course to hand out, build/student.zip: no solutions, no outputs"
	@echo "make teacher the course to teach from, build/teacher: what to expect and to say"
	@echo "make site    the course, explorers and reference as pages, build/site: no network"
	@echo "make clean   remove $(VENV) and everything built"
	@echo
	@echo "TORCH_INDEX=$(CPU_INDEX)"
	@echo "             a far smaller torch, for machines without an NVIDIA GPU"
	@echo "PYTHON=python3.12    make $(VENV) with another Python"
	@echo 'ARGS="-k delta"      run only some tests'

tour: $(VENV)/.installed-package
	@$(BIN)/minqwen tour

explore: $(VENV)/.installed-package
	@$(BIN)/minqwen explore assets/note.safetensors

live: $(VENV)/.installed-package
	@$(BIN)/minqwen explore --live

test quick: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} RAYON_NUM_THREADS=$${RAYON_NUM_THREADS:-2} \
	    OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile \
	    $(if $(filter quick,$@),-m "not slow") $(ARGS)

sync: $(VENV)/.installed-test
	$(BIN)/python -m tools.notebooks sync

# Executes and stores; NB="04 05" for some of them.
notebooks: $(VENV)/.installed-test
	$(BIN)/python -m tools.notebooks run $(NB)

# With the wheel that a student installs, and all of it as one file to send.
student: $(VENV)/.installed-course
	$(BIN)/python -m tools.editions student build/student
	@rm -rf build/lib build/bdist.*  # of an older wheel, whose files would come along
	$(PIP:install=wheel) -q --no-deps -w build/student .
	@$(BIN)/python -m zipfile -c build/student.zip build/student
	@echo "build/student.zip is the file to hand out"

teacher: $(VENV)/.installed-course
	$(BIN)/python -m tools.editions teacher build/teacher

site: $(VENV)/.installed-site
	$(BIN)/python -m tools.site build/site

lab: $(VENV)/.installed-course
	$(BIN)/jupyter lab $(wildcard notebooks)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing venv writes: where it is, the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || { echo \
	    "minqwen: $(PYTHON) is missing or older than 3.11; name another" \
	    "with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
	    "minqwen: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu" \
	    "install them with: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# One stamp per set of requirements: unchanged files mean nothing to install.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing minqwen$(EXTRA) into $(VENV) (the first time: a minute or more)"
	@if [ -z "$(TORCH_INDEX)" ] && [ "$$(uname)" = Linux ] \
	    && ! command -v nvidia-smi >/dev/null && [ ! -e $(BIN)/minqwen ]; then \
	    echo "  no NVIDIA GPU seen; should torch turn out to be gigabytes, stop and add"; \
	    echo "  TORCH_INDEX=$(CPU_INDEX)"; fi
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch $(FILTER))
	@$(PIP) -e '.$(EXTRA)' $(FILTER)
	@$(if $(filter test,$*),$(PIP) --no-deps $(TEMPLATES) $(FILTER))
	@touch $@

# Carries the released chat templates; what it needs itself is large, and not needed.
TEMPLATES = trl==1.16.0
EXTRA = $(patsubst %,[%],$(filter-out package,$*))
PIP = set -o pipefail; PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore \
    $(BIN)/python -m pip install \
    --disable-pip-version-check --progress-bar off -c constraints.txt
# Of all pip says, keep the larger files with their size, and that it unpacks.
FILTER = | awk '/^ *Downloading .* MB\)/ { print "  " $$2, $$3, $$4; fflush() } \
    /^Installing collected/ { print "  unpacking"; fflush() }'

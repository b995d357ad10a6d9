# Every target is one `course` verb of the same name; `make` only builds the environment first.
#   make lab TORCH_INDEX=https://…     takes torch from another index (README says which)

PYTHON ?= python3
TORCH_INDEX ?=
LESSON ?=
PARAMS ?=
ARGS ?=

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PIP := $(BIN)/python -m pip install --disable-pip-version-check
READY := .venv/.ready
TESTS := .venv/.ready-test

.DELETE_ON_ERROR:
.PHONY: lab test check report notebooks subjects bench doctor list clean

lab: $(READY)
	$(BIN)/course lab $(ARGS)

test: $(TESTS)
	$(BIN)/course test $(ARGS)

check: $(TESTS)
	$(BIN)/course check $(ARGS)

report: $(READY)
	@test -n "$(LESSON)" || { echo 'say which lesson: make report LESSON=01_neurons/01_spiking_neurons PARAMS="timesteps=4"'; exit 2; }
	@$(BIN)/course report $(LESSON) $(PARAMS) $(ARGS)

notebooks: $(READY)
	$(BIN)/course notebooks $(LESSON)

subjects bench doctor list: $(READY)
	@$(BIN)/course $@ $(ARGS)

$(READY): pyproject.toml constraints.txt $(wildcard jupyter/*/*/*.json jupyter/*/*/*/*.json jupyter/*/*/*/*/*.json)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/it")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "On Debian and Ubuntu, first: apt install python3-venv"; exit 1; }
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch==2.13.0)
	$(PIP) -c constraints.txt -e .
	@touch $@

$(TESTS): $(READY)
	$(PIP) -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv reports .pytest_cache .ruff_cache .hypothesis

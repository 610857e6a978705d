# make quickstart   installs into .venv, then AgentPRM from nothing to a report
# make test         installs into .venv, then every test
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
CPU := patches/openrlhf-0.11.2/requirements-cpu.txt
CUDA := $(wildcard /dev/nvidia0)
# ALFWorld's engine compiles and has parts under the GPL; where it cannot be built its tests are skipped.
ALFWORLD := alfworld==0.4.2 textworld==1.7.0 fast-downward-textworld==20.6.4 tatsu==5.8.3 jericho hashids mementos more-itertools prompt_toolkit wcwidth termcolor

.PHONY: quickstart test install clean

quickstart: $(VENV)/.installed
	$(BIN)/agentprm run quickstart

test: $(VENV)/.installed $(VENV)/.alfworld
	$(BIN)/python -m pytest

install: $(VENV)/.installed

$(VENV)/.installed: $(CPU) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another with make PYTHON=python3 (3.11 is what is tested)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip wheel "setuptools<81"
ifeq ($(CUDA),)
	$(BIN)/pip install --quiet torch==2.13.0
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-deps -r $(CPU)
	$(BIN)/pip install --quiet --no-deps -e .
else
	$(BIN)/pip install --quiet -e ".[host,babyai,dev]"
endif
	touch $@

$(VENV)/.alfworld: $(VENV)/.installed
	-PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-deps $(ALFWORLD) || echo "ALFWorld's engine was not built; its tests will be skipped"
	touch $@

clean:
	rm -rf $(VENV) runs

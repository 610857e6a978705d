# make quickstart   installs into .venv, then AgentPRM from nothing to a report
# make test         installs into .venv, then every test, by two processes side by side (WORKERS=0: by one)
PYTHON ?= python3.11
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
CPU := patches/openrlhf-0.11.2/requirements-cpu.txt
CUDA := $(wildcard /dev/nvidia[0-9]* /usr/lib/wsl/lib/libcuda.so*)
# ALFWorld's engine, for its tests: it compiles and has parts under the GPL. Without a C++ compiler they are skipped, and say so.
ALFWORLD := alfworld==0.4.2 textworld==1.7.0 fast-downward-textworld==20.6.4 tatsu==5.8.3 jericho hashids mementos more-itertools prompt_toolkit wcwidth termcolor

.PHONY: quickstart test install clean

quickstart: $(VENV)/.installed
	$(BIN)/agentprm run quickstart

test: $(VENV)/.installed $(VENV)/.alfworld
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

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
	$(BIN)/pip install --quiet torch==2.13.0 ninja packaging psutil
	$(BIN)/pip install --no-build-isolation flash-attn==2.8.3
	$(BIN)/pip install --quiet -e ".[host,babyai,dev]"
endif
	touch $@

$(VENV)/.alfworld: $(VENV)/.installed
	@if command -v c++ >/dev/null; then PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-deps $(ALFWORLD) && touch $@; \
	else echo "no C++ compiler: ALFWorld's engine is not installed and its tests are skipped (apt-get install g++ brings one on Debian)"; fi

clean:
	rm -rf $(VENV) runs

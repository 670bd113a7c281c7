# Everything runs in .venv, which is made on first use.
#
#   make demo    texture the mesh of this repository and say where the result is
#   make test    all tests, in up to four processes
#   make lint    ruff and mypy
#   make bench   the benchmarks
#
# PYTHON is the interpreter that makes .venv. TORCH is what pip installs as torch, options such as
# --index-url included. The tested version is the default; torch 2.6 is the oldest that works
# (2.6 has no FSDP on a CPU, and the report on kernels' machine code needs Triton 3.6):
#   make demo TORCH=torch

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_STAMP := $(VENV)/.installed-$(shell printf '%s' '$(TORCH)' | tr -c 'A-Za-z0-9.' '-')
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
OUT := demo_output
MESH := assets/demo/mesh.glb
REFERENCE := assets/demo/reference.png

.PHONY: demo test lint bench install dev clean
.DELETE_ON_ERROR:

demo: $(RUN_STAMP)
	$(BIN)/seqtex texture $(MESH) --image $(REFERENCE) --seed 0 \
	  -o $(OUT)/mesh_textured.glb --save-intermediates $(OUT)/steps
	@echo
	@echo "The same without a model: what the picture does not show is continued smoothly."
	$(BIN)/seqtex texture $(MESH) --image $(REFERENCE) --method project \
	  -o $(OUT)/mesh_project.glb --save-intermediates $(OUT)/steps_project
	@echo
	@echo "The textured mesh:   $(OUT)/mesh_textured.glb"
	@echo "All views at once:   $(OUT)/steps/contact_sheet.png"
	@echo "What was done:       $(OUT)/mesh_textured.glb.seqtex.json"
	@echo "Without a model:     $(OUT)/mesh_project.glb"
	@echo "Your own mesh:       $(BIN)/seqtex texture MESH --image REFERENCE"

test: $(DEV_STAMP)
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV_STAMP)
	$(BIN)/python -m benchmarks all --quick

install: $(RUN_STAMP)

dev: $(DEV_STAMP)

clean:
	rm -rf $(OUT) build dist

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12"; \
	  exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$("$(PYTHON)" --version) is too old: Python 3.11 or newer is needed."; \
	  echo "Name a newer one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt install python3-venv"; \
	  exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# torch first: what follows is satisfied by it and does not replace it.
$(TORCH_STAMP): | $(BIN)/python
	$(PIP) install $(TORCH)
	@touch $@

$(RUN_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP) install -e .
	@touch $@

$(DEV_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP) install -e '.[dev]'
	@touch $@ $(RUN_STAMP)

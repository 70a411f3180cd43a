# Every target sets itself up: a virtual environment in .venv, installed through constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
JOBS ?= 2
OUT ?= results
FASHION := zoo:fashion-none-r zoo:fashion-act-r zoo:fashion-hm-s-lga-ics zoo:fashion-hm-e-lga-ics
DIGITS := zoo:digits-none-r zoo:digits-hm-s-lga-ics
PAPER := paper-fashion paper-cub paper-cars paper-sop
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := torch==2.13.0
APT := DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o=Dpkg::Use-Pty=0
WHEEL := build/package

.PHONY: demo explore test test-encoders test-matrix e2e package bench check docs format clean $(PAPER)

demo: $(READY)
	$(BIN)/python examples/demo.py

# The explorer. DATA: the folder of Fashion-MNIST's four files; without it the images are digits.
explore: $(READY)
	$(BIN)/holdfast explore $(if $(DATA),--root $(DATA) $(FASHION),$(DIGITS))

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS)

# timm and open_clip need torchvision, which the main environment must not have; 6 GB of disk.
test-encoders: .venv-encoders/ready
	PYTHONPATH=src .venv-encoders/bin/python -m pytest tests/models/adapters tests/models/test_timm.py

# Every Python at hand, with the oldest and the newest versions that pyproject.toml admits; hours, and 7 GB of disk.
# MATRIX: a part of it, such as "3.11:oldest 3.13:newest".
test-matrix:
	$(PYTHON) tests/matrix.py --jobs $(JOBS) $(MATRIX)

# The explorer and the board in a browser: Chromium, from Debian's packages where it is missing. CHROMIUM: one elsewhere.
e2e: $(READY)
	$(BIN)/python $(INSTALL) -e ".[dev,e2e]"
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || \
		{ apt-get update -qq && $(APT) chromium fonts-liberation; } || \
		{ echo "no browser: install Chromium, or name it by CHROMIUM=/path/to/it"; exit 1; }
	$(BIN)/python -m pytest tests/e2e

# The wheel, built from the sdist, has every file of the package; installed alone, it runs the demo outside the checkout.
package: $(READY)
	rm -rf dist $(WHEEL)
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python $(INSTALL) $(TORCH)
	$(WHEEL)/bin/python $(INSTALL) dist/*.whl
	diff -r -x __pycache__ src/holdfast $(WHEEL)/lib/python3*/site-packages/holdfast
	cd "$$(mktemp -d)" && unset PYTHONPATH && export PATH="$(CURDIR)/$(WHEEL)/bin:$$PATH" && \
		holdfast doctor && python $(CURDIR)/examples/demo.py && holdfast report runs/demo-* --format html

# DATA: a folder with fashion-mnist/ and CUB_200_2011/ in it; without it the images are digits and noise.
bench: $(READY)
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA))

# The paper's experiments: the plan, then the runs. DEVICE: one or several, such as "cuda:0 cuda:1"; OUT: for results.
paper-fashion: EXPERIMENT := experiments/fashion.yaml
paper-cub: EXPERIMENT := experiments/cub.yaml
paper-cars: EXPERIMENT := experiments/cars-table6.yaml
paper-sop: EXPERIMENT := experiments/sop-table6.yaml
SWEEP = $(BIN)/holdfast sweep $(EXPERIMENT) --out $(OUT) $(foreach device,$(DEVICE),--device $(device))

$(PAPER): $(READY)
	$(SWEEP) --dry-run
	$(SWEEP)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, into site/; a warning is an error.
docs: $(READY)
	$(BIN)/python docs/build.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-encoders build dist site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'holdfast needs Python 3.11 or newer; name it: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) $(TORCH)
	$(BIN)/python $(INSTALL) -e ".[dev,docs]"
	touch $(READY)

.venv-encoders/ready: pyproject.toml constraints-encoders.txt
	$(PYTHON) -m venv .venv-encoders
	.venv-encoders/bin/python $(subst constraints.txt,constraints-encoders.txt,$(INSTALL)) \
		torchvision pytest hypothesis -e ".[timm,open-clip,hf,st]"
	touch .venv-encoders/ready

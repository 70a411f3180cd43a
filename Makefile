# Every target sets itself up: a virtual environment in .venv, installed through constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
JOBS ?= 2
OUT ?= results
FASHION := zoo:fashion-none-r zoo:fashion-act-r zoo:fashion-hm-s-lga-ics
DIGITS := zoo:digits-none-r zoo:digits-hm-s-lga-ics
PAPER := paper-fashion paper-cub paper-cars paper-sop

.PHONY: demo explore test test-timm e2e bench check docs format clean $(PAPER)

demo: $(READY)
	$(BIN)/python examples/demo.py

# The explorer. DATA: the folder of Fashion-MNIST's four files; without it the images are digits.
explore: $(READY)
	$(BIN)/holdfast explore $(if $(DATA),--root $(DATA) $(FASHION),$(DIGITS))

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS)

# timm needs torchvision, which the main environment must not have.
test-timm: .venv-timm/ready
	PYTHONPATH=src .venv-timm/bin/python -m pytest tests/test_timm.py tests/test_models_timm.py

# The explorer in a browser: Chromium, from Debian's packages where they may be installed. CHROMIUM: one elsewhere.
e2e: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,e2e]"
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || { apt-get update -q && apt-get install -y -q chromium; } || \
		echo "no browser: install Chromium, or name it by CHROMIUM=/path/to/it; the tests will be skipped"
	$(BIN)/python -m pytest tests/e2e

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
	rm -rf .venv .venv-timm build site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'holdfast needs Python 3.11 or newer; name it: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $(READY)

.venv-timm/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	.venv-timm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torchvision==0.28.0 pytest -e ".[timm]"
	touch .venv-timm/ready

# make demo: a checkpoint of the original code, converted, compared with the running original, and tried out.
# make test: everything that CI checks.
# Both do all their set-up in $(VENV); Python 3.11 or later and pip are enough.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.installed

.PHONY: demo test test-slow test-browser fuzz check clean

demo: $(READY)
	$(RUN) -m demo.run

# Two processes, for most of the time goes into runs of the original: the tests of one module share one, and the
# checkpoints made for them. One thread of torch's each, for with more they wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadscope

test: check
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

# Pages in a real Chromium, which this installs where it can (Debian's packages, as root).
test-browser: $(READY)
	tests/browser/install-chromium
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/browser

# Hostile input by coverage, SECONDS for each target. atheris has a virtual environment of its own: it is no part of
# the tests, and there is not one for every Python. It uses the packages of $(VENV).
SECONDS ?= 20
FUZZ = .fuzz/venv
fuzz: $(READY)
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check 'atheris>=3'
	PYTHONPATH=.:$$($(RUN) -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])') OMP_NUM_THREADS=1 \
		$(FUZZ)/bin/python -W ignore -m tests.fuzz.run --seconds $(SECONDS)

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The t5 package is installed for the published gin files alone; its dependencies are not needed. That of tf-keras is
# tensorflow, which tensorflow-cpu is but for the name.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mesh,bert,t5x,test,browser,dev]'
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps t5 tf-keras
	@touch $(READY)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

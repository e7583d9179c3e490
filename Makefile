# make repro             run the main pipeline: three datasets, from data/ to figures/; JOBS=4 runs four stages at a time
# make test              run the tests; PYTEST_ARGS='-m "not slow"' skips the slow tests
# make lint              check the style, the types, and the rules for imports between sub-packages
# make lab               open notebooks/explore.ipynb in JupyterLab, in this folder
# make docs              run the lessons, and build the site (lessons, results, API reference) in results/site/html
# make convergence       train with ten seeds, and count the runs that converge
# make benchmark         run all methods on harder datasets, other programs, and ablations (half a day on two cores)
# make benchmark-quick   run one small dataset of the benchmark (under an hour)
# make speed             measure the speed of every part; compare it with other programs and the peak performance of the machine
# make real              download a part of EMPIAR-10180, train, predict, report (needs internet access)
# make real-twin         run the pipeline of `make real` on a simulated twin of EMPIAR-10180, whose truth is known
# make peers             install cryoDRGN, for comparison, in a separate environment (.venv-peers)
# make recovar           install RECOVAR 0.4.5 (GPL-3) in a separate environment (.venv-recovar), for benchmark/cryobench.py
# make strip             remove the outputs of the notebooks; run it before a commit
# make clean-venv        remove .venv
#
# Requirements: Linux, Python 3.11 or newer with venv, git, make. The targets install all other packages in .venv, in the
# versions of requirements.lock.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/installed.stamp
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

QUICK := adk-snr100-3k
QUICK_OWN := $(patsubst %,method@$(QUICK)-%,hetacumn-bare amortized) refine@$(QUICK)
QUICK_PEERS := $(patsubst %,peer@$(QUICK)-%,relion cryodrgn2 drgnai)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: repro test lint lab docs convergence benchmark benchmark-quick speed real real-twin peers recovar strip data clean-venv

repro: data
	$(BIN)/python scripts/repro.py --jobs $(JOBS)

test: data
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: data
	PYTHONSTARTUP=$(CURDIR)/scripts/lab.py $(BIN)/jupyter lab --ServerApp.root_dir=$(CURDIR) $(LAB_ARGS) notebooks/explore.ipynb

docs: data
	$(BIN)/python scripts/repro.py --jobs $(JOBS) docs/dvc.yaml
	$(BIN)/python scripts/docs.py

convergence: data
	$(BIN)/python scripts/repro.py --jobs $(JOBS) benchmark/convergence/dvc.yaml

benchmark: data peers
	$(BIN)/python scripts/repro.py --jobs $(JOBS) benchmark/dvc.yaml
	$(BIN)/python -m hetacumn.run notebooks/benchmark/2_tables.ipynb -o results/benchmark/2_tables.ipynb

benchmark-quick: data peers
	$(BIN)/python scripts/repro.py --jobs $(JOBS) $(addprefix benchmark/dvc.yaml:,$(QUICK_OWN))
	@# The programs run at the same time. Their limits count processor time, so that they do not shorten each other's runs.
	$(BIN)/python scripts/repro.py --jobs 3 $(addprefix benchmark/dvc.yaml:,$(QUICK_PEERS))
	$(BIN)/python -m hetacumn.run notebooks/pipeline/5_evaluate.ipynb -p dataset $(QUICK) -p out results/benchmark/$(QUICK)/evaluation
	$(BIN)/python -m hetacumn.run notebooks/benchmark/2_tables.ipynb -o results/benchmark/2_tables.ipynb

speed: $(STAMP)
	TQDM_DISABLE=1 $(BIN)/python benchmark/speed/speed.py

real-twin: data
	$(BIN)/python scripts/repro.py --jobs 1 real/twin/dvc.yaml

real: data
	$(BIN)/dvc repro real/dvc.yaml

peers: .venv-peers/installed.stamp
	@command -v relion_refine > /dev/null || echo "RELION is not on the PATH; to install it on Debian or Ubuntu: apt install --no-install-recommends relion"

.venv-peers/installed.stamp:
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install torch==2.13.0
	@.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install torch==2.13.0 cryodrgn==4.3.1
	@touch $@

recovar: .venv-recovar/installed.stamp

.venv-recovar/installed.stamp:
	@$(PYTHON) -m venv .venv-recovar
	@.venv-recovar/bin/python -m pip --quiet --disable-pip-version-check install torch==2.13.0
	@.venv-recovar/bin/python -m pip --quiet --disable-pip-version-check install torch==2.13.0 jax==0.5.0 recovar==0.4.5
	@touch $@

strip: $(STAMP)
	git ls-files -z '*.ipynb' | xargs -0 -r $(BIN)/nbstripout --keep-id

data: $(STAMP)
	@$(BIN)/dvc pull --quiet data.dvc

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer; name a newer Python: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing the packages of requirements.lock in .venv (a few minutes, only once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install torch==2.13.0 -c requirements.lock
	@$(PIP) install -c requirements.lock -e ".[dev]"
	@touch $@

clean-venv:
	rm -rf .venv

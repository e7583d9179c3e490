# make repro         the method on three datasets, from the data in the repository to figures/; JOBS=4: four stages at a time, not two
# make test          the tests, in the same environment
# make lab           JupyterLab in this folder, opened on notebooks/explore.ipynb
# make docs          the site: lessons and results as run, API reference; results/site/html
# make convergence   how often training converges, over seeds
# make benchmark     other programs, harder data, ablations (half a day on two cores); benchmark-quick: one dataset, within the hour
# make speed         how fast every part is, beside other programs and the machine's own peak
# make real          a part of EMPIAR-10180: download, train, predict, report (needs the network)
# make real-twin     the same on a simulated twin of EMPIAR-10180, whose truth is known
# make peers         cryoDRGN in an environment of its own (.venv-peers), to compare with
#
# Needed: Python 3.11 or newer with venv, git, make. Everything else goes into .venv, from requirements.lock.

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

.PHONY: repro test lab docs convergence benchmark benchmark-quick speed real real-twin peers strip data clean-venv

repro: data
	$(BIN)/python scripts/repro.py --jobs $(JOBS)

test: data
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

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
	@# all at once: each is given so many seconds of a core, however long they take by the clock
	$(BIN)/python scripts/repro.py --jobs 3 $(addprefix benchmark/dvc.yaml:,$(QUICK_PEERS))
	$(BIN)/python -m hetacumn.run notebooks/pipeline/4_evaluate.ipynb -p dataset $(QUICK) -p out results/benchmark/$(QUICK)/evaluation
	$(BIN)/python -m hetacumn.run notebooks/benchmark/2_tables.ipynb -o results/benchmark/2_tables.ipynb

speed: $(STAMP)
	TQDM_DISABLE=1 $(BIN)/python benchmark/speed/speed.py

real-twin: data
	$(BIN)/python scripts/repro.py --jobs 1 real/twin/dvc.yaml

real: data
	$(BIN)/dvc repro real/dvc.yaml

peers: .venv-peers/installed.stamp
	@command -v relion_refine > /dev/null || echo "RELION is not on the PATH: apt install --no-install-recommends relion"

.venv-peers/installed.stamp:
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install torch==2.13.0
	@.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install torch==2.13.0 cryodrgn==4.3.1
	@touch $@

strip: $(STAMP)  ## notebooks without outputs, as they are committed
	git ls-files -z '*.ipynb' | xargs -0 -r $(BIN)/nbstripout --keep-id

data: $(STAMP)
	@$(BIN)/dvc pull --quiet data.dvc

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Making .venv from requirements.lock: a few minutes, once"
	@$(PYTHON) -m venv .venv
	@$(PIP) install torch==2.13.0 -c requirements.lock
	@$(PIP) install -c requirements.lock -e ".[dev]"
	@touch $@

clean-venv:
	rm -rf .venv

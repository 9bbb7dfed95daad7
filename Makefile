# make demo   the whole study on toy rooms, photographs in, report out (about twelve minutes on two cores)
# make test   every test
# make quick  a quick look: quick tests of every room, about a minute on two cores
# make study  the larger demo: every model, every depth, three seeds (an evening on two cores)
# make check  formatting, lint and types
# make soak   kills at random moments and mutated files, half an hour

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test quick study check soak clean
.DELETE_ON_ERROR:

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps depth-estimation
	@$(BIN)/python -c "import torch, torchvision" || \
	  { echo "torch and torchvision do not belong together: rm -rf $(VENV) and install with -c constraints.txt"; exit 1; }
	touch $@

# --- the demo and the study -------------------------------------------------------------------------------------------

# Each line repeats only what is missing. The pairs are other rooms, seen by the sensor too: what `train gap` compares, as
# NYUDepthV2 is in the paper. Two processes with a thread each are faster on two cores than one with two threads.
demo: $(INSTALLED)
	$(BIN)/precompute-depth toyrooms demo/shards --teacher toy --val-samples 1000
	$(BIN)/precompute-depth toyrooms demo/pairs --teacher toy --samples 400 --val-samples 100 --seed 1 --stats-from demo/shards
	$(BIN)/precompute-depth verify demo/shards && $(BIN)/precompute-depth inspect demo/shards
	$(BIN)/train study training/presets/study/demo.toml --out demo --jobs 2
	$(BIN)/analyze report demo/runs/* --matrix demo/table3 --out demo/report
	@echo "report: $(CURDIR)/demo/report/index.html"
	@echo "to go on by hand: source $(VENV)/bin/activate"

study: $(INSTALLED)
	$(BIN)/precompute-depth toyrooms study/shards --teacher toy --samples 24000 --val-samples 5000
	$(BIN)/precompute-depth toyrooms study/pairs --teacher toy --samples 1000 --val-samples 500 --seed 1 --stats-from study/shards
	$(BIN)/precompute-depth verify study/shards
	$(BIN)/train study training/presets/study/study.toml --out study --jobs 2
	$(BIN)/analyze report study/runs/* --matrix study/table3 --out study/report
	@echo "report: $(CURDIR)/study/report/index.html"
	@echo "to go on by hand: source $(VENV)/bin/activate"

# --- development ------------------------------------------------------------------------------------------------------

# Two processes with a thread each; a file's tests stay together, with what they share.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# What is quick and touches much: contracts, configuration, models, statistics.
QUICK := $(addprefix tests/pipeline/test_,depth_codec standardize scenes images defaults teacher_protocol) \
  $(addprefix tests/training/test_,config attention augment models step seg_config seg_models) \
  $(addprefix tests/analysis/test_,attention_slopes cka contrast cosines probes tables)
quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" -k "not compiled" $(addsuffix .py,$(QUICK))

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(INSTALLED)
	$(BIN)/python tests/soak.py
	PSEUDODEPTH_SOAK=1 $(BIN)/python -m pytest tests/analysis/test_strange_runs.py tests/pipeline/test_foreign_shards.py

clean:
	rm -rf demo study build

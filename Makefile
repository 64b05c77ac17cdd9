# Two commands: `make course` opens the course, `make test` runs every check that CI runs.
# Both set up .venv first, take proxies and indexes from the environment as pip and uv do, and are safe to run again.
# `make course` installs what a reader needs, `make test` also what a developer needs; either may follow the other.

ARGS ?=
UPGRADE ?= --upgrade
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
    --custom-compile-command "make lock" pyproject.toml

# What `make oldest` runs: each dependency is used in one of them.
OLDEST = $(addprefix tests/test_, data.py empirical.py gram.py layers.py linearization.py noise.py package.py plotting.py \
    predict.py regression.py training.py course_build.py)

.PHONY: course test check site docs oldest setup setup-course build benchmark benchmark-torch lock clean
.DEFAULT_GOAL := course

course: setup-course ## open JupyterLab on chapter 00; ARGS=--check runs that chapter headless and prints two accuracies
	.venv/bin/python -m course open $(ARGS)

test: setup ## everything that CI runs
	.venv/bin/python -m course test $(ARGS)

check: setup ## for those who write code: lint, types and the tests of what changed, within two minutes
	.venv/bin/python -m course test --changed $(ARGS)

setup:
	@sh course/setup.sh

setup-course:
	@sh course/setup.sh course

build: setup ## notebooks, solutions and exercises from their sources
	.venv/bin/python -m course build $(ARGS)

site: setup ## chapters, exercises, claims and the library as pages, in .cache/site/html; needs no network
	.venv/bin/python -m course site

docs: site

benchmark: setup ## ours and its peers side by side; ARGS="--only mlp --cores 1 --rounds 7", benchmarks/README.md
	.venv/bin/python -m benchmarks $(ARGS)

benchmark-torch: setup ## PyTorch for it, in .cache/torch
	@sh benchmarks/torch.sh

lock: setup ## new versions into the two lock files; UPGRADE= keeps the versions and adds what pyproject.toml has new
	$(COMPILE) $(UPGRADE) --all-extras --group dev --output-file requirements.lock
	$(COMPILE) --upgrade --extra course --group build --constraints requirements.lock --output-file requirements-course.lock

oldest: setup ## the tests below with the oldest releases that pyproject.toml allows, in .cache/oldest
	.venv/bin/uv venv --quiet --clear --python .venv/bin/python .cache/oldest
	VIRTUAL_ENV=.cache/oldest .venv/bin/uv pip install --quiet --resolution lowest-direct -r pyproject.toml --extra course --group dev
	.cache/oldest/bin/python -W error -c "import ntklib as ntk; print(ntk.load('mnist5k'))"
	PYTHONPATH="$(CURDIR)" .cache/oldest/bin/python -m pytest -q -n 2 --dist loadfile $(OLDEST)

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache

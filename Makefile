# Two commands: `make course` opens the course, `make test` runs every check that CI runs.
# Both set up .venv first, take proxies and indexes from the environment as pip and uv do, and are safe to run again.

ARGS ?=

.PHONY: course test setup build benchmark benchmark-torch lock clean
.DEFAULT_GOAL := course

course: setup ## open JupyterLab on chapter 00; ARGS=--check runs that chapter headless and prints two accuracies
	.venv/bin/python -m course open $(ARGS)

test: setup ## everything that CI runs
	.venv/bin/python -m course test $(ARGS)

setup:
	@sh course/setup.sh

build: setup ## notebooks, solutions and exercises from their sources
	.venv/bin/python -m course build $(ARGS)

benchmark: setup ## ours and its peers side by side; ARGS="--only mlp --cores 1 --rounds 7", benchmarks/README.md
	.venv/bin/python -m benchmarks $(ARGS)

benchmark-torch: setup ## PyTorch for it, in .cache/torch
	@sh benchmarks/torch.sh

lock: setup ## new versions into requirements.lock
	.venv/bin/uv pip compile --universal --upgrade --python-version 3.12 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" --all-extras --group dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache

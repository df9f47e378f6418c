# SPDX-License-Identifier: Apache-2.0
# The front door. Every target installs what it needs (as root, from Debian's archive) and builds.
.PHONY: help deps build test demo run bench check format clean

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

deps: ## install all Debian packages
	@tools/deps all

build: ## build the daemon (build/release/apps/fairlead)
	@tools/build release fairlead

test: ## every test: unit, property, command line, kernel, cluster
	@tools/test

demo: ## see it work, in a minute; MODE=ebpf|ipvs
	@tools/demo $(if $(MODE),--mode $(MODE))

run: ## serve examples/ in a node lab until Ctrl-C; MODE as above, ARGS="..." adds flags
	@tools/demo $(if $(MODE),--mode $(MODE)) --run -- $(ARGS)

bench: ## measure; results in build/bench/*.json
	@tools/bench

check: ## format, includes, clang-tidy, both compilers, sanitizers, fuzzers
	@tools/check

format: ## let clang-format write
	@git ls-files -co --exclude-standard '*.h' '*.cc' | xargs clang-format-19 -i

clean:
	@rm -rf build

# `make demo` and `make test` need nothing but Rust: they install what is missing where they can
# (Debian, Ubuntu) and name it elsewhere.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help demo test check test-rust test-matrix check-consistency check-regress fuzz bench bench-micro

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 28

demo: ## A primary, two replicas and the pooler before them; Ctrl-C ends (DEMO="--for 20s")
	@scripts/ensure-postgres.sh
	$(CARGO) build --release --bin pgweir
	target/release/pgweir demo $(DEMO)

test: check test-rust ## Everything that must pass

check: ## Format, lints, documentation: the fast part of `test`
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

# Tests with thousands of sockets need more than the usual 1,024 descriptors.
test-rust: ## Unit, golden, property, layering, integration and driver tests
	@scripts/ensure-postgres.sh
	@scripts/ensure-drivers.sh
	ulimit -n $$(ulimit -Hn); $(CARGO) test

test-matrix: ## The integration tests on PostgreSQL 14, 16, 17 and 18
	@scripts/ensure-postgres.sh
	@scripts/ensure-drivers.sh
	ulimit -n $$(ulimit -Hn); scripts/test-matrix

check-consistency: ## The consistency checker, for long (CONSISTENCY_SECONDS=600)
	@scripts/ensure-postgres.sh
	CONSISTENCY_SECONDS=$(or $(CONSISTENCY_SECONDS),600) $(CARGO) test --release --test consistency -- --nocapture

# As root, PostgreSQL runs as another user, who may not be able to read our directory.
REGRESS ?= $(if $(filter 0,$(shell id -u)),$(or $(TMPDIR),/tmp)/pgweir-regress,$(CURDIR)/target/regress)

check-regress: ## PostgreSQL's regression SQL against the classifier, libpg_query and a standby
	@scripts/ensure-postgres.sh
	tests/regress/fetch.sh $(REGRESS)
	PGWEIR_REGRESS=$(REGRESS) $(CARGO) test --test regress -- --ignored --nocapture

fuzz: ## Every fuzz target for a while (FUZZ_SECONDS=10)
	scripts/fuzz

bench: ## pgbench against PostgreSQL, pgweir and PgBouncer (PGBOUNCER=path, BENCH_SECONDS=3)
	@scripts/ensure-postgres.sh
	@scripts/ensure-pgbouncer.sh
	ulimit -n $$(ulimit -Hn); $(CARGO) bench --bench pgbench

bench-micro: ## What single steps cost: framing, a session's transaction, classification (criterion)
	$(CARGO) bench --bench frame --bench pipeline --bench classify

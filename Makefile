# cqrs: read models inside PostgreSQL.  `make demo` and `make check` do everything; the rest is PGXS.

EXTENSION = cqrs
CQRS_VERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" cqrs.control)
MODULE_big = cqrs
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA_built = cqrs--$(CQRS_VERSION).sql
PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Werror -MMD -MP
EXTRA_CLEAN = $(wildcard src/*.[do] src/*/*.[do])

# Tests are found, not listed.  installcheck wants a running server with shared_preload_libraries = 'cqrs',
# cqrs.max_workers = 0 and max_prepared_transactions = 10.
REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation

# The targets of the house.  Each makes a place of its own under /tmp, having installed what is missing: PGXS too, so
# nothing on this branch may ask for it.  One tier of check: make check TIERS=tap; one part of
# the benchmarks: make bench BENCH=capture.
HOUSE = demo check check-style bench fuzz soak

ifneq ($(filter $(HOUSE),$(MAKECMDGOALS)),)

.PHONY: $(HOUSE)
.NOTPARALLEL:
demo:
	@bash test/run/place test/demo/run
check:
	@bash test/run/place test/run/check $(TIERS)
check-style:
	@bash test/run/place test/run/check style
bench:
	@bash test/run/place test/bench/run $(BENCH)

# Long runs of what check runs a slice of: make fuzz SECONDS=3600 SEED=1, or of one file of it: make fuzz FILE=capture
fuzz:
	@bash test/run/place test/run/check --for $(or $(SECONDS),600) $(and $(FILE),--file $(FILE)) random
soak:
	@bash test/run/place test/run/check --for $(or $(SECONDS),600) $(and $(FILE),--file $(FILE)) soak

# What PGXS knows is made by another make where the house's targets are asked for beside it.
REST = $(filter-out $(HOUSE),$(MAKECMDGOALS))
ifneq ($(REST),)
.PHONY: $(REST)
$(REST):
	@$(MAKE) $@
endif

else

# Bitcode serves inlining of SQL functions by the JIT compiler; nothing here is worth inlining, or needing clang for.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) knows no PGXS: install postgresql-server-dev-15, or name another by PG_CONFIG=)
endif
include $(PGXS)

cqrs--$(CQRS_VERSION).sql: $(sort $(wildcard src/install/*.sql)) cqrs.control
	cat $(filter %.sql,$^) > $@

-include $(wildcard $(OBJS:.o=.d))

endif

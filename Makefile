# cqrs: read models inside PostgreSQL.  `make demo` and `make check` do everything; the rest is PGXS.
EXTENSION = cqrs
VERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" cqrs.control)
MODULE_big = cqrs
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA_built = cqrs--$(VERSION).sql
PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Werror -MMD -MP

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

cqrs--$(VERSION).sql: $(sort $(wildcard src/install/*.sql))
	cat $^ > $@
-include $(OBJS:.o=.d)

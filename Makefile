# evsource: event sourcing and CQRS inside PostgreSQL

EXTENSION  = evsource
MODULE_big = evsource

# The control file is the only place that knows the version.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

# The rooms, in the order in which an event passes through them.
OBJS = \
	src/evsource.o \
	src/settings.o \
	src/relations.o \
	src/catalog.o \
	src/shmem.o \
	src/positions.o \
	src/replication.o \
	src/horizon.o \
	src/wakeup.o \
	src/wakeup_wait.o \
	src/wakeup_group.o \
	src/utility.o \
	src/role_guard.o \
	src/listen.o \
	src/event.o \
	src/event_row.o \
	src/streams.o \
	src/scan.o \
	src/read.o \
	src/read_secured.o \
	src/validate.o \
	src/types.o \
	src/type_run.o \
	src/types_survey.o \
	src/types_define.o \
	src/metadata.o \
	src/append.o \
	src/append_json.o \
	src/append_many.o \
	src/duplicate.o \
	src/store.o \
	src/inserter.o \
	src/store_insert.o \
	src/stored_row.o \
	src/restore.o \
	src/missed.o \
	src/intake.o \
	src/projection.o \
	src/identity.o \
	src/dispatch.o \
	src/handlers.o \
	src/new_events.o \
	src/new_events_stream.o \
	src/query.o \
	src/text_array.o \
	src/rights.o \
	src/fold.o \
	src/fold_groups.o \
	src/fold_key.o \
	src/folder.o \
	src/fold_builtin.o \
	src/jsonb_merge.o \
	src/state_cache.o \
	src/state_load.o \
	src/state_missing.o \
	src/state_truncated.o \
	src/state_keys.o \
	src/states.o \
	src/decider.o \
	src/command.o \
	src/executed.o \
	src/snapshots.o \
	src/snapshot_parts.o \
	src/snapshot_history.o \
	src/snapshot_check.o \
	src/snapshot_due.o \
	src/snapshot_reject.o \
	src/snapshot_admin.o \
	src/table_rows.o \
	src/table_snapshots.o \
	src/registry.o \
	src/resolve.o \
	src/check_query.o \
	src/parameters.o \
	src/definition.o \
	src/barrier.o \
	src/notify.o \
	src/replay.o \
	src/register.o \
	src/alter.o \
	src/reset.o \
	src/run.o \
	src/attempt.o \
	src/failure.o \
	src/crash_mark.o \
	src/dead_letters.o \
	src/retry.o \
	src/unit.o \
	src/apply.o \
	src/apply_read.o \
	src/apply_park.o \
	src/own_transaction.o \
	src/hold.o \
	src/async.o \
	src/procedure.o \
	src/activate.o \
	src/rebuild.o \
	src/standin.o \
	src/trial.o \
	src/compare.o \
	src/verify.o \
	src/verify_whole.o \
	src/trace.o \
	src/try.o \
	src/rebuilds.o \
	src/old_snapshots.o \
	src/rebuild_online.o \
	src/rebuild_exchange.o \
	src/rebuild_request.o \
	src/shadow.o \
	src/swap.o \
	src/truncate.o \
	src/truncations.o \
	src/wait.o \
	src/blockers.o \
	src/publish.o \
	src/subscription.o \
	src/subscription_lock.o \
	src/subscribe.o \
	src/cursor.o \
	src/subscription_letters.o \
	src/subscription_truncate.o \
	src/receipt.o \
	src/hand_out.o \
	src/fetch.o \
	src/crew.o \
	src/jobs.o \
	src/daemon.o \
	src/launcher.o \
	src/coordinator.o \
	src/worker.o \
	src/daemon_admin.o \
	src/capture.o \
	src/capture_definition.o \
	src/capture_names.o \
	src/capture_registry.o \
	src/capture_walk.o \
	src/capture_truncate.o \
	src/capture_plan.o \
	src/capture_json.o \
	src/capture_row.o \
	src/capture_pending.o \
	src/capture_table.o \
	src/capture_category.o \
	src/capture_fires.o \
	src/capture_owners.o \
	src/capture_backfill.o \
	src/capture_guard.o \
	src/guard.o \
	src/guard_used.o

# The install script is these parts, in this order: a part may use what an
# earlier one made.
SQL_PARTS = \
	sql/header.sql \
	sql/types.sql \
	sql/events.sql \
	sql/event_types.sql \
	sql/projections.sql \
	sql/snapshots.sql \
	sql/table_snapshots.sql \
	sql/async.sql \
	sql/append.sql \
	sql/commands.sql \
	sql/read.sql \
	sql/dispatch.sql \
	sql/fold.sql \
	sql/states.sql \
	sql/register.sql \
	sql/check.sql \
	sql/verify.sql \
	sql/rebuild.sql \
	sql/daemon.sql \
	sql/monitor.sql \
	sql/truncate.sql \
	sql/wait.sql \
	sql/blockers.sql \
	sql/publish.sql \
	sql/subscriptions.sql \
	sql/replication.sql \
	sql/capture.sql \
	sql/guard.sql \
	sql/column_comments.sql \
	sql/privileges.sql

DATA_built = sql/$(EXTENSION)--$(EXTVERSION).sql
DATA       = $(filter-out $(DATA_built),$(wildcard sql/$(EXTENSION)--*.sql))

PG_CONFIG ?= pg_config
PG_MAJOR  := $(shell $(PG_CONFIG) --version 2>/dev/null | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
have_pg    = $(shell test 0$(PG_MAJOR) -ge $(1) && echo yes)

PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# Test inputs live under test/, expected output in expected/. pg_regress prefers
# its output directory over its input directory: giving it one of its own keeps
# it from taking a part in sql/ for a test, and a link there shows it expected/.
REGRESS      = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --outputdir=test/out/regress --load-extension=$(EXTENSION)
REGRESS_PREP = test/out/regress/expected

# PGXS carries pg_isolation_regress since v14.
ifeq ($(call have_pg,14),yes)
ISOLATION      = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=test/out/isolation --load-extension=$(EXTENSION)
REGRESS_PREP  += test/out/isolation/expected
endif

# PGXS carries PostgreSQL::Test::Cluster since v15, and initdb refuses root.
ifeq ($(call have_pg,15)$(filter 0,$(shell id -u)),yes)
TAP_TESTS := $(if $(wildcard test/t/*.pl),1)
endif
PROVE_TESTS ?= test/t/*.pl

EXTRA_CLEAN = test/out src/*.gcno src/*.gcda

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

# These four work before there is a PostgreSQL: dev/ holds a script for each.
HOUSE = check quickstart soak bench
ifneq ($(filter $(HOUSE),$(MAKECMDGOALS)),)

.PHONY: $(HOUSE)
$(HOUSE):
	@dev/$@ $(ARGS)

else ifeq ($(wildcard $(PGXS)),)

$(or $(MAKECMDGOALS),all):
	@echo "PostgreSQL's headers and pg_config are missing: see dev/need, or set PG_CONFIG" >&2; exit 1

else

include $(PGXS)

# PGXS does not track headers; there are few enough to build anew on any change.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h)

$(DATA_built): $(SQL_PARTS) $(EXTENSION).control Makefile
	cat $(SQL_PARTS) > $@

test/out/%/expected:
	$(MKDIR_P) $(@D)
	ln -sfn ../../../expected $@

# The examples of the documentation, on the server that installcheck uses;
# not when single tests are asked for by REGRESS=.
PAGES = README.md $(sort $(wildcard doc/*.md))
.PHONY: doctest
doctest:
	PATH="$(bindir):$$PATH" dev/doctest --self-test
	PATH="$(bindir):$$PATH" dev/doctest $(PAGES)
ifeq ($(origin REGRESS),file)
installcheck: doctest
endif

# They apply async projections themselves: on a server that has the library
# preloaded the daemon would be faster.
installcheck: export PGOPTIONS += -c evsource.daemon=off

# Take the last run's output as the new truth. Read the diffs first.
.PHONY: accept
accept:
	cp test/out/*/results/*.out expected/

endif

# evsource: event sourcing and CQRS inside PostgreSQL

EXTENSION  = evsource
MODULE_big = evsource

# The control file is the only place that knows the version.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

# The rooms, in the order in which an event passes through them. doc/development.md
# tells the way of an event, file by file.

# what all rooms stand on: settings, catalog, shared memory, our own SQL
GROUND = evsource clock alarm settings relations catalog shmem query text_array rights utility \
	role_guard parameters

# the log: positions, order, rows, streams, who waits for it
LOG = reached positions replication horizon wakeup wakeup_wait give_way wakeup_group listen notify \
	event event_row streams filter scan

# event types: rules and upcasters
TYPES = pure_call validate types type_run types_survey types_define

# append
APPEND = metadata append append_json append_many duplicate store inserter store_insert \
	stored_row intake intake_runs immutable restore in_use missed

# read
READ = read read_secured publish blockers wait waited

# dispatch to projections
DISPATCH = projection identity handling run_batch dispatch handlers compile new_events \
	new_events_stream

# folds, their states and snapshots
FOLD = fold fold_groups fold_kept fold_key folder fold_builtin jsonb_merge state_cache \
	state_advance state_load state_past state_missing state_truncated state_keys state_diff states \
	snapshots snapshot_parts snapshot_history snapshot_check snapshot_due snapshot_reject snapshot_removals \
	snapshot_admin table_rows table_snapshots

# commands
COMMANDS = decider command executed

# projections are defined, changed, emptied
REGISTER = registry resolve resolve_tables deferred check_query definition barrier register alter reset

# the log is applied to them
APPLY = replay run price attempt failure crash_mark dead_letters retry retry_read unit projection_lag apply apply_read \
	apply_park apply_gather own_transaction hold known async async_pass async_record procedure activate

# and applied again, beside the old version
REBUILD = rebuild rebuild_row rebuild_readers rebuild_tables gate kept_waiting rebuild_online rebuild_look rebuild_exchange rebuild_request \
	rebuild_worker shadow members swap

# read models are verified, changed handlers tried
VERIFY = standin trial compare compare_states verify verify_whole trace try

# the beginning of a stream is removed
TRUNCATE = truncate truncate_letters truncate_warn

# subscriptions
SUBSCRIBE = subscription subscription_lock subscribe cursor subscription_letters \
	subscription_truncate subscription_lag receipt hand_out fetch

# the daemon
DAEMON = crew jobs daemon databases launcher coordinator staffing worker daemon_admin

# capture
CAPTURE = capture capture_definition capture_names capture_registry capture_walk \
	capture_truncate capture_plan capture_json capture_row capture_order capture_pending \
	capture_table capture_category capture_fires capture_owners capture_backfill \
	capture_guard

# what must not be dropped
GUARD = guard guard_used

OBJS = $(patsubst %,src/%.o, \
	$(GROUND) $(LOG) $(TYPES) $(APPEND) $(READ) $(DISPATCH) $(FOLD) $(COMMANDS) \
	$(REGISTER) $(APPLY) $(REBUILD) $(VERIFY) $(TRUNCATE) $(SUBSCRIBE) $(DAEMON) \
	$(CAPTURE) $(GUARD))

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
	sql/restore.sql \
	sql/column_comments.sql \
	sql/privileges.sql

DATA_built = sql/$(EXTENSION)--$(EXTVERSION).sql
DATA       = $(filter-out $(DATA_built),$(wildcard sql/$(EXTENSION)--*.sql))

PG_CONFIG ?= pg_config
PG_MAJOR  := $(shell $(PG_CONFIG) --version 2>/dev/null | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
have_pg    = $(shell test 0$(PG_MAJOR) -ge $(1) && echo yes)

PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# A call from one of our files to another goes straight there, whatever other libraries
# name their functions.  From 16 on PostgreSQL's own flags see to that.
bind_linux  = -Wl,-Bsymbolic
SHLIB_LINK += $(bind_$(PORTNAME))

# A call of PostgreSQL's functions goes there without a detour: more code to fetch, which
# is what an append waits for most.
calls_linux = -fno-plt
PG_CFLAGS  += $(calls_$(PORTNAME))

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

# These work before there is a PostgreSQL: dev/ holds a script for each.
HOUSE = check quickstart quickstart-stop soak bench
ifneq ($(filter $(HOUSE),$(MAKECMDGOALS)),)

.PHONY: $(HOUSE)
$(filter-out %-stop,$(HOUSE)):
	@dev/$@ $(ARGS)
quickstart-stop:
	@dev/quickstart stop

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

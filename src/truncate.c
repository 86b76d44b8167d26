/*
 * truncate.c - truncate_stream: let the beginning of a stream go, and keep what it
 * has come to.
 *
 * What the events did to states is kept: each fold keyed by stream gets a base,
 * its state just before the first event that is left, and begins with that from
 * now on (snapshot_history.c, state_load.c).  Of other folds it is noted that their
 * states cannot be computed again, and of read models that a rebuild does not bring
 * them back (state_truncated.c).  What the events did to these is there already, and subscriptions have had them (subscription_truncate.c), or the
 * stream is not truncated.  What a projection has parked it has not applied (truncate_letters.c).
 * The count of events that a projection has applied is written down before they go.  The last event of a
 * stream stays, and with it the stream's version.
 *
 * Locks, in the order of all changes: the names of the projections concerned, before
 * each that of its rebuild (whose version may have the events, too), their snapshots of the stream, the barrier (so that no append is open), the stream.
 * The events that go are folded, and what must be refused is refused, before the
 * barrier: as long as we have its name nobody changes what a projection makes of
 * events, by a definition of its own or one of event types.  All of it commits together
 * with the event that tells of it.
 */
#include "evsource.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "barrier.h"
#include "catalog.h"
#include "dead_letters.h"
#include "immutable.h"
#include "parameters.h"
#include "query.h"
#include "rebuild_row.h"
#include "registry.h"
#include "replay.h"
#include "replication.h"
#include "scan.h"
#include "snapshot_history.h"
#include "snapshots.h"
#include "state_load.h"
#include "state_truncated.h"
#include "states.h"
#include "streams.h"
#include "subscription.h"
#include "truncate_letters.h"
#include "types.h"

PG_FUNCTION_INFO_V1(evsource_truncate_stream);

typedef struct Truncation
{
	text	   *stream;
	char	   *name;			/* the stream as C string */
	int64		before;			/* version of the first event to stay */
	bool		force;
	int64		position;		/* of the last event to go */
	int64		events;			/* to go */
} Truncation;

/* A projection that the events may concern. */
typedef struct Concerned
{
	EvsProjection *projection;
	bool		takes;			/* such events; else it has only parked some before */
	EvsState	state;			/* to be kept */
} Concerned;

/* ---- arguments and rights ---- */

static void
check_rights(void)
{
	if (!has_privs_of_role(GetUserId(), evs_query_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to truncate a stream"),
				 errdetail("Only the owner of evsource, role \"%s\", may remove events.",
						   GetUserNameFromId(evs_query_owner(), false)),
				 errhint("Have a member of that role or a superuser do it.")));
}

static void
read_arguments(FunctionCallInfo fcinfo, Truncation *truncation)
{
	evs_argument_require(fcinfo, 0, "stream");
	evs_argument_require(fcinfo, 1, "before_version");
	truncation->stream = PG_GETARG_TEXT_PP(0);
	truncation->name = text_to_cstring(truncation->stream);
	truncation->before = PG_GETARG_INT64(1);
	truncation->force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	truncation->position = truncation->events = 0;

	if (truncation->before < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("before_version must be positive"),
				 errdetail("It is " INT64_FORMAT ".", truncation->before),
				 errhint("Pass the version of the first event that is to stay.")));
}

/* The stream's last version, and how many events there are before the one to stay. */
static EvsQuery survey = {
	"select coalesce((select e.version from evsource.events e where e.stream = $1"
	"  order by e.version desc limit 1), 0),"
	" (select count(*) from evsource.events e where e.stream = $1 and e.version < $2)",
	2, {TEXTOID, INT8OID}, SPI_OK_SELECT
};

static EvsQuery find_last = {
	"select position from evsource.events where stream = $1 and version < $2"
	" order by version desc limit 1",
	2, {TEXTOID, INT8OID}, SPI_OK_SELECT
};

/* The position of the last event to go; 0 if there is none. */
static int64
last_position(const Truncation *truncation)
{
	Datum		values[] = {
		PointerGetDatum(truncation->stream), Int64GetDatum(truncation->before)
	};

	return DatumGetInt64(evs_query_value(&find_last, values, NULL, InvalidSnapshot, Int64GetDatum(0)));
}

static void
check_version(const Truncation *truncation, int64 last)
{
	if (last == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("stream \"%s\" does not exist", truncation->name),
				 errhint("See evsource.streams for those that exist.")));
	if (truncation->before > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no version " INT64_FORMAT,
						truncation->name, truncation->before),
				 errdetail("Its last version is " INT64_FORMAT ".", last),
				 errhint("before_version can be at most " INT64_FORMAT ", because the last event of a stream is kept.",
						 last)));
}

static void
look_at_stream(Truncation *truncation)
{
	Datum		values[] = {
		PointerGetDatum(truncation->stream), Int64GetDatum(truncation->before)
	};
	EvsQueryResult result;
	int64		last;

	evs_query_begin(&survey, values, NULL, InvalidSnapshot, &result);
	last = evs_query_bigint(&result, 0, 1);
	truncation->events = evs_query_bigint(&result, 0, 2);
	evs_query_end(&result);
	check_version(truncation, last);
	truncation->position = last_position(truncation);
}

/* ---- the projections over the stream ---- */

static bool
is_over(const EvsProjection *projection, const Truncation *truncation)
{
	const EvsFilter *filter = &projection->filter;
	EvsFilter	categories = {.ncategories = filter->ncategories, .categories = filter->categories};
	EvsEvent	event = {.stream = truncation->stream};

	return evs_filter_accepts(&categories, &event);
}

static bool
is_concerned(const EvsProjection *projection, const Truncation *truncation)
{
	return is_over(projection, truncation) ||
		evs_letters_of_stream(projection->name, truncation->stream);
}

/* The projections that the stream's events may concern, each locked. */
static List *
projections_over(const Truncation *truncation)
{
	List	   *over = NIL;
	ListCell   *cell;

	foreach(cell, evs_registry_all_names())
	{
		EvsProjection *projection = evs_projection_load(lfirst(cell), true);

		if (projection == NULL || !is_concerned(projection, truncation))
			continue;
		evs_rebuild_lock(lfirst(cell));
		evs_registry_lock(lfirst(cell));
		projection = evs_projection_load(lfirst(cell), true);
		if (projection != NULL && is_concerned(projection, truncation))
		{
			Concerned  *concerned = palloc0(sizeof(Concerned));

			concerned->projection = projection;
			concerned->takes = is_over(projection, truncation);
			over = lappend(over, concerned);
		}
	}

	/* event types as they are, now that nobody can change them for these */
	(void) evs_types_any_now();
	return over;
}

static bool
is_among(const List *concerned, const char *name)
{
	ListCell   *cell;

	foreach(cell, concerned)
	{
		if (strcmp(((Concerned *) lfirst(cell))->projection->name, name) == 0)
			return true;
	}
	return false;
}

static void
give_up(const Truncation *truncation, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not truncate stream \"%s\"", truncation->name),
			 errdetail("%s", why),
			 errhint("Run the command again.")));
}

/* Nobody kept others from coming until the barrier was ours. */
static void
check_no_others(const List *concerned, const Truncation *truncation)
{
	ListCell   *cell;

	foreach(cell, evs_registry_all_names())
	{
		const char *name = lfirst(cell);
		EvsProjection *projection;

		if (is_among(concerned, name))
			continue;
		projection = evs_projection_load(name, true);
		if (projection != NULL && is_over(projection, truncation))
			give_up(truncation, psprintf("Projection \"%s\" has come to take events of it meanwhile.",
										 name));
	}
}

static bool
is_live(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE;
}

/* Are events to go that it would still have to apply? */
static bool
is_missing(const EvsProjection *projection, const Truncation *truncation, int64 applied)
{
	EvsScan    *scan = evs_scan_stream(truncation->stream, 1, truncation->before - 1, true,
									   GetLatestSnapshot());
	bool		missing = false;
	EvsEvent	event;

	evs_scan_as_stored(scan);
	while (!missing && evs_scan_next(scan, &event) &&
		   event.position > Max(applied, projection->start_after))
		missing = evs_filter_accepts(&projection->filter, &event);
	evs_scan_end(scan);
	return missing;
}

/* What a projection has not applied by now it never would. */
static void
check_applied(const EvsProjection *projection, const Truncation *truncation)
{
	EvsCheckpoint checkpoint;

	if (is_live(projection) || truncation->force)
		return;
	evs_checkpoint_read(projection->name, &checkpoint);
	if (checkpoint.position >= truncation->position ||
		!is_missing(projection, truncation, checkpoint.position))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot truncate stream \"%s\": projection \"%s\" has not applied its events",
					truncation->name, projection->name),
			 errdetail("Its state is \"%s\", and it has applied the log up to position " INT64_FORMAT " of " INT64_FORMAT ".",
					   evs_projection_state_name(projection->state), checkpoint.position,
					   truncation->position),
			 errhint("Let it catch up first, or use force => true to let the events go without it.")));
}

/* A state that takes long to compute, or that nobody can compute, is a reason to stop. */
static void
check_snapshot(EvsStateCall *call, const Truncation *truncation, const EvsState *state)
{
	EvsProjection *projection = call->projection;
	EvsSnapshot row;

	if (truncation->force)
		return;
	if (evs_snapshot_read(projection->name, truncation->stream, call->snapshot, &row) &&
		row.event_count >= state->event_count &&
		evs_snapshot_accept(projection, truncation->stream, &row))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot truncate stream \"%s\": projection \"%s\" has no snapshot of it at or after version " INT64_FORMAT,
					truncation->name, projection->name, truncation->before),
			 errhint("Save one: evsource.save_snapshot('%s', '%s'); or use force => true.",
					 projection->name, truncation->name)));
}

static bool
keeps_state(const EvsProjection *projection)
{
	return projection->kind == EVS_KIND_FOLD && projection->key_kind == EVS_KEY_STREAM;
}

/*
 * Where every state is saved, so is one of which no event is left: its row went with
 * them, and none may come that would bring another.
 */
static void
save_again(EvsStateCall *call, const Truncation *truncation)
{
	EvsState	state;
	EvsSnapshotWriter *writer;

	evs_state_ask_for_all(call);
	evs_state_of_key(call, truncation->stream, &state);
	if (state.version >= truncation->before)
		return;
	writer = evs_snapshot_writer(call->projection, call->definition);
	evs_snapshot_add(writer, truncation->stream, &state);
	(void) evs_snapshot_finish(writer);
}

/*
 * Compute the state that is to be kept: without what is parked.  Whoever reads may have saved a state by the
 * way, and sit on it: wait for that before anybody has to wait for us.
 */
static void
compute_state(Concerned *concerned, const Truncation *truncation)
{
	EvsProjection *projection = concerned->projection;
	EvsState   *state = &concerned->state;
	int64		parked = evs_dead_letters_first_version(projection->name, truncation->stream);
	EvsStateAt	at = {.version = Min(truncation->before, parked) - 1};
	EvsStateCall call;

	(void) evs_snapshot_lock(projection->name, truncation->stream, EVS_SNAPSHOT_LOCK_KEY);
	evs_state_begin(&call, projection, 0);
	evs_state_load_stream(call.folder, truncation->stream, &at, call.snapshot, state);
	evs_state_finish(call.folder, state);
	state->state = DatumGetJsonbPCopy(JsonbPGetDatum(state->state));
	if (state->event_count > 0)
		check_snapshot(&call, truncation, state);
	evs_state_end(&call);
}

/* Keep what the events have come to.  The key's snapshot is locked. */
static void
keep_state(const Concerned *concerned, const Truncation *truncation)
{
	EvsProjection *projection = concerned->projection;
	EvsStateCall call;

	evs_history_set_base(projection, truncation->stream, &concerned->state,
						 truncation->before - 1);
	if (projection->policy.snapshot_every != 1 || concerned->state.event_count == 0)
		return;
	evs_state_begin(&call, projection, 0);
	save_again(&call, truncation);
	evs_state_end(&call);
}

/* What can be done of it while others append; or why it cannot be done. */
static void
prepare(List *concerned, const Truncation *truncation)
{
	ListCell   *cell;

	foreach(cell, concerned)
	{
		Concerned  *each = lfirst(cell);

		check_applied(each->projection, truncation);
		evs_letters_check_truncation(each->projection->name, truncation->stream,
									 truncation->before, truncation->force);
		if (each->takes && keeps_state(each->projection))
			compute_state(each, truncation);
		if (is_live(each->projection))
			evs_replay_note_count(each->projection);
		evs_letters_truncated(each->projection->name, truncation->stream, truncation->before);
	}

	/* for those that may go without, see below */
	if (!truncation->force)
		evs_subscriptions_check_truncation(truncation->stream, truncation->before,
										   truncation->position, false);
}

/* ---- the events ---- */

static EvsQuery note = {
	"insert into evsource.truncations (stream, version, first_recorded_at, truncated_at)"
	" select e.stream, $2, e.recorded_at, clock_timestamp()"
	" from evsource.events e where e.stream = $1 order by e.version limit 1"
	" on conflict (stream) do update"
	"  set version = excluded.version, truncated_at = excluded.truncated_at",
	2, {TEXTOID, INT8OID}, SPI_OK_INSERT
};

static EvsQuery delete_events = {
	"delete from evsource.events where stream = $1 and version < $2",
	2, {TEXTOID, INT8OID}, SPI_OK_DELETE
};

static EvsQuery tell = {
	"select from evsource.append('evsource-lifecycle', 'StreamTruncated',"
	" pg_catalog.jsonb_build_object('stream', $1::text, 'before_version', $2::bigint,"
	"  'events', $3::bigint, 'forced', $4::boolean))",
	4, {TEXTOID, INT8OID, INT8OID, BOOLOID}, SPI_OK_SELECT
};

/* Those that were folded, and no others. */
static int64
remove_events(const Truncation *truncation, Datum *values)
{
	int64		removed;

	(void) evs_query_run(&note, values, NULL);
	evs_immutable_allow_deletes(true);
	removed = evs_query_run(&delete_events, values, NULL);
	evs_immutable_allow_deletes(false);
	if (removed > truncation->events)
		give_up(truncation, "Events that are to go were restored meanwhile.");
	return removed;
}

/*
 * evsource.truncate_stream(stream text, before_version bigint, force boolean)
 * returns bigint: removes the stream's events before this version, and returns
 * how many there were.
 *
 * Errors: 22004 for a null, 22023 for a version that is not the stream's, 42704
 * for an unknown stream, 42501, 25000 under REPEATABLE READ, 40001 when what there is
 * to keep has become more; 55000 when a fold has no snapshot, a projection has not
 * applied the events (or has parked them), or a subscription has not had them: none of it with force.
 */
Datum
evsource_truncate_stream(PG_FUNCTION_ARGS)
{
	Truncation	truncation;
	Relation	events;
	List	   *concerned;
	ListCell   *cell;
	int64		removed;
	Datum		values[4];

	PreventCommandIfReadOnly("evsource.truncate_stream()");
	evs_replication_refuse("truncate a stream");
	read_arguments(fcinfo, &truncation);
	check_rights();
	evs_require_read_committed("truncate a stream");

	concerned = projections_over(&truncation);
	look_at_stream(&truncation);
	if (truncation.position == 0)
		PG_RETURN_INT64(0);
	prepare(concerned, &truncation);
	evs_barrier("truncate stream", truncation.name);
	events = evs_catalog_open(evs_catalog()->events, RowExclusiveLock);
	(void) evs_stream_lock(events, truncation.stream, 0);
	table_close(events, NoLock);
	check_no_others(concerned, &truncation);

	/* another session may have done as much */
	truncation.position = last_position(&truncation);
	if (truncation.position == 0)
		PG_RETURN_INT64(0);

	foreach(cell, concerned)
	{
		Concerned  *each = lfirst(cell);

		if (!each->takes)
			continue;
		if (keeps_state(each->projection))
			keep_state(each, &truncation);
		else
			evs_truncated_note(each->projection, truncation.stream, truncation.before);
		if (is_live(each->projection))
			evs_replay_settle(each->projection);
	}

	evs_subscriptions_check_truncation(truncation.stream, truncation.before,
									   truncation.position, truncation.force);
	values[0] = PointerGetDatum(truncation.stream);
	values[1] = Int64GetDatum(truncation.before);
	removed = remove_events(&truncation, values);
	evs_subscriptions_truncated(truncation.stream, truncation.before);
	ereport(DEBUG1,
			(errmsg_internal("truncated stream \"%s\" before version " INT64_FORMAT ": " INT64_FORMAT " events",
							 truncation.name, truncation.before, removed)));
	values[2] = Int64GetDatum(removed);
	values[3] = BoolGetDatum(truncation.force);
	evs_query_run(&tell, values, NULL);
	PG_RETURN_INT64(removed);
}

/*
 * state_truncated.c - what truncated events have come to in read models, and in folds
 * that are not keyed by stream.
 *
 * Such a fold has no base to begin with (snapshot_history.c): the events of one
 * stream may be in the states of many keys, and which ones nobody can tell when they
 * are gone.  But each state is a row that has all of them.  So evsource.checkpoints
 * notes that there are such events, and then no state is computed from the log
 * that the row does not give: neither one of the past, nor one in place of a row
 * that cannot be used.  That is so until the states are made anew.
 *
 * Of a read model the same is noted, and tables that were saved without such events
 * are no begin for a rebuild any more: what is left of the log does not bring them
 * to where they have been (table_snapshots.c, rebuild.c).  It is noted of each version
 * that there is, also of one that a rebuild makes or has kept, in evsource.rebuilds.
 */
#include "state_truncated.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "identity.h"
#include "query.h"
#include "state_keys.h"
#include "text_array.h"
#include "unit.h"

static EvsQuery note = {
	"update evsource.checkpoints set truncated = $2"
	" where projection = $1 and truncated is null and exists ("
	"  select from evsource.events where stream = $2 and version < $3 and position > $4"
	"   and position <= $6 and ($5 is null or type = any ($5)))",
	6, {TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery note_beside = {
	"update evsource.rebuilds r set truncated = $2, truncated_both = true"
	" where projection = $1 and truncated is null and shadow is not null and exists ("
	"  select from evsource.events where stream = $2 and version < $3 and position > $4"
	"   and position <= greatest(r.position, (select max(p) from unnest(r.parts) p))"
	"   and position <= $6 and ($5 is null or type = any ($5)))",
	6, {TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID, INT8OID}, SPI_OK_UPDATE
};

/* Gone before the version that is kept has had them: the one in use has. */
static EvsQuery note_missed = {
	"update evsource.rebuilds r set missed = $2"
	" where projection = $1 and missed is null and state = 'kept' and shadow is not null and exists ("
	"  select from evsource.events where stream = $2 and version < $3 and position > $4"
	"   and position > coalesce(r.parts[1 + evsource._partition($2, cardinality(r.parts))], r.position)"
	"   and position <= $6 and ($5 is null or type = any ($5)))",
	6, {TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery note_saved = {
	"update evsource.table_snapshots s set truncated = $2"
	" where projection = $1 and truncated is null and exists ("
	"  select from evsource.events where stream = $2 and version < $3"
	"   and position > greatest(s.position, $4) and position <= $6"
	"   and ($5 is null or type = any ($5)))",
	6, {TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery forget = {
	"update evsource.checkpoints set truncated = null"
	" where projection = $1 and truncated is not null",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery exchange = {
	"with beside as (update evsource.rebuilds r set truncated = c.truncated, truncated_both = false,"
	"  missed = r.missed_in_use, missed_in_use = r.missed"
	"  from evsource.checkpoints c where r.projection = $1 and c.projection = $1)"
	" update evsource.checkpoints c set truncated = r.truncated"
	" from evsource.rebuilds r where c.projection = $1 and r.projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery find_missed = {
	"select missed_in_use from evsource.rebuilds where projection = $1 and missed_in_use is not null",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery find = {
	"select truncated from evsource.checkpoints where projection = $1 and truncated is not null",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* Is it a fold whose states are its rows, and nothing else? */
static bool
states_are_rows(const EvsProjection *projection)
{
	return projection->kind == EVS_KIND_FOLD && projection->key_kind != EVS_KEY_STREAM;
}

void
evs_truncated_note(const EvsProjection *projection, text *stream, int64 before)
{
	const EvsFilter *filter = &projection->filter;
	bool		is_live = projection->mode == EVS_MODE_INLINE &&
		projection->state == EVS_PROJECTION_ACTIVE;
	Datum		values[] = {
		CStringGetTextDatum(projection->name), PointerGetDatum(stream),
		Int64GetDatum(before), Int64GetDatum(projection->start_after),
		evs_text_array(filter->types, filter->ntypes),
		/* what is let go by force before it was applied is in nothing */
		Int64GetDatum(is_live ? PG_INT64_MAX : evs_units_furthest(projection))
	};

	const char *nulls = filter->ntypes > 0 ? NULL : "    n ";

	(void) evs_query_run(&note, values, nulls);
	(void) evs_query_run(&note_beside, values, nulls);
	(void) evs_query_run(&note_missed, values, nulls);
	(void) evs_query_run(&note_saved, values, nulls);
}

char *
evs_truncated_stream(const char *projection, Snapshot snapshot)
{
	Datum		values[] = {CStringGetTextDatum(projection)};
	Datum		stream = evs_query_value(&find, values, NULL, snapshot, (Datum) 0);

	return stream == (Datum) 0 ? NULL : TextDatumGetCString(stream);
}

void
evs_truncated_warn(const char *projection, const char *stream)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("the read model of projection \"%s\" that stood for truncated events is gone",
					projection),
			 errdetail("Events of stream \"%s\" were truncated. The read model is built again from the events that are left.",
					   stream),
			 errhint("To keep what tables hold, save them with evsource.save_snapshot(), and rebuild with from_snapshot => true.")));
}

void
evs_truncated_forget(const EvsProjection *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection->name)};
	char	   *stream = evs_truncated_stream(projection->name, InvalidSnapshot);

	if (stream == NULL)
		return;
	(void) evs_query_run(&forget, values, NULL);
	if (states_are_rows(projection))
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("the states of projection \"%s\" that stood for truncated events are gone",
						projection->name),
				 errdetail("Events of stream \"%s\" were truncated. The states are computed again from the events that are left.",
						   stream),
				 errhint("To keep such states, rebuild a projection with from_snapshot => true.")));
	else
		evs_truncated_warn(projection->name, stream);
}

void
evs_truncated_exchange(const char *projection)
{
	(void) evs_query_run_by_name(&exchange, projection);
}

void
evs_truncated_warn_missed(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};
	Datum		stream = evs_query_value(&find_missed, values, NULL, InvalidSnapshot, (Datum) 0);

	if (stream == (Datum) 0)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("the old version of projection \"%s\" lacks truncated events", projection),
			 errdetail("Events of stream \"%s\" were truncated before that version had applied them.",
					   TextDatumGetCString(stream)),
			 errhint("To return to the version that has them, call evsource.revert_rebuild('%s') again.",
					 projection)));
}

void
evs_truncated_check_replay(const EvsProjection *projection)
{
	char	   *stream;

	if (projection->kind == EVS_KIND_FOLD)
		return;
	stream = evs_truncated_stream(projection->name, InvalidSnapshot);
	if (stream != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot rebuild projection \"%s\" from a snapshot", projection->name),
				 errdetail("Events of stream \"%s\" were truncated, and no snapshot of its tables that can be used includes them.",
						   stream),
				 errhint("The server log says why a snapshot is not used. To rebuild from the events that are left alone: CALL evsource.rebuild_projection('%s').",
						 projection->name)));
}

void
evs_truncated_past(const EvsProjection *projection, text *key, const EvsSnapshot *row,
				   const char *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("events that make this state were truncated"),
			 errdetail("Stream \"%s\" was truncated; projection \"%s\" kept only the resulting state of key \"%s\".",
					   stream, projection->name, text_to_cstring(key)),
			 row->definition != evs_snapshot_definition(projection) ?
			 errhint("To have past states of the events that are left, rebuild the projection.") :
			 errhint("Ask for a time after %s, when the last one of its events occurred.",
					 timestamptz_to_str(row->occurred_at))));
}

void
evs_truncated_useless(const EvsProjection *projection, text *key, const EvsSnapshot *row,
					  const char *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot compute the state of key \"%s\" for projection \"%s\"",
					text_to_cstring(key), projection->name),
			 errdetail("Events of stream \"%s\" were truncated, and the state that they made cannot be used: see evsource.snapshot_status.",
					   stream),
			 errhint("Give the projection a migrate_state function that brings up states of version %d, or the definition that it had; or rebuild it from the events that are left.",
					 row->state_version)));
}

/* As evs_snapshot_problem(), of the key's row. */
static const char *
row_problem(const EvsProjection *old, EvsProjection *new, text *key, Snapshot snapshot,
			char **message)
{
	EvsSnapshot row;

	*message = NULL;
	if (!states_are_rows(new) || new->key_kind != old->key_kind ||
		(new->key_kind == EVS_KEY_FUNCTION && strcmp(new->key_function, old->key_function) != 0))
		return "is that of a fold with another key";
	if (!evs_snapshot_read(new->name, key, snapshot, &row))
		return NULL;
	return evs_snapshot_problem(new, &row, message);
}

static void
check_rows(const EvsProjection *old, EvsProjection *new, const char *stream)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsKeyWalk *walk = evs_key_walk(old, snapshot);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource rows",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	text	   *key;

	while ((key = evs_key_walk_next(walk)) != NULL)
	{
		char	   *message;
		const char *problem = row_problem(old, new, key, snapshot, &message);

		if (problem != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot alter projection \"%s\": its states of truncated events could no longer be used",
							new->name),
					 errdetail("Stream \"%s\" was truncated, and the state of key \"%s\" cannot be computed from the events that are left. It %s%s%s.",
							   stream, text_to_cstring(key), problem,
							   message ? ": " : "", message ? message : ""),
					 errhint("For another state version, give migrate_state or is_compatible, too. To have states of the events that are left, create another projection, or rebuild this one first.")));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	evs_key_walk_end(walk);
	UnregisterSnapshot(snapshot);
}

void
evs_truncated_check(const EvsProjection *old, EvsProjection *new)
{
	EvsIdentity identity;
	char	   *stream;

	if (!states_are_rows(old))
		return;
	stream = evs_truncated_stream(old->name, InvalidSnapshot);
	if (stream == NULL)
		return;
	evs_identity_enter(&identity, new->owner, new->search_path);
	evs_identity_pin_settings();
	check_rows(old, new, stream);
	evs_identity_leave(&identity);
}

/*
 * snapshot_reject.c - what was rejected, and why.
 *
 * After a change of the state version there may be a million snapshots that
 * cannot be used, and each is met at every load until it is replaced.  That is
 * told once: the first time that a reason is met it is written down, in
 * evsource.snapshot_rejections, and logged.  Reasons name versions and not
 * keys, so they are few; one row says what a million keys have in common.
 *
 * Whoever only asks for a state must not wait, and may not be able to write (a
 * standby, a transaction that is read only or whose snapshot is fixed): then
 * the session remembers that it has logged the reason.
 */
#include "snapshots.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "query.h"

/* A session remembers this many, and beyond them tells nothing but at DEBUG1. */
#define MAX_TOLD	64

static List *told = NIL;		/* of char *, in TopMemoryContext */

static EvsQuery note = {
	"insert into evsource.snapshot_rejections (projection, reason, key, state_version, rejected_at)"
	" values ($1, $2, $3, $4, clock_timestamp()) on conflict do nothing",
	4, {TEXTOID, TEXTOID, TEXTOID, INT4OID}, SPI_OK_INSERT
};

static EvsQuery forget = {
	"delete from evsource.snapshot_rejections where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

/* Does this session hear of it for the first time?  Remembers that it did. */
static bool
is_new_here(const char *projection, const char *reason)
{
	char	   *both = psprintf("%s\n%s", projection, reason);
	ListCell   *cell;
	MemoryContext caller;

	foreach(cell, told)
	{
		if (strcmp(lfirst(cell), both) == 0)
			return false;
	}
	if (list_length(told) >= MAX_TOLD)
		return false;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	told = lappend(told, pstrdup(both));
	MemoryContextSwitchTo(caller);
	return true;
}

static bool
can_write(void)
{
	return !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode() &&
		!IsolationUsesXactSnapshot();
}

/* Write it down; false if it was already, or somebody is doing it. */
static bool
note_rejection(const EvsProjection *projection, text *key, const char *reason)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name),
		CStringGetTextDatum(reason),
		PointerGetDatum(key),
		Int32GetDatum(projection->state_version)
	};

	return evs_snapshot_lock(projection->name, DatumGetTextPP(values[1]), EVS_SNAPSHOT_TRY_KEY) &&
		evs_query_run(&note, values, NULL) > 0;
}

void
evs_snapshot_reject(EvsProjection *projection, text *key, const char *reason)
{
	bool		tell = is_new_here(projection->name, reason);

	if (tell && can_write())
		tell = note_rejection(projection, key, reason);

	ereport(tell ? LOG : DEBUG1,
			(errmsg("snapshot of projection \"%s\" for key \"%s\" is not used",
					projection->name, text_to_cstring(key)),
			 errdetail("It %s.", reason),
			 errhint("The state is computed from the events; saving it again replaces the snapshot. What was rejected shows in evsource.snapshot_status.")));
}

void
evs_snapshot_forget_rejections(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	(void) evs_query_run(&forget, values, NULL);
}

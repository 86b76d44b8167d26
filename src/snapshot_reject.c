/*
 * snapshot_reject.c - what was rejected, and why.
 *
 * After a change of the state version there may be a million snapshots that
 * cannot be used, and each is met at every load until it is replaced.  That is
 * told once: the first time that a reason is met it is written down, in
 * evsource.snapshot_rejections, and logged.  Reasons name versions and SQLSTATEs,
 * neither keys nor what an owner's function said, so they are few; one row says
 * what a million keys have in common, and what was said of the first.
 *
 * Whoever only asks for a state must not wait, and may not be able to write (a
 * standby, a transaction that is read only or whose snapshot is fixed): then
 * the session remembers that it has logged the reason.  What it wrote down may
 * roll back, so that is remembered no longer than the transaction.
 */
#include "snapshots.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "query.h"

/* A session remembers this many; the oldest make room. */
#define MAX_TOLD	64

typedef struct Told
{
	bool		logged;
	bool		noted;			/* or found to be */
	bool		settled;		/* noted, and that cannot roll back any more */
	char		text[FLEXIBLE_ARRAY_MEMBER];
} Told;

static List *told = NIL;		/* of Told, in TopMemoryContext */
static uint64 told_generation = 0;	/* of projections, when that was looked at last */

static EvsQuery note = {
	"insert into evsource.snapshot_rejections (projection, reason, key, message, state_version, rejected_at)"
	" values ($1, $2, $3, $4, $5, clock_timestamp()) on conflict do nothing",
	5, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID}, SPI_OK_INSERT
};

static EvsQuery forget = {
	"delete from evsource.snapshot_rejections where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

/* What this session has told of the reason. */
static Told *
find_told(const char *projection, const char *reason)
{
	char	   *text = psprintf("%s\n%s", projection, reason);
	Told	   *found;
	ListCell   *cell;
	MemoryContext caller;

	foreach(cell, told)
	{
		found = lfirst(cell);
		if (strcmp(found->text, text) == 0)
			return found;
	}
	if (list_length(told) >= MAX_TOLD)
	{
		pfree(linitial(told));
		told = list_delete_first(told);
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	found = palloc0(offsetof(Told, text) + strlen(text) + 1);
	strcpy(found->text, text);
	told = lappend(told, found);
	MemoryContextSwitchTo(caller);
	return found;
}

/* A projection has changed: what was noted may have been cleared. */
static void
hear_of_changes(void)
{
	uint64		generation = evs_state_cache_generation();
	ListCell   *cell;

	if (told_generation == generation)
		return;
	told_generation = generation;
	foreach(cell, told)
	{
		Told	   *each = lfirst(cell);

		each->noted = each->settled = false;
	}
}

static bool
can_write(void)
{
	return !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode() &&
		!IsolationUsesXactSnapshot();
}

/* Write it down; false if it was already, or somebody is doing it. */
static bool
note_rejection(const EvsProjection *projection, text *key, const char *reason,
			   const char *message)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name),
		CStringGetTextDatum(reason),
		PointerGetDatum(key),
		message ? CStringGetTextDatum(message) : (Datum) 0,
		Int32GetDatum(projection->state_version)
	};
	char		nulls[] = {' ', ' ', ' ', message ? ' ' : 'n', ' ', '\0'};

	return evs_snapshot_lock(projection->name, DatumGetTextPP(values[1]), EVS_SNAPSHOT_TRY_KEY) &&
		evs_query_run(&note, values, nulls) > 0;
}

void
evs_snapshot_reject(EvsProjection *projection, text *key, const char *reason,
					const char *message)
{
	Told	   *mine;
	bool		tell;

	hear_of_changes();
	mine = find_told(projection->name, reason);
	tell = !mine->logged;
	if (!mine->noted && can_write())
	{
		mine->noted = true;
		/* who wrote it down before has logged it, too */
		tell = note_rejection(projection, key, reason, message) && tell;
	}
	mine->logged = true;

	ereport(tell ? LOG : DEBUG1,
			(errmsg("snapshot of projection \"%s\" for key \"%s\" is not used",
					projection->name, text_to_cstring(key)),
			 message ? errdetail("It %s: %s", reason, message) : errdetail("It %s.", reason),
			 errhint("The state is computed from the events; saving it again replaces the snapshot. What was rejected shows in evsource.snapshot_status.")));
}

void
evs_snapshot_forget_rejections(const char *projection)
{
	(void) evs_query_run_by_name(&forget, projection);
}

static void
transaction_ends(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	foreach(cell, told)
	{
		Told	   *each = lfirst(cell);

		if (event == XACT_EVENT_COMMIT)
			each->settled = each->noted;
		else
			each->noted = each->settled;
	}
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	ListCell   *cell;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	foreach(cell, told)
	{
		Told	   *each = lfirst(cell);

		each->noted = each->settled;
	}
}

void
evs_snapshot_reject_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}

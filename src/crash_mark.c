/*
 * crash_mark.c - notice that a handler has ended the server, or its own process.
 *
 * A mark is a row that commits, to disk, before a batch is begun, and is taken
 * back by the transaction that applies the batch.  Who finds one at the position of
 * the unit, or of the rebuild, knows that the batch has not come to an end.  A
 * worker that is told to leave in the middle of a batch takes the mark back; so
 * what is left is a crash of the server, an immediate shutdown, or a handler that
 * has ended the worker alone (a FATAL error, or a signal to itself).
 *
 * Which event it was is found out in steps: a crash in a batch that had a mark;
 * if that was a large one, as rebuilds have them, another in a hundredth of it;
 * then the events of that batch one by one.  How far that is stays in the row,
 * for whichever worker goes on with it.
 *
 * Locks: the unit's or the rebuild's for the row.  The turn is a lock tag of our
 * own that the session holds over two transactions; the second holds it for itself as well,
 * for a handler may let go of what the session has (pg_advisory_unlock_all()).  There is one
 * turn for all databases, as a crash ends what is under way in all of them.  Nobody waits for
 * it: who does not get it comes back soon, and who has had it for a while leaves a gap that is
 * long enough for that.  Who has not got it for long, as a handler that never returns has
 * it, goes on without; but if that has ended in a crash it waits for much longer, so that
 * whoever is slow and has the turn is not blamed as often.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "clock.h"
#include "crash_mark.h"
#include "lock_classes.h"
#include "own_transaction.h"
#include "query.h"
#include "settings.h"

/* So often in a row, at least, before an event is blamed for it. */
#define FEWEST_CRASHES	3

/* So many events are not applied one by one, ... */
#define MANY_EVENTS		10000

/* ... but in batches smaller by this factor. */
#define NARROWER		100

/* ms after which others have their turn, how soon they come, and the gap */
#define TURN_TIME		1000
#define TURN_RETRY		50
#define TURN_GAP		(2 * TURN_RETRY)

/* ms after which one goes on without it, and how much longer that is after each crash */
#define TURN_PATIENCE	5000
#define MORE_PATIENCE	12
#define MOST_PATIENCE	(12 * 60000)

static EvsQuery read_mark = {
	"select position, events, attempts, careful, batch, begun_at from evsource.crash_marks"
	" where projection = $1 and partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery write_mark = {
	"insert into evsource.crash_marks as m"
	" (projection, partition, position, events, attempts, careful, batch)"
	" values ($1, $2, $3, $4, $5, $6, $7)"
	" on conflict (projection, partition) do update set position = excluded.position,"
	" events = excluded.events, attempts = excluded.attempts, careful = excluded.careful,"
	" batch = excluded.batch, begun_at = clock_timestamp()"
	" returning begun_at",
	7, {TEXTOID, INT4OID, INT8OID, INT4OID, INT4OID, INT4OID, INT4OID}, SPI_OK_INSERT_RETURNING
};

static EvsQuery withdraw_mark = {
	"update evsource.crash_marks set events = 0 where projection = $1 and partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_UPDATE
};

/* The same of one's own, without the unit: who has locked the row has the unit, and overwrites it. */
static EvsQuery withdraw_own = {
	"update evsource.crash_marks m set events = 0"
	" from (select projection, partition from evsource.crash_marks"
	"  where projection = $1 and partition = $2 and begun_at = $3 and events > 0"
	"  for update skip locked) own"
	" where m.projection = own.projection and m.partition = own.partition",
	3, {TEXTOID, INT4OID, TIMESTAMPTZOID}, SPI_OK_UPDATE
};

static EvsQuery clear_unused = {
	"delete from evsource.crash_marks"
	" where projection = $1 and partition = $2 and attempts = 0 and careful = 0",
	2, {TEXTOID, INT4OID}, SPI_OK_DELETE
};

static EvsQuery clear_mark = {
	"delete from evsource.crash_marks where projection = $1 and partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_DELETE
};

static EvsQuery clear_marks = {
	"delete from evsource.crash_marks where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

/* A row of evsource.crash_marks. */
typedef struct Mark
{
	int64		position;		/* of the unit or the rebuild before it */
	int			events;			/* at most so many are being applied */
	int			attempts;		/* at one event, before this one */
	int			careful;		/* so many are to be applied in small batches */
	int			batch;			/* of so many */
	TimestampTz begun_at;		/* by which one's own is known */
} Mark;

/* The mark that this process has left, and not taken back yet; no name: none. */
static char marked[NAMEDATALEN];
static int	marked_partition;
static TimestampTz marked_at;

static bool has_turn = false;
static bool wants_turn = false; /* somebody else has it */
static EvsTime turn_began;		/* none: with the next time that we get it */

static bool
read_left(const char *projection, int partition, Mark *mark)
{
	Datum		values[] = {CStringGetTextDatum(projection), Int32GetDatum(partition)};
	EvsQueryResult result;
	bool		found;

	memset(mark, 0, sizeof(Mark));
	evs_query_begin(&read_mark, values, NULL, InvalidSnapshot, &result);
	found = result.count > 0;
	if (found)
	{
		mark->position = evs_query_bigint(&result, 0, 1);
		mark->events = evs_query_integer(&result, 0, 2);
		mark->attempts = evs_query_integer(&result, 0, 3);
		mark->careful = evs_query_integer(&result, 0, 4);
		mark->batch = evs_query_integer(&result, 0, 5);
		mark->begun_at = evs_query_timestamp(&result, 0, 6);
	}
	evs_query_end(&result);
	return found;
}

static TimestampTz
write_down(const EvsCaution *caution, const char *projection, int partition, int64 position,
		   int64 events)
{
	Datum		values[] = {
		CStringGetTextDatum(projection), Int32GetDatum(partition),
		Int64GetDatum(position), Int32GetDatum((int32) Min(events, PG_INT32_MAX)),
		Int32GetDatum(caution->crashes), Int32GetDatum((int32) caution->careful),
		Int32GetDatum(caution->batch)
	};

	return DatumGetTimestampTz(evs_query_value(&write_mark, values, NULL, InvalidSnapshot,
											   TimestampTzGetDatum(0)));
}

void
evs_caution_withdraw(const char *projection, int partition)
{
	Datum		values[] = {CStringGetTextDatum(projection), Int32GetDatum(partition)};

	(void) evs_query_run(&clear_unused, values, NULL);
	(void) evs_query_run(&withdraw_mark, values, NULL);
}

void
evs_crash_mark_clear(const char *projection, int partition)
{
	Datum		values[] = {CStringGetTextDatum(projection), Int32GetDatum(partition)};

	(void) evs_query_run(&clear_mark, values, NULL);
}

void
evs_crash_marks_clear(const char *projection)
{
	(void) evs_query_run_by_name(&clear_marks, projection);
}

static void
turn_locktag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, InvalidOid, 0, 0, EVS_LOCK_TURN);
}

static bool
take_turn(void)
{
	LOCKTAG		tag;

	if (has_turn)
		return true;
	turn_locktag(&tag);
	has_turn = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	wants_turn = !has_turn;
	if (has_turn && !evs_clock_is_set(turn_began))
		turn_began = evs_clock_now();
	return has_turn;
}

/* May it apply events one by one?  With the turn, or after it has waited for that for long. */
static bool
may_go_on(EvsCaution *caution)
{
	double		patience = TURN_PATIENCE;

	if (take_turn())
	{
		caution->waits_since = EVS_NO_TIME;
		return true;
	}
	if (!evs_clock_is_set(caution->waits_since))
		caution->waits_since = evs_clock_now();
	for (int i = 0; i < caution->crashes && patience < MOST_PATIENCE; i++)
		patience *= MORE_PATIENCE;
	if (evs_clock_since(caution->waits_since) < Min(patience, MOST_PATIENCE))
		return false;
	wants_turn = false;
	return true;
}

void
evs_caution_keep_turn(void)
{
	LOCKTAG		tag;

	if (!has_turn)
		return;
	turn_locktag(&tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, true);
}

static void
give_up_turn(void)
{
	LOCKTAG		tag;

	turn_locktag(&tag);
	/* unless a handler has done so */
	if (LockHeldByMe(&tag, ExclusiveLock, false))
		(void) LockRelease(&tag, ExclusiveLock, true);
	has_turn = false;
}

/* Not when somebody drops the table, or waits for us with locks that we would need. */
static bool
can_withdraw(void)
{
	Oid			schema = get_namespace_oid("evsource", true);
	Oid			marks = OidIsValid(schema) ? get_relname_relid("crash_marks", schema) : InvalidOid;

	return OidIsValid(marks) && ConditionalLockRelationOid(marks, RowExclusiveLock) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(marks));
}

static void
withdraw_marked(void)
{
	Datum		values[] = {
		CStringGetTextDatum(marked), Int32GetDatum(marked_partition), TimestampTzGetDatum(marked_at)
	};

	if (can_withdraw() && evs_query_run(&withdraw_own, values, NULL) > 0)
		(void) evs_query_run(&clear_unused, values, NULL);
	marked[0] = '\0';
}

/* The batch has not come about, or has failed and somebody else has the unit now. */
static void
take_back(void)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		evs_own_transaction_begin();
		withdraw_marked();
		evs_own_transaction_commit();
	}
	PG_CATCH();
	{
		/* it stays: one crash too many may be counted */
		evs_own_transaction_give_up(caller);
		marked[0] = '\0';
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
}

int
evs_caution_rest(void)
{
	if (marked[0] != '\0')
		take_back();
	if (has_turn)
	{
		give_up_turn();
		if (evs_clock_since(turn_began) < TURN_TIME)
			return 0;
		turn_began = EVS_NO_TIME;
		return TURN_GAP;
	}
	if (!wants_turn)
		return 0;
	wants_turn = false;
	turn_began = EVS_NO_TIME;
	return TURN_RETRY;
}

/* What a mark tells that nobody has taken back. */
static void
learn(EvsCaution *caution, const char *projection, const Mark *left)
{
	if (left->events > 1)
	{
		caution->careful = left->events;
		caution->batch = left->events > MANY_EVENTS ? left->events / NARROWER : 1;
		caution->crashes = 0;
	}
	else
	{
		caution->careful = Max(left->careful, 1);
		caution->batch = 1;
		caution->crashes = left->attempts + 1;
	}
	ereport(LOG,
			(errmsg("the process died while projection \"%s\" was applied after position %lld",
					projection, (long long) left->position),
			 errdetail("Up to %lld events are applied in batches of %d now.",
					   (long long) caution->careful, caution->batch)));
}

bool
evs_caution_begin(EvsCaution *caution, const char *projection, int partition, int64 position,
				  int64 events)
{
	Mark		left;
	bool		news = false;

	caution->careful = caution->batch = caution->crashes = 0;
	if (read_left(projection, partition, &left) && left.position == position)
	{
		news = left.events > 0 && left.begun_at != caution->marked_at;
		if (news)
			learn(caution, projection, &left);
		else
		{
			caution->careful = left.careful;
			caution->batch = left.batch;
			caution->crashes = left.attempts;
		}
	}
	if (caution->careful > 0 && !may_go_on(caution))
	{
		/* it is not to be learned again with every try */
		if (news)
			(void) write_down(caution, projection, partition, position, 0);
		return false;
	}

	marked_at = caution->marked_at =
		write_down(caution, projection, partition, position, evs_caution_batch(caution, events));
	strlcpy(marked, projection, sizeof(marked));
	marked_partition = partition;
	ForceSyncCommit();
	return true;
}

void
evs_caution_end(EvsCaution *caution, const char *projection, int partition, int64 position,
				bool at_end)
{
	caution->crashes = 0;
	caution->careful = at_end ? 0 : Max(caution->careful - caution->batch, 0);
	if (caution->careful == 0)
		evs_crash_mark_clear(projection, partition);
	else
		(void) write_down(caution, projection, partition, position, 0);
}

void
evs_caution_settled(void)
{
	marked[0] = '\0';
}

int64
evs_caution_batch(const EvsCaution *caution, int64 events)
{
	return caution->careful > 0 ? Min(events, caution->batch) : events;
}

int
evs_caution_blames(const EvsCaution *caution)
{
	return Max(caution->crashes - Max(evs_async_attempts, FEWEST_CRASHES) + 1, 0);
}

/*
 * Temporary tables are removed in the same way.  An error here ends what is left
 * of the process, and the mark stays: one crash too many is counted.
 */
void
evs_crash_mark_at_exit(void)
{
	if (marked[0] == '\0' || !PostmasterIsAlive())
		return;

	AbortOutOfAnyTransaction();
	evs_own_transaction_begin();
	withdraw_marked();
	evs_own_transaction_commit();
}

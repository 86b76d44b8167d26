/*
 * crash_mark.c - notice that a handler has ended the server.
 *
 * A mark is a row that commits, to disk, before a batch is begun, and is deleted
 * by the transaction that applies the batch.  Who finds one at the position of
 * the unit knows that the batch has not come to an end.  A worker that is told
 * to leave in the middle of a batch takes the mark back; so what is left is a
 * crash of the server, or an immediate shutdown.
 *
 * Which event it was is found out in three steps (async.c): the crash itself,
 * which nobody was prepared for; a second one in a batch that had a mark; then
 * the events of that batch one by one.
 *
 * Locks: the unit's for the row.  The turn is a lock tag of our own that the
 * session holds over two transactions.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"

#include "crash_mark.h"
#include "own_transaction.h"
#include "query.h"

#define TURN_LOCK_CLASS		0xEC

static EvsQuery read_mark = {
	"select position, events, attempts, careful from evsource.crash_marks"
	" where projection = $1 and partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery write_mark = {
	"insert into evsource.crash_marks as m"
	" (projection, partition, position, events, attempts, careful)"
	" values ($1, $2, $3, $4, $5, $6)"
	" on conflict (projection, partition) do update set position = excluded.position,"
	" events = excluded.events, attempts = excluded.attempts, careful = excluded.careful,"
	" begun_at = clock_timestamp()",
	6, {TEXTOID, INT4OID, INT8OID, INT4OID, INT4OID, INT4OID}, SPI_OK_INSERT
};

static EvsQuery clear_mark = {
	"delete from evsource.crash_marks where projection = $1 and partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_DELETE
};

static EvsQuery clear_marks = {
	"delete from evsource.crash_marks where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

/* The mark that this process has left; partition -1: none. */
static char marked[NAMEDATALEN];
static int	marked_partition = -1;

static bool has_turn = false;

bool
evs_crash_mark_read(const char *projection, int partition, EvsCrashMark *mark)
{
	Datum		values[] = {CStringGetTextDatum(projection), Int32GetDatum(partition)};
	EvsQueryResult result;
	bool		found;
	bool		is_null;

	memset(mark, 0, sizeof(EvsCrashMark));
	evs_query_begin(&read_mark, values, NULL, InvalidSnapshot, &result);
	found = result.count > 0;
	if (found)
	{
		mark->position = DatumGetInt64(SPI_getbinval(result.rows[0], result.tupdesc, 1, &is_null));
		mark->events = DatumGetInt32(SPI_getbinval(result.rows[0], result.tupdesc, 2, &is_null));
		mark->attempts = DatumGetInt32(SPI_getbinval(result.rows[0], result.tupdesc, 3, &is_null));
		mark->careful = DatumGetInt32(SPI_getbinval(result.rows[0], result.tupdesc, 4, &is_null));
	}
	evs_query_end(&result);
	return found;
}

void
evs_crash_mark_write(const char *projection, int partition, const EvsCrashMark *mark)
{
	Datum		values[] = {
		CStringGetTextDatum(projection), Int32GetDatum(partition),
		Int64GetDatum(mark->position), Int32GetDatum(mark->events),
		Int32GetDatum(mark->attempts), Int32GetDatum(mark->careful)
	};

	(void) evs_query_run(&write_mark, values, NULL);
	ForceSyncCommit();
	strlcpy(marked, projection, sizeof(marked));
	marked_partition = partition;
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
	Datum		values[] = {CStringGetTextDatum(projection)};

	(void) evs_query_run(&clear_marks, values, NULL);
}

bool
evs_crash_turn_take(void)
{
	LOCKTAG		tag;

	if (has_turn)
		return true;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, TURN_LOCK_CLASS);
	has_turn = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	return has_turn;
}

void
evs_crash_turn_give_back(void)
{
	LOCKTAG		tag;

	if (!has_turn)
		return;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, TURN_LOCK_CLASS);
	(void) LockRelease(&tag, ExclusiveLock, true);
	has_turn = false;
}

/*
 * Temporary tables are removed in the same way.  An error here ends what is left
 * of the process, and the mark stays: one crash too many is counted.
 */
void
evs_crash_mark_at_exit(void)
{
	char		projection[NAMEDATALEN];
	int			partition = marked_partition;

	if (partition < 0 || !PostmasterIsAlive())
		return;
	strlcpy(projection, marked, sizeof(projection));
	marked_partition = -1;

	AbortOutOfAnyTransaction();
	evs_own_transaction_begin();
	evs_crash_mark_clear(projection, partition);
	evs_own_transaction_commit();
}

/*
 * publish.c - the safe position, for those that cannot compute it.
 *
 * A standby knows nothing of the primary's open transactions.  What the primary
 * writes into evsource.published reaches it in the order of the WAL: the commit
 * of the row comes after the commits of all events at or below the position,
 * for the position was safe before the row was written.
 *
 * A logical copy cannot know that either.  In its table there may be no row, or one that
 * it published itself before it was a copy, and an UPDATE would be lost.  So the row is
 * written anew each time.  A trigger (replication.sql) notes there what has arrived.
 *
 * ShareRowExclusiveLock on the table makes publishers take turns, so that there
 * is one row at most and its position never goes back.
 */
#include "evsource.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "storage/lmgr.h"

#include "barrier.h"
#include "catalog.h"
#include "horizon.h"
#include "positions.h"
#include "publish.h"
#include "query.h"
#include "replication.h"
#include "restore.h"

PG_FUNCTION_INFO_V1(evsource_publish_safe_position);

static EvsQuery replace_row = {
	"with before as (delete from evsource.published returning safe_position)"
	" insert into evsource.published (safe_position, published_at)"
	" select greatest(max(safe_position), $1), now() from before",
	1, {INT8OID}, SPI_OK_INSERT
};

int64
evs_publish_safe_position(void)
{
	int64		position;
	Datum		values[1];

	/* a copy is told; a row of its own would take the place of what it was told */
	if (evs_replication_is_copy())
		return evs_horizon_safe_position();

	LockRelationOid(evs_catalog()->published, ShareRowExclusiveLock);
	if (evs_replication_is_copy())
		return evs_horizon_safe_position();	/* by now */

	/* whoever reads it goes on from there */
	position = evs_restore_reader_comes(0);
	values[0] = Int64GetDatum(position);
	(void) evs_query_run(&replace_row, values, NULL);
	return position;
}

int64
evs_publish_next(int64 published)
{
	if (evs_horizon_safe_position() <= published)
		return published;
	if (!evs_positions_log_is_open() ||
		!(evs_replication_is_copy() ||
		  ConditionalLockRelationOid(evs_catalog()->published, ShareRowExclusiveLock)))
		return -1;
	return evs_publish_safe_position();
}

/*
 * evsource.publish_safe_position() returns bigint
 *
 * Returns the safe position of now, and publishes it with this transaction's
 * commit.  Errors: 25006 on a standby, a copy and in a read-only transaction, 40001
 * under REPEATABLE READ when another session has published meanwhile.
 */
Datum
evsource_publish_safe_position(PG_FUNCTION_ARGS)
{
	evs_require_writable("evsource.publish_safe_position()");
	evs_replication_refuse("publish the safe position");
	PG_RETURN_INT64(evs_publish_safe_position());
}

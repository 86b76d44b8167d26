/*
 * give_way.c - who waits gives way to who updates or drops the extension.
 *
 * These commands send the daemon away, and lock tables that those who sleep have read:
 * they would wait for them, all appends behind them, and sleepers for the daemon.  No
 * deadlock that PostgreSQL could see.  So the command takes a lock of its own first and wakes
 * all sleepers (crew.c), and these end.
 *
 * fetch_events() ends as if its time was over, which every consumer knows: its statement
 * ends, mostly its transaction, and so do its locks.  If the same transaction calls
 * again, it does not do so, and there is an error, which does.  wait_for() and start_daemon()
 * have nothing to return: an error at once.
 *
 * A caller that comes before the tables are locked would come again and again.  So it
 * waits for a moment all the same; there is time for that.
 */
#include "evsource.h"

#include "storage/proc.h"

#include "clock.h"
#include "crew.h"
#include "give_way.h"

/* how long one who is in the way may sleep yet (ms) */
#define TIME_TO_GIVE_WAY	100

static LocalTransactionId gave_way_in = InvalidLocalTransactionId;

bool
evs_give_way(EvsTime *until)
{
	if (evs_crew_changes_extension() == 0)
		return false;
	gave_way_in = EvsMyLocalTransactionId();
	*until = evs_clock_earlier(*until, evs_clock_in(TIME_TO_GIVE_WAY));
	return true;
}

void
evs_give_way_or_fail(void)
{
	pid_t		pid = evs_crew_changes_extension();

	if (pid != 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("cannot wait while extension evsource is updated or dropped"),
				 errdetail("Process %d does so. The daemon is away until it ends, and it needs the tables that this transaction has locked.",
						   (int) pid),
				 errhint("Call again in another transaction when the command has ended.")));
}

void
evs_give_way_once(void)
{
	if (gave_way_in == EvsMyLocalTransactionId())
		evs_give_way_or_fail();
}

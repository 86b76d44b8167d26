/*
 * hold.c - keep locks from one transaction to the next.
 *
 * In between they belong to the session.  An error gives some of such locks
 * back (those on tables) and others not: so what was kept is let go of here when
 * a transaction aborts, or the process exits.
 */
#include "evsource.h"

#include "access/xact.h"
#include "storage/ipc.h"

#include "hold.h"

#define MAX_HELD	4

static struct
{
	LOCKTAG		tag;
	LOCKMODE	mode;
}			held[MAX_HELD];
static int	nheld = 0;

/* No transaction aborts in between, and a table's lock outlives its process. */
static void
process_exits(int code, Datum arg)
{
	evs_hold_drop();
}

static void
prepare_to_exit(void)
{
	static bool prepared = false;

	if (!prepared)
		before_shmem_exit(process_exits, (Datum) 0);
	prepared = true;
}

void
evs_hold(const LOCKTAG *tag, LOCKMODE mode)
{
	if (nheld >= MAX_HELD)
		elog(ERROR, "too many locks to keep over a commit");
	prepare_to_exit();
	(void) LockAcquire(tag, mode, true, false);
	held[nheld].tag = *tag;
	held[nheld++].mode = mode;
}

bool
evs_hold_is_held(void)
{
	return nheld > 0;
}

bool
evs_hold_end(void)
{
	bool		any = nheld > 0;

	for (int i = 0; i < nheld; i++)
		(void) LockAcquire(&held[i].tag, held[i].mode, false, false);
	evs_hold_drop();
	return any;
}

void
evs_hold_drop(void)
{
	while (nheld > 0)
	{
		nheld--;
		(void) LockRelease(&held[nheld].tag, held[nheld].mode, true);
	}
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		evs_hold_drop();
}

void
evs_hold_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
}

/*
 * hold.c - keep locks from one transaction to the next.
 *
 * In between they belong to the session.  An error gives some of such locks
 * back (those on tables) and others not: so what was kept is let go of here when
 * a transaction aborts, or the process exits.
 *
 * pg_advisory_unlock_all() would let go of some of them.  But no handler's code runs between
 * evs_hold() and evs_hold_end(): it cannot leave a trigger to the commit, as it runs in a
 * security-restricted operation.
 */
#include "evsource.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "storage/ipc.h"
#include "storage/standby.h"
#include "utils/memutils.h"

#include "gate.h"
#include "hold.h"

typedef struct Held
{
	LOCKTAG		tag;
	LOCKMODE	mode;
} Held;

static Held *held = NULL;
static int	nheld = 0;
static int	max_held = 0;

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

static void
make_room(void)
{
	if (nheld < max_held)
		return;
	max_held = Max(max_held * 2, 8);
	held = held == NULL ? MemoryContextAlloc(TopMemoryContext, sizeof(Held) * max_held) :
		repalloc(held, sizeof(Held) * max_held);
}

void
evs_hold(const LOCKTAG *tag, LOCKMODE mode)
{
	make_room();
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

static void
drop(void)
{
	while (nheld > 0)
	{
		nheld--;
		(void) LockRelease(&held[nheld].tag, held[nheld].mode, true);
	}
}

bool
evs_hold_end(void)
{
	bool		any = nheld > 0;

	for (int i = 0; i < nheld; i++)
	{
		(void) LockAcquire(&held[i].tag, held[i].mode, false, false);
		/* standbys have let go of it with the commit */
		if (held[i].mode == AccessExclusiveLock && XLogStandbyInfoActive())
			LogAccessExclusiveLock(held[i].tag.locktag_field1, held[i].tag.locktag_field2);
	}
	drop();
	return any;
}

void
evs_hold_drop(void)
{
	evs_gate_open();
	drop();
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

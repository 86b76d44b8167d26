/*
 * listen.c - who LISTENs for "evsource_events".
 *
 * The daemon tells listeners of appends (coordinator.c).  PostgreSQL does not say
 * whether there are any, so each session that listens says so in its slot: the
 * daemon comes when there is one, and sleeps or leaves when there is none.
 *
 * Better once too often than not at all: a session counts as soon as its LISTEN
 * has been run, also if it is rolled back, and until an UNLISTEN of it has been
 * committed, or it exits.  An UNLISTEN in a subtransaction, whose end is not
 * known here, does not count.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"

#include "listen.h"
#include "notify.h"
#include "shmem.h"
#include "wakeup.h"

static bool listens = false;
static bool ends = false;		/* when this transaction is committed */

static void
say(bool yes)
{
	EvsShared  *shared = evs_shmem();

	Assert(EvsMyProcNumber() >= 0 && EvsMyProcNumber() < shared->nslots);
	listens = yes;
	pg_atomic_write_u32(&shared->slots[EvsMyProcNumber()].listens,
						yes ? MyDatabaseId : InvalidOid);
}

static void
process_exits(int code, Datum arg)
{
	if (listens)
		say(false);
}

static void
begin_listening(void)
{
	static bool cleans_up = false;

	ends = false;
	if (!cleans_up)
	{
		before_shmem_exit(process_exits, (Datum) 0);
		cleans_up = true;
	}
	if (!listens)
		say(true);
	/* not before we listen; the daemon looks at our slot after that */
	evs_wakeup_daemon();
}

static void
end_listening(void)
{
	if (!listens || GetCurrentTransactionNestLevel() > 1)
		return;
	ends = true;
	evs_wakeup_daemon();
}

static bool
is_ours(const char *channel)
{
	return strcmp(channel, EVS_EVENTS_CHANNEL) == 0;
}

void
evs_listen_command(Node *statement)
{
	const char *channel;

	switch (nodeTag(statement))
	{
		case T_ListenStmt:
			if (is_ours(((ListenStmt *) statement)->conditionname) && evs_shmem() != NULL)
				begin_listening();
			break;
		case T_UnlistenStmt:
			/* "*" has no name */
			channel = ((UnlistenStmt *) statement)->conditionname;
			if (channel == NULL || is_ours(channel))
				end_listening();
			break;
		case T_DiscardStmt:
			if (((DiscardStmt *) statement)->target == DISCARD_ALL)
				end_listening();
			break;
		default:
			break;
	}
}

bool
evs_listen_anybody(void)
{
	EvsShared  *shared = evs_shmem();

	if (!evs_shmem_is_preloaded())
		return true;
	for (int i = 0; i < shared->nslots; i++)
	{
		if (pg_atomic_read_u32(&shared->slots[i].listens) == MyDatabaseId)
			return true;
	}
	return false;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (ends)
				say(false);
			ends = false;
			break;
		case XACT_EVENT_ABORT:
			ends = false;
			break;
		default:
			break;
	}
}

void
evs_listen_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
}

/*
 * rebuild_tables.c - lock the tables that an online rebuild is to exchange.
 *
 * The tables of an inline projection are locked behind the barrier.  A transaction that has
 * read one has it locked to its end, and if it then appends, it waits for the barrier: to
 * wait for such a transaction is in vain.  As long as they follow each other without a gap,
 * the tables are not to be had in this order, so the next attempt begins with the tables:
 * others wait to read them, one that has read them goes on, appends and is gone.  But one
 * that appends without having read waits for the tables then, with the log locked, and the
 * barrier is not to be had: so the attempt after that begins with the barrier.
 *
 * In either order one of those who are in the way may wait for us.  PostgreSQL would end
 * that after deadlock_timeout, and mostly their transaction; so we look after a glance
 * whether it is so, and let go of all.  Once it was, nothing is waited for any more as long
 * as deadlock_timeout: one may come to wait for us after we have looked.  But all this only
 * for some time, or it might never end where others use the tables for longer, or all the time.
 * Then we insist: who has used the tables and comes to append fails (gate.c), but for those who
 * are not seen before they wait for the log.
 *
 * With several tables the same is true of each: a transaction that has read one of them
 * waits for another when it appends.  So before the barrier only one is waited for, the one
 * that was not to be had before, while none of the others is ours.
 *
 * One that waits for tables that were taken first has taken its snapshot before.  If that
 * lacks the last events, it is let in, behind the barrier: see rebuild_readers.c.  If it then
 * reads and appends, it waits for us once more, and it was in vain.  As each statement takes a
 * snapshot before it waits for its tables, there is mostly one that does so where they follow
 * each other without a gap.  So it is noted what became of those who were let in, and when
 * all that wait are sessions that appended then, they wait for the exchange.
 */
#include "evsource.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "barrier.h"
#include "gate.h"
#include "hold.h"
#include "kept_waiting.h"
#include "rebuild_tables.h"

/* For so long (ms) those are spared who wait for us, once there were any. */
#define SPARING_TIME	2000

static bool
is_sparing(const EvsProcedure *procedure)
{
	return !evs_clock_is_set(procedure->spares_until) || !evs_clock_is_over(procedure->spares_until);
}

void
evs_tables_attempt(EvsProcedure *procedure)
{
	procedure->insists = !is_sparing(procedure);
}

static void
spare(EvsProcedure *procedure)
{
	if (!evs_clock_is_set(procedure->spares_until))
		procedure->spares_until = evs_clock_in(SPARING_TIME);
}

int
evs_tables_moment(const EvsProcedure *procedure)
{
	int			moment = evs_procedure_moment(procedure);

	if (!evs_clock_is_set(procedure->spares_until) || !is_sparing(procedure))
		return moment;
	return Min(moment, Max(DeadlockTimeout / 2, 1));
}

/* Those to be locked, in this order, and the one that it comes to. */
typedef struct Wanted
{
	List	   *relations;
	Oid			current;
} Wanted;

static void
lock_all(void *arg)
{
	Wanted	   *wanted = arg;
	ListCell   *cell;

	foreach(cell, wanted->relations)
	{
		wanted->current = lfirst_oid(cell);
		LockRelationOid(wanted->current, AccessExclusiveLock);
	}
}

/* ---- who waits for us ---- */

/* One who was let in. */
typedef struct EvsLetIn
{
	VirtualTransactionId transaction;
	int			pid;
} EvsLetIn;

void
evs_tables_forget(EvsProcedure *procedure)
{
	if (procedure->let_in != NULL)
		pfree(procedure->let_in);
	procedure->let_in = NULL;
	procedure->nlet_in = 0;
	list_free(procedure->appenders);
	procedure->appenders = NIL;
}

void
evs_tables_note(EvsProcedure *procedure, const VirtualTransactionId *transaction, int pid)
{
	if (procedure->let_in == NULL)
		procedure->let_in = MemoryContextAlloc(MemoryContextGetParent(procedure->context),
											   sizeof(EvsLetIn) * MaxBackends);
	if (procedure->nlet_in < MaxBackends)
		procedure->let_in[procedure->nlet_in++] = (EvsLetIn) {*transaction, pid};
}

bool
evs_tables_appends(const EvsProcedure *procedure, int pid)
{
	return list_member_int(procedure->appenders, pid);
}

static bool
goes_on(const VirtualTransactionId *transaction)
{
	PGPROC	   *process = evs_vxid_get_proc(transaction);
	VirtualTransactionId now;

	if (process == NULL)
		return false;
	GET_VXID_FROM_PGPROC(now, *process);
	return VirtualTransactionIdEquals(now, *transaction);
}

/* What has become of those who were let in? */
static void
look_after(EvsProcedure *procedure, const EvsProcesses *kept)
{
	MemoryContext caller = MemoryContextSwitchTo(MemoryContextGetParent(procedure->context));

	for (int i = 0; i < procedure->nlet_in; i++)
	{
		const EvsLetIn *one = &procedure->let_in[i];

		if (goes_on(&one->transaction) && evs_is_among(one->pid, kept))
			procedure->appenders = list_append_unique_int(procedure->appenders, one->pid);
		else
			procedure->appenders = list_delete_int(procedure->appenders, one->pid);
	}
	procedure->nlet_in = 0;
	MemoryContextSwitchTo(caller);
}

/* Does somebody wait for us who has used this relation? */
static bool
keeps_user(EvsProcedure *procedure, Oid relation)
{
	EvsProcesses kept = evs_kept_waiting(list_make1_int(MyProcPid), GetLockStatusData());
	LOCKTAG		tag;
	VirtualTransactionId *users;
	int			count;

	look_after(procedure, &kept);
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	users = GetLockConflicts(&tag, AccessExclusiveLock, &count);
	for (int i = 0; i < count; i++)
	{
		PGPROC	   *process = evs_vxid_get_proc(&users[i]);

		if (process != NULL && evs_is_among(process->pid, &kept))
			return true;
	}
	return false;
}

/* ---- the tables ---- */

/*
 * Most have used them, and are gone or wait for us, after a glance; for others it is worth
 * to wait.  Some of these may have come to wait for us meanwhile.
 */
static bool
lock_in_time(EvsProcedure *procedure, Wanted *wanted)
{
	int			moment = evs_tables_moment(procedure);

	if (procedure->insists)
	{
		/* PostgreSQL will end what waits for us otherwise: sooner than after many attempts */
		moment = Max(moment, 2 * Min(DeadlockTimeout, SPARING_TIME));
		if (procedure->timeout > 0)
			moment = Min(moment, procedure->timeout);
		return evs_within(moment, lock_all, wanted);
	}
	if (evs_within(Min(EVS_GLANCE, moment), lock_all, wanted))
		return true;
	procedure->in_vain = keeps_user(procedure, wanted->current);
	if (procedure->in_vain)
	{
		spare(procedure);
		return false;
	}
	if (evs_within(moment, lock_all, wanted))
		return true;
	if (keeps_user(procedure, wanted->current))
		spare(procedure);
	return false;
}

/* Those who wait for us are through at once, and have some time for more. */
static void
give_way(EvsProcedure *procedure, List *relations)
{
	bool		in_vain = procedure->in_vain;

	evs_procedure_gave_way_to_readers(procedure, relations);
	if (!in_vain)
		return;
	SetInvalidVirtualTransactionId(procedure->awaited);
	procedure->pause = EVS_GLANCE;
}

bool
evs_tables_take(EvsProcedure *procedure, List *relations)
{
	Wanted		wanted = {relations};

	evs_gate_refuse();
	if (lock_in_time(procedure, &wanted))
		return true;
	give_way(procedure, relations);
	procedure->tables_first = evs_clock_is_set(procedure->spares_until) && is_sparing(procedure);
	procedure->first_table = wanted.current;
	return false;
}

bool
evs_tables_take_first(EvsProcedure *procedure, List *relations)
{
	Wanted		first = {list_make1_oid(procedure->first_table)};
	Wanted		others = {relations};

	if (!lock_in_time(procedure, &first))
	{
		give_way(procedure, relations);
		return false;
	}
	if (evs_within(EVS_GLANCE, lock_all, &others))
		return true;
	procedure->in_vain = true;
	give_way(procedure, relations);
	procedure->tables_first = is_sparing(procedure);
	procedure->first_table = others.current;
	return false;
}

void
evs_tables_hold(List *relations)
{
	ListCell   *cell;

	foreach(cell, relations)
	{
		LOCKTAG		tag;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, lfirst_oid(cell));
		evs_hold(&tag, AccessExclusiveLock);
	}
}

LockData *
evs_tables_without(const LockData *locks, const List *relations)
{
	LockData   *others = palloc(sizeof(LockData));

	others->nelements = 0;
	others->locks = palloc(sizeof(LockInstanceData) * Max(locks->nelements, 1));
	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];

		if (lock->pid == MyProcPid && lock->locktag.locktag_type == LOCKTAG_RELATION &&
			lock->locktag.locktag_field1 == MyDatabaseId &&
			list_member_oid(relations, lock->locktag.locktag_field2))
			continue;
		others->locks[others->nelements++] = *lock;
	}
	return others;
}

/*
 * gate.c - keep who has used tables that are to be exchanged from beginning to append.
 *
 * A transaction that has read a table has it locked to its end.  If it then waits for the
 * barrier, the rebuild that has the barrier waits for the table in vain, and PostgreSQL ends
 * that after deadlock_timeout.  rebuild_tables.c spares the reader as long as it can.  When
 * that has not helped, one of the two has to give in: the reader, for it has appended nothing
 * yet.  It can be told at once only if it is not waiting for a lock.
 *
 * So each transaction that is about to lock the log looks here whether the gate is closed,
 * which costs it a look into shared memory.  If it has locked one of the tables, and not the
 * log, it waits for the gate's lock while the rebuild applies the last events and waits for
 * old snapshots: the rebuild may have to give up, and the reader appends then.  When the
 * rebuild comes to the tables, the reader fails.  No other transaction does: new users of the
 * tables queue for them, and those who only read end.
 *
 * An INSERT or COPY has locked the log when we first see it, and waits as before.
 *
 * There is one gate.  Its lock tells that it is closed; what is in shared memory only says
 * where to look.  It is opened before the locks of the transaction are released.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/lsyscache.h"

#include "attempt.h"
#include "catalog.h"
#include "gate.h"
#include "hold.h"
#include "lock_classes.h"
#include "relations.h"
#include "shmem.h"

/* ms that the rebuild has to get into the queue for a table */
#define QUEUE_TIME		2

/* by this session */
static bool closed = false;

void
evs_gate_locktag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, EVS_LOCK_GATE);
}

/* ---- who appends ---- */

/* The one of the tables that this transaction has locked, and what the gate is then. */
static Oid
find_used(EvsGate *gate, uint32 *state)
{
	Oid			used = InvalidOid;

	do
	{
		*state = pg_atomic_read_u32(&gate->state);
		pg_read_barrier();
		if (*state == EVS_GATE_OPEN || *state == EVS_GATE_TAKEN || gate->database != MyDatabaseId)
			return InvalidOid;
		used = InvalidOid;
		for (int i = 0; i < gate->count && !OidIsValid(used); i++)
			if (evs_relation_is_locked(gate->relations[i], AccessShareLock, AccessExclusiveLock))
				used = gate->relations[i];
		pg_read_barrier();
	} while (pg_atomic_read_u32(&gate->state) != *state);
	return used;
}

static void
refuse(Oid used)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access because table \"%s\" is being exchanged",
					get_rel_name(used)),
			 errdetail("This transaction has used the table and has not appended yet; an online rebuild that found no moment without such transactions exchanges its contents now."),
			 errhint("Run the transaction again.")));
}

/*
 * A client that is told at once may come again before the rebuild stands in the queue for the
 * table: it reads that once more, and is told once more, many times in a row.  So nobody is
 * told before a moment has passed.
 */
static void
wait_at_gate(EvsGate *gate)
{
	bool		has_paused = false;
	uint32		state;
	Oid			used;

	if (closed ||
		evs_relation_is_locked(evs_catalog()->events, RowExclusiveLock, AccessExclusiveLock))
		return;
	while (OidIsValid(used = find_used(gate, &state)))
	{
		LOCKTAG		tag;

		if (state == EVS_GATE_CLOSED)
		{
			evs_gate_locktag(&tag);
			(void) LockAcquire(&tag, ShareLock, false, false);
			(void) LockRelease(&tag, ShareLock, false);
		}
		else if (has_paused)
			refuse(used);
		else
			evs_attempt_pause(QUEUE_TIME);
		has_paused = state == EVS_GATE_REFUSES;
	}
}

void
evs_gate_pass(void)
{
	EvsGate    *gate;

	if (!evs_shmem_is_preloaded())
		return;
	gate = &evs_shmem()->gate;
	if (pg_atomic_read_u32(&gate->state) != EVS_GATE_OPEN)
		wait_at_gate(gate);
}

/* ---- who exchanges ---- */

static void
process_exits(int code, Datum arg)
{
	evs_gate_open();
}

void
evs_gate_close(List *relations)
{
	static bool prepared = false;
	EvsGate    *gate;
	uint32		expected = EVS_GATE_OPEN;
	LOCKTAG		tag;
	ListCell   *cell;

	if (closed || !evs_shmem_is_preloaded())
		return;
	if (!prepared)
		before_shmem_exit(process_exits, (Datum) 0);
	prepared = true;

	gate = &evs_shmem()->gate;
	if (!pg_atomic_compare_exchange_u32(&gate->state, &expected, EVS_GATE_TAKEN))
		return;
	closed = true;
	gate->database = MyDatabaseId;
	gate->count = 0;
	foreach(cell, relations)
		if (gate->count < EVS_GATE_RELATIONS)
			gate->relations[gate->count++] = lfirst_oid(cell);

	/* those who pass have it for a moment */
	evs_gate_locktag(&tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	pg_write_barrier();
	pg_atomic_write_u32(&gate->state, EVS_GATE_CLOSED);
}

bool
evs_gate_is_closed(void)
{
	return closed;
}

void
evs_gate_refuse(void)
{
	LOCKTAG		tag;

	if (!closed)
		return;
	pg_atomic_write_u32(&evs_shmem()->gate.state, EVS_GATE_REFUSES);
	pg_write_barrier();
	evs_gate_locktag(&tag);
	(void) LockRelease(&tag, ExclusiveLock, false);
}

void
evs_gate_open(void)
{
	if (closed)
		pg_atomic_write_u32(&evs_shmem()->gate.state, EVS_GATE_OPEN);
	closed = false;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || (event == XACT_EVENT_COMMIT && !evs_hold_is_held()))
		evs_gate_open();
}

void
evs_gate_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
}

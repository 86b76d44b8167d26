/*
 * gate.c - keep who has used tables that are to be exchanged from beginning to append.
 *
 * Who has read a table has it locked to his end.  If he then waits for the barrier, whoever
 * has that waits for the table in vain, and PostgreSQL ends it after deadlock_timeout.
 * rebuild_tables.c spares him as long as it can.  When that has not helped, one of them has
 * to give in: he, for his transaction has appended nothing yet.  To tell him at once, he must
 * not be waiting for a lock.
 *
 * So whoever is about to lock the log looks here whether the gate is closed, which costs him
 * a look into shared memory.  If he has locked one of the tables, and not the log, he waits
 * for the gate's lock while the rebuild applies the last events and waits for old snapshots:
 * it may have to give up, and he appends then.  When the rebuild comes to the tables, he fails.
 * Nobody else does: new users of the tables queue for them, and those who only read end.
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

#include "catalog.h"
#include "gate.h"
#include "hold.h"
#include "lock_classes.h"
#include "relations.h"
#include "shmem.h"

/* by this session */
static bool closed = false;

void
evs_gate_locktag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, EVS_LOCK_GATE);
}

/* ---- who appends ---- */

/* The one of the tables that this transaction has locked. */
static Oid
find_used(const EvsGate *gate)
{
	int			count = Min(gate->count, EVS_GATE_RELATIONS);

	if (gate->database != MyDatabaseId)
		return InvalidOid;
	for (int i = 0; i < count; i++)
		if (evs_relation_is_locked(gate->relations[i], AccessShareLock, AccessExclusiveLock))
			return gate->relations[i];
	return InvalidOid;
}

static void
wait_at_gate(EvsGate *gate)
{
	LOCKTAG		tag;
	Oid			used;

	if (closed ||
		evs_relation_is_locked(evs_catalog()->events, RowExclusiveLock, AccessExclusiveLock) ||
		!OidIsValid(find_used(gate)))
		return;
	evs_gate_locktag(&tag);
	(void) LockAcquire(&tag, ShareLock, false, false);
	(void) LockRelease(&tag, ShareLock, false);

	if (pg_atomic_read_u32(&gate->state) != EVS_GATE_REFUSES)
		return;
	pg_read_barrier();
	used = find_used(gate);
	if (OidIsValid(used))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access because table \"%s\" is being exchanged",
						get_rel_name(used)),
				 errdetail("This transaction has used the table and has not appended yet; an online rebuild that found no moment without such transactions exchanges its contents now."),
				 errhint("Run the transaction again.")));
}

void
evs_gate_pass(void)
{
	EvsGate    *gate;
	uint32		state;

	if (!evs_shmem_is_preloaded())
		return;
	gate = &evs_shmem()->gate;
	state = pg_atomic_read_u32(&gate->state);
	if (state == EVS_GATE_OPEN || state == EVS_GATE_TAKEN)
		return;
	pg_read_barrier();
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

/*
 * shmem.c - the shared memory that order tracking and waiting use.
 *
 * Preloaded, it is part of the main segment.  Otherwise, on servers that have
 * them (17), it is a named segment that the first user makes.  On older servers
 * that do not preload the library there is none, and horizon.c and wakeup.c use lock tags.
 */
#include "evsource.h"

#include "postmaster/autovacuum.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "shmem.h"

/*
 * Raise whenever EvsShared or the meaning of what is in it changes.  A session
 * that loaded a newer library than the one that made the memory must not touch
 * it: it could publish a bound where nobody looks.
 */
#define EVS_SHMEM_LAYOUT 12

static EvsShared *shared = NULL;
static bool preloaded = false;

#ifdef EVS_HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type previous_request_hook = NULL;
#endif
static shmem_startup_hook_type previous_startup_hook = NULL;

static Size
shared_size(int nslots)
{
	return add_size(offsetof(EvsShared, slots),
					mul_size(nslots, sizeof(EvsSlot) + sizeof(EvsWaiter) + sizeof(pg_atomic_uint64)));
}

static void
initialize(void *memory)
{
	EvsShared  *fresh = memory;

	fresh->layout = EVS_SHMEM_LAYOUT;
	fresh->nslots = MaxBackends;
	pg_atomic_init_u32(&fresh->waiting_events, 0);
	pg_atomic_init_u32(&fresh->waiting_projections, 0);
	pg_atomic_init_u32(&fresh->launcher, 0);
	for (int i = 0; i < EVS_REQUESTS; i++)
		pg_atomic_init_u32(&fresh->requests[i], InvalidOid);
	pg_atomic_init_u32(&fresh->waiting_some, 0);
	for (int i = 0; i < EVS_KIND_GROUPS; i++)
		pg_atomic_init_u64(&fresh->waiting_kinds[i], 0);
	pg_atomic_init_u64(&fresh->overtaking, 0);
	for (int i = 0; i < EVS_OVERTAKINGS; i++)
	{
		pg_atomic_init_u64(&fresh->overtakings[i], 0);
		pg_atomic_init_u32(&fresh->overtaken_in[i], InvalidOid);
	}
	pg_atomic_init_u64(&fresh->novertakings, 0);
	pg_atomic_init_u64(&fresh->forgotten, 0);
	pg_atomic_init_u32(&fresh->gate.state, EVS_GATE_OPEN);
	for (int i = 0; i < fresh->nslots; i++)
	{
		pg_atomic_init_u64(&fresh->slots[i].bound, 0);
		fresh->slots[i].database = InvalidOid;
		pg_atomic_init_u32(&fresh->slots[i].listens, InvalidOid);
		pg_atomic_init_u32(&evs_shmem_waiters(fresh)[i].database, InvalidOid);
		pg_atomic_init_u32(&evs_shmem_waiters(fresh)[i].state, EVS_WAITER_GONE);
		evs_shmem_waiters(fresh)[i].group = 0;
		pg_atomic_init_u64(&evs_shmem_waiters(fresh)[i].held_at, 0);
		pg_atomic_init_u64(&evs_shmem_awaited(fresh)[i], 0);
	}
}

static void
startup(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("evsource", shared_size(MaxBackends), &found);
	if (!found)
		initialize(shared);
	LWLockRelease(AddinShmemInitLock);
}

#ifdef EVS_HAVE_SHMEM_REQUEST_HOOK
static void
request(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(shared_size(MaxBackends));
}
#else
static void
request(void)
{
	/* MaxBackends is not computed yet: count as InitializeMaxBackends will. */
	RequestAddinShmemSpace(shared_size(MaxConnections + autovacuum_max_workers + 1 +
									   max_worker_processes + max_wal_senders));
}
#endif

void
evs_shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	preloaded = true;

#ifdef EVS_HAVE_SHMEM_REQUEST_HOOK
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request;
#else
	request();
#endif
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

/*
 * A request is a word that goes from "none" to the database and back.  Asking
 * twice is asking once.
 */
void
evs_shmem_request(Oid database)
{
	uint32		launcher;

	if (!preloaded || shared == NULL)
		return;
	for (int i = 0; i < EVS_REQUESTS; i++)
	{
		uint32		expected = InvalidOid;
		bool		last = i == EVS_REQUESTS - 1;

		if (last)
			pg_atomic_write_u32(&shared->requests[i], EVS_ALL_DATABASES);
		else if (!pg_atomic_compare_exchange_u32(&shared->requests[i], &expected, database) &&
				 expected != database)
			continue;
		break;
	}
	pg_memory_barrier();
	launcher = pg_atomic_read_u32(&shared->launcher);
	if (launcher != 0)
		SetLatch(&GetPGProcByNumber(launcher - 1)->procLatch);
}

void
evs_shmem_launcher_starts(void)
{
	pg_atomic_write_u32(&shared->launcher, EvsMyProcNumber() + 1);
	pg_memory_barrier();
}

Oid
evs_shmem_take_request(void)
{
	for (int i = 0; i < EVS_REQUESTS; i++)
	{
		Oid			database = pg_atomic_exchange_u32(&shared->requests[i], InvalidOid);

		if (OidIsValid(database))
			return database;
	}
	return InvalidOid;
}

bool
evs_shmem_is_preloaded(void)
{
	return preloaded;
}

#ifdef EVS_HAVE_NAMED_DSM
static void
initialize_segment(EVS_DSM_INIT_ARGS)
{
	initialize(memory);
}
#endif

EvsShared *
evs_shmem(void)
{
#ifdef EVS_HAVE_NAMED_DSM
	if (shared == NULL)
	{
		bool		found;

		shared = evs_named_dsm("evsource", shared_size(MaxBackends), initialize_segment, &found);
	}
#endif
	if (shared != NULL && shared->layout != EVS_SHMEM_LAYOUT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("evsource's shared memory was made by another version of the library"),
				 errdetail("Shared memory has layout %u, this session's library needs layout %u.",
						   shared->layout, EVS_SHMEM_LAYOUT),
				 errhint("Restart the server to finish the upgrade of evsource.")));
	return shared;
}

/*
 * shmem.h - what each backend says in shared memory: the lowest position that
 * its open transaction may still add to the log, what it waits for, and whether
 * it listens; which snapshots rebuilds have not waited for, and what tables one is about to
 * exchange.
 */
#ifndef EVS_SHMEM_H
#define EVS_SHMEM_H

#include "evsource.h"

#include "port/atomics.h"

/* On a cache line of its own: neighbours write theirs at every append. */
typedef struct EvsSlot
{
	pg_atomic_uint64 bound;		/* lower bound of positions to come; 0: none */
	Oid			database;		/* whose log; valid while bound is not 0 */
	pg_atomic_uint32 listens;	/* in which database it LISTENs for events; 0: it does not */
	char		pad[64 - sizeof(pg_atomic_uint64) - sizeof(Oid) - sizeof(pg_atomic_uint32)];
} EvsSlot;

/* So many kinds of events can be waited for at once, without all being wanted. */
#define EVS_WAITER_KINDS	32

/* What a backend waits for: see wakeup.c. */
typedef struct EvsWaiter
{
	pg_atomic_uint32 database;	/* whose; 0: it does not wait */
	uint32		channel;		/* for what; valid while database is not 0 */
	uint32		wants;			/* which events besides: one of EVS_WANTS_... */
	uint32		nkinds;			/* of them, by their hashes: see wakeup_channel.h */
	uint64		group;			/* of which one is enough; 0: none, it is always woken */
	pg_atomic_uint64 held_at;	/* appends with a higher bound pass it over; 0: none does */
	pg_atomic_uint32 state;		/* in the group: one of EVS_WAITER_... */
	uint32		kinds[EVS_WAITER_KINDS];
} EvsWaiter;

/* What one of a group does: see wakeup_group.c. */
#define EVS_WAITER_GONE		0
#define EVS_WAITER_LOOKS	1
#define EVS_WAITER_SLEEPS	2
#define EVS_WAITER_WOKEN	3

#define EVS_WANTS_NONE		0	/* none */
#define EVS_WANTS_KINDS		1	/* some */
#define EVS_WANTS_ALL		2	/* whatever raises the safe position */

/*
 * So many groups of kinds are counted apart: enough that thousands that are waited
 * for seldom share one with those that are appended.
 */
#define EVS_KIND_GROUPS		16384

/* So many databases can ask for the launcher at once; more: it looks at all. */
#define EVS_REQUESTS	64
#define EVS_ALL_DATABASES	((Oid) 1)	/* no database has this number */

/* So many rebuilds are known one by one that have not waited for all snapshots: see waited.c. */
#define EVS_OVERTAKINGS	16

/* The tables that a rebuild is about to exchange: see gate.c. */
#define EVS_GATE_RELATIONS	29

typedef struct EvsGate
{
	pg_atomic_uint32 state;		/* one of EVS_GATE_... */
	Oid			database;		/* what follows is valid while it is closed or refuses */
	int			count;
	Oid			relations[EVS_GATE_RELATIONS];
} EvsGate;

#define EVS_GATE_OPEN		0
#define EVS_GATE_TAKEN		1	/* one is about to close it */
#define EVS_GATE_CLOSED		2
#define EVS_GATE_REFUSES	3

typedef struct EvsShared
{
	uint32		layout;			/* EVS_SHMEM_LAYOUT of whoever made it */
	int			nslots;			/* one for each regular backend */
	pg_atomic_uint32 waiting_events;	/* how many wait for events ... */
	pg_atomic_uint32 waiting_projections;	/* ... or for a projection, or a subscription */
	pg_atomic_uint32 launcher;	/* its number among the processes, + 1; 0: none */
	pg_atomic_uint32 requests[EVS_REQUESTS];	/* databases that it shall look at */
	pg_atomic_uint32 waiting_some;	/* or for events of some kinds ... */
	pg_atomic_uint64 waiting_kinds[EVS_KIND_GROUPS];	/* ... of these: who, see below */
	pg_atomic_uint64 overtaking;	/* transaction that the newest of them has built by; 0: none */
	pg_atomic_uint64 overtakings[EVS_OVERTAKINGS];	/* and all, in a ring ... */
	pg_atomic_uint32 overtaken_in[EVS_OVERTAKINGS];	/* ... in these databases ... */
	pg_atomic_uint64 novertakings;	/* ... how many there were ... */
	pg_atomic_uint64 forgotten;	/* ... and the newest that is not in it any more */
	EvsGate		gate;
	char		pad[16];
	EvsSlot		slots[FLEXIBLE_ARRAY_MEMBER];
	/* EvsWaiter waiters[nslots] follow, and pg_atomic_uint64 awaited[nslots] */
} EvsShared;

static inline EvsWaiter *
evs_shmem_waiters(EvsShared *shared)
{
	return (EvsWaiter *) &shared->slots[shared->nslots];
}

/*
 * Who waits for a kind: how many in the upper half, and in the lower the sum of
 * their numbers, so that one who is alone is known.
 */
static inline uint64
evs_shmem_one_waiting(int number)
{
	return (UINT64CONST(1) << 32) + (uint64) number;
}

static inline uint32
evs_shmem_count_waiting(uint64 who)
{
	return (uint32) (who >> 32);
}

static inline int
evs_shmem_who_is_alone(uint64 who)
{
	Assert(evs_shmem_count_waiting(who) == 1);
	return (int) (uint32) who;
}

/*
 * For each of them in a word what it waits for, or more; 0: nothing.  A committer
 * reads these, eight to a cache line, and the entries of those that it may concern.
 */
static inline pg_atomic_uint64 *
evs_shmem_awaited(EvsShared *shared)
{
	return (pg_atomic_uint64 *) &evs_shmem_waiters(shared)[shared->nslots];
}

extern void evs_shmem_init(void);

/* Does every session of this server load the library at its start? */
extern bool evs_shmem_is_preloaded(void);

/*
 * Have the launcher look at a database, or at all.  Nothing happens if there is
 * none: only a preloaded library has it.  Never fails.
 */
extern void evs_shmem_request(Oid database);

/* Launcher: I am there; a database that I am asked to look at, or none. */
extern void evs_shmem_launcher_starts(void);
extern Oid	evs_shmem_take_request(void);

/*
 * The shared slots, or NULL when this server has none: the library is not
 * preloaded, and it is too old for named segments.  The answer is the same in
 * every backend of a server.
 */
extern EvsShared *evs_shmem(void);

#endif							/* EVS_SHMEM_H */

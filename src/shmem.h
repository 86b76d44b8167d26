/*
 * shmem.h - one slot a backend in shared memory: the lowest position that its
 * open transaction may still add to the log.
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
	char		pad[64 - sizeof(pg_atomic_uint64) - sizeof(Oid)];
} EvsSlot;

typedef struct EvsShared
{
	uint32		layout;			/* EVS_SHMEM_LAYOUT of whoever made it */
	int			nslots;			/* one for each regular backend */
	char		pad[56];
	EvsSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} EvsShared;

extern void evs_shmem_init(void);

/*
 * The shared slots, or NULL when this server has none: the library is not
 * preloaded, and it is too old for named segments.  The answer is the same in
 * every backend of a server.
 */
extern EvsShared *evs_shmem(void);

#endif							/* EVS_SHMEM_H */

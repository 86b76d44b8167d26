/*
 * unit.h - what one worker works on: an async projection, or a partition of it.
 *
 * A projection that several workers share is divided by stream.  Each partition
 * has a row in evsource.partitions with its own position and count; the row in
 * evsource.checkpoints keeps the count of what was applied before.  Who writes
 * that row with evs_checkpoint_write() puts all partitions at one position.
 */
#ifndef EVS_UNIT_H
#define EVS_UNIT_H

#include "evsource.h"
#include "failure.h"
#include "projection.h"
#include "registry.h"

typedef struct EvsUnit
{
	const char *projection;
	int			partition;		/* 0 of 1, unless it is divided */
	int			partitions;
	EvsCheckpoint checkpoint;
	EvsFailure	failure;		/* where it is stuck, if it is */
	bool		has_dead_letters;	/* the projection has some */
	bool		has_released;	/* and of the unit's some wait behind nothing any more */
} EvsUnit;

/*
 * Hold this until the end of the transaction to work on a unit: a projection's
 * name if it is not divided, else a share in it and the partition.  Returns
 * false instead of waiting for somebody else.
 */
extern bool evs_unit_try_lock(const EvsProjection *projection, int partition);

extern void evs_unit_read(const EvsProjection *projection, int partition, EvsUnit *unit);
extern void evs_unit_write(const EvsUnit *unit);

/*
 * Before that, for who must not wait: lock the row.  False while a session that has not the
 * unit's lock has done so, such as an administrator's.
 */
extern bool evs_unit_try_lock_row(const EvsUnit *unit);

/*
 * All of a projection as one unit, wherever it is; its failure and dead letters
 * are those under the name.
 */
extern void evs_unit_read_troubles(const char *name, EvsUnit *unit);

/* How far all of the projection is, now that the unit has been written. */
extern int64 evs_unit_whole_position(const EvsUnit *unit);

/* How far the furthest partition of it is: nothing after that has been applied. */
extern int64 evs_units_furthest(const EvsProjection *projection);

/* How many events it has applied and is yet to apply, wherever its partitions are. */
extern int64 evs_units_total(const EvsProjection *projection);

/* Make the partitions' rows, all where the projection is; and remove them. */
extern void evs_units_create(const EvsProjection *projection);
extern void evs_units_delete(const char *projection);

/* The partition of a stream: its hash, the same on every machine and for ever. */
extern int	evs_partition_of(const text *stream, int partitions);

#endif							/* EVS_UNIT_H */

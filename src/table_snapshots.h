/*
 * table_snapshots.h - the tables of a projection, saved as they are at a position.
 */
#ifndef EVS_TABLE_SNAPSHOTS_H
#define EVS_TABLE_SNAPSHOTS_H

#include "evsource.h"
#include "projection.h"
#include "registry.h"

/* A row of evsource.table_snapshots. */
typedef struct EvsTableSnapshot
{
	EvsCheckpoint checkpoint;
	int32		state_version;
	int64		definition;
	char	   *shape;
	int64		rows;
	bool		truncated;		/* events that came after it are gone */
} EvsTableSnapshot;

/*
 * Save the tables of a projection whose name the caller has locked; behind the
 * barrier if it is inline.  Returns false when that is saved already.
 *
 * Errors: 55000 when something is in the way of restoring it later.
 */
extern bool evs_table_snapshot_save(EvsProjection *projection);

/* The newest that can be used; what cannot is reported. */
extern bool evs_table_snapshot_find(EvsProjection *projection, EvsTableSnapshot *found);

/*
 * Empty the tables, and fill them with what was saved.  Returns NULL, or why that does
 * not fit into them, which is reported; they are as they were then.
 */
extern ErrorData *evs_table_snapshot_load(EvsProjection *projection, const EvsTableSnapshot *saved);

/* Remove a projection's; returns how many there were. */
extern int64 evs_table_snapshots_clear(const char *projection);

/* The same as evs_snapshots_clear_foreign() for tables. */
extern void evs_table_snapshots_clear_foreign(const EvsProjection *projection);

#endif							/* EVS_TABLE_SNAPSHOTS_H */

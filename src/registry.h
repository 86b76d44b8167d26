/*
 * registry.h - the rows that registration, replay and rebuild keep: the
 * definition of a projection and its checkpoint.
 */
#ifndef EVS_REGISTRY_H
#define EVS_REGISTRY_H

#include "evsource.h"
#include "projection.h"

#include "storage/lock.h"

/* A row of evsource.checkpoints. */
typedef struct EvsCheckpoint
{
	int64		position;		/* applied up to here */
	int64		event_count;	/* events applied by then */
} EvsCheckpoint;

/* The words of the SQL surface for what the enums mean. */
extern const char *evs_kind_name(EvsKind kind);
extern const char *evs_mode_name(EvsMode mode);
extern const char *evs_projection_state_name(EvsProjectionState state);

/*
 * Registering, changing, replaying and running one projection exclude each
 * other: hold this until the end of the transaction.  Appends do not take it.
 */
extern void evs_registry_locktag(LOCKTAG *tag, const char *name);
extern void evs_registry_lock(const char *name);

/* The same, unless it would have to wait. */
extern bool evs_registry_try_lock(const char *name);

/*
 * Workers share a projection that is divided: one of them a partition.  False
 * when somebody else has the projection, or this partition.
 */
extern bool evs_registry_try_share(const char *name, int partition);

/* 42501 unless the current user may change this projection. */
extern void evs_registry_check_rights(const EvsProjection *projection);

/* Lock, load and check rights: how every change begins.  42704 when unknown. */
extern EvsProjection *evs_registry_open(const char *name);

extern void evs_registry_insert(const EvsProjection *projection);
extern void evs_registry_update(const EvsProjection *projection);
extern void evs_registry_delete(const char *name);

/*
 * The projection is to be rebuilt.  Lapsed: the log has changed also behind a rebuild
 * that is under way, which begins anew.  Takes no lock but that of the row.
 */
extern void evs_registry_mark_stale(const char *name, bool lapsed);

/* The names of all projections that there are now, or of those of a mode, in order. */
extern List *evs_registry_all_names(void);
extern List *evs_registry_names(EvsMode mode);

/* Those of the active inline ones whose count is of a position before this one. */
extern List *evs_registry_counted_before(int64 position);

/*
 * How far a projection is.  Of one that is divided (unit.h), how far all of it
 * is; writing puts all partitions there.
 */
extern void evs_checkpoint_read(const char *name, EvsCheckpoint *checkpoint);
extern void evs_checkpoint_write(const char *name, const EvsCheckpoint *checkpoint);

/* Mark the beginning of a rebuild or of catching up, and its end. */
extern void evs_checkpoint_start(const char *name, int64 total);
extern void evs_checkpoint_resume(const char *name);
extern void evs_checkpoint_finish(const char *name);

/*
 * How many stored events the filter lets through, after < position <= upto, as
 * of now whatever the isolation level.
 */
extern int64 evs_registry_count(const EvsFilter *filter, int64 after, int64 upto);

/* The number of events that a projection has applied. */
extern int64 evs_registry_event_count(const char *name);

/* Are there snapshots, all made by the fold, filter and key that it has now? */
extern bool evs_registry_snapshots_fit(const EvsProjection *projection);

#endif							/* EVS_REGISTRY_H */

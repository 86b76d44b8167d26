/*
 * snapshots.h - saved states: the rows of evsource.snapshots.
 */
#ifndef EVS_SNAPSHOTS_H
#define EVS_SNAPSHOTS_H

#include "evsource.h"
#include "projection.h"
#include "state_cache.h"

#include "storage/lock.h"
#include "utils/snapshot.h"

/* A row.  What is said of "the last event" is of the last one in the state. */
typedef struct EvsSnapshot
{
	int64		version;		/* of the last event, if the key is its stream */
	int64		position;		/* of the last event */
	int64		seen_version;	/* of the last event looked at, if the key is its stream */
	int64		seen_position;
	pg_uuid_t	last_event_id;
	int64		event_count;	/* events in the state */
	int32		state_version;
	int64		definition;		/* evs_snapshot_definition() when it was saved, or 0 */
	TimestampTz saved_at;
	TimestampTz occurred_at;	/* latest time of an event in the state */
	int64		upto;			/* of a base: see snapshot_history.h; else 0 */
	Jsonb	   *state;			/* NULL: it cannot be read */
} EvsSnapshot;

/*
 * The row of a key as the snapshot sees it, in CurrentMemoryContext; false if
 * there is none.
 */
extern bool evs_snapshot_read(const char *projection, text *key,
							  Snapshot snapshot, EvsSnapshot *row);

/*
 * May a state be computed from this row?  Brings its state up to the
 * projection's state version if need be.  A row that cannot be used is
 * reported.  Call as the projection's owner.
 */
extern bool evs_snapshot_accept(EvsProjection *projection, text *key, EvsSnapshot *row);

/*
 * The same without a report: why it cannot be used, or NULL, and what an error
 * said of it, or NULL.
 */
extern const char *evs_snapshot_problem(EvsProjection *projection, EvsSnapshot *row,
										char **message);

/*
 * Tell, once, that a row cannot be used, and why: as what follows "It", the same
 * words for all keys, and what an error said of this one, or NULL.  And forget
 * what was told of a projection.
 */
extern void evs_snapshot_reject(EvsProjection *projection, text *key,
								const char *reason, const char *message);
extern void evs_snapshot_reject_init(void);
extern void evs_snapshot_forget_rejections(const char *projection);

/*
 * What decides a state, but for the state version: handler, filter, start and
 * key, as a number that tells definitions apart.
 */
extern int64 evs_snapshot_definition(const EvsProjection *projection);

/*
 * The same as this transaction has found it, as far as upcasters are concerned: a
 * type and a projection may get their new versions together.
 */
extern int64 evs_snapshot_definition_before(const EvsProjection *projection);

/*
 * A row that a projection keeps current while it is stale is of no definition:
 * another one has begun its state.
 */
#define EVS_MIXED_DEFINITION	0

/*
 * All rows of a projection are so from now on: it goes on without some of the
 * events that its definition, or the one that it returns to, would have it apply.
 * Whoever writes its rows is locked out.
 */
extern void evs_snapshots_mark_mixed(const char *projection);

/* Do both fold the same events, by the same key? */
extern bool evs_snapshot_same_selection(const EvsProjection *a, const EvsProjection *b);

/*
 * The same of a state that stands for truncated events: no upcaster can do
 * anything about them any more.
 */
extern int64 evs_snapshot_base_definition(const EvsProjection *projection);

/*
 * What is_compatible and migrate_state speak for when they are given: states that
 * the handler and the upcasters of now would make.
 */
extern int64 evs_snapshot_vouch(const EvsProjection *projection);

/* Do they still, or did they when this transaction began? */
extern bool evs_snapshot_vouches(const EvsProjection *projection);

/*
 * Whoever writes rows takes one of these first, until the transaction ends.  Who
 * writes those of a projection that is not inline has the lock on its name before.
 */
typedef enum EvsSnapshotLock
{
	EVS_SNAPSHOT_LOCK_ALL,		/* all of the projection, wait; behind the barrier no more is needed */
	EVS_SNAPSHOT_LOCK_OUT,		/* the same without the barrier, and before writing */
	EVS_SNAPSHOT_LOCK_EACH,		/* any of it, by an append that must save: wait for the one before */
	EVS_SNAPSHOT_LOCK_KEY,		/* of one key, wait */
	EVS_SNAPSHOT_TRY_KEY		/* of one key, unless somebody else has it */
} EvsSnapshotLock;

extern bool evs_snapshot_lock(const char *projection, text *key, EvsSnapshotLock lock);

/* The lock on all of a projection's. */
extern void evs_snapshot_locktag(LOCKTAG *tag, const char *projection);

/*
 * How much there is to read when the state is loaded: events of the key's stream,
 * in the state or not, that came after what its newest snapshot has seen.
 */
extern int64 evs_snapshot_distance(const EvsState *state);

/*
 * Is a state to be saved by the way?  True when the policy says so, it is worth
 * the room, and nobody else is about to: then the key's lock is taken.
 */
extern bool evs_snapshot_is_due(const EvsProjection *projection, text *key,
								const EvsState *state);

/*
 * States to be saved, written together.  Add copies; finish writes the rest.
 * definition: what they were folded by, as it was before any event was read; 0:
 * what it is when they are written.
 */
typedef struct EvsSnapshotWriter EvsSnapshotWriter;

extern EvsSnapshotWriter *evs_snapshot_writer(const EvsProjection *projection,
											  int64 definition);
extern void evs_snapshot_add(EvsSnapshotWriter *writer, text *key, const EvsState *state);
extern int64 evs_snapshot_finish(EvsSnapshotWriter *writer);

/*
 * The same with what is parked.  NULL, or the error that an event met: then nothing
 * has been replaced.
 */
extern ErrorData *evs_snapshots_try_restore(EvsProjection *projection);

/*
 * Remove a projection's rows, all of them or but those without which its states
 * cannot be computed any more; returns how many newest ones there were.
 */
extern int64 evs_snapshots_clear(const char *projection, bool bases);

/*
 * The projection is about to get another state version, or another of the functions
 * that speak for those of others: remove what the one that it has cannot use, and
 * what was saved in it since this transaction has changed an upcaster: migrate_state
 * would take that for what was saved before.  The caller has locked all of them.
 *
 * $2: its state version; $3: its definition before; $4: does it use those of others?
 */
#define EVS_SNAPSHOT_FOREIGN \
	"case when state_version = $2 then definition <> $3 else not $4 end"

extern void evs_snapshots_clear_foreign(const EvsProjection *projection);

/*
 * Tell that some were removed.  The caller has locked all of them.
 */
extern void evs_snapshots_note_removal(const char *projection);

/* Have some been removed, as of now, that the snapshot may still see? */
extern bool evs_snapshots_removed_since(const char *projection, Snapshot snapshot);

/*
 * Are what was removed, and the projections, as they were at this generation of the
 * state cache?  Call with a lock under which snapshots are written: it stays so.
 */
extern bool evs_snapshots_unchanged_since(uint64 generation);

/* The id of the last event in a state. */
extern pg_uuid_t *evs_snapshot_last_event_id(const EvsState *state);

#endif							/* EVS_SNAPSHOTS_H */

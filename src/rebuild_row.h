/*
 * rebuild_row.h - the rows of evsource.rebuilds.
 */
#ifndef EVS_REBUILD_ROW_H
#define EVS_REBUILD_ROW_H

#include "evsource.h"
#include "clock.h"
#include "procedure.h"
#include "projection.h"
#include "registry.h"

typedef enum EvsRebuildState
{
	EVS_REBUILD_REQUESTED,		/* nothing is done yet */
	EVS_REBUILD_BUILDING,
	EVS_REBUILD_FAILED,			/* in the daemon's hands; can go on */
	EVS_REBUILD_KEPT			/* complete; the old version is still there: to be dropped, unless keep_old */
} EvsRebuildState;

/* A row. */
typedef struct EvsRebuild
{
	const char *name;			/* of the projection */
	uint64		request;		/* another one for each, also of one that goes on; not written with the row */
	EvsRebuildState state;
	bool		background;		/* by the daemon */
	bool		is_chosen;		/* what was asked for: online says something */
	bool		online;			/* beside the old read model; see evs_rebuild_is_online() */
	bool		from_snapshot;
	bool		keep_old;
	List	   *tables;			/* online: those that are built, as in EvsProjection */
	char	   *shadow;			/* the schema in which they are */
	char	   *shape;			/* that of the tables when these were made */
	bool		same_definition;	/* of the projection, since the rebuild began */
	bool		paused;			/* in place: the projection was paused before */
	int			pid;			/* of who was the last to work on it, 0: nobody yet */
	bool		kept_stale;		/* the version that is kept was stale */
	char	   *truncated;		/* not written with the row: the version that is kept stands
								 * for truncated events that are not in the other one */
	EvsCheckpoint checkpoint;	/* of what is in the shadow */
	char	   *trouble;		/* not written with the row: SQLSTATE of the error that is on record, if any */
	bool		started;		/* nor this: it has made its tables, or emptied the read model */
	int64		total;			/* events there were to apply */
	int			rounds;			/* that came to the end and found more */
	EvsTime		due;			/* not in the row: wait until then, if it is set */
} EvsRebuild;

/* What was decided: is there something beside the old version? */
static inline bool
evs_rebuild_is_online(const EvsRebuild *rebuild)
{
	return rebuild->shadow != NULL;
}

/*
 * Is there something to go on with: tables, or a read model that was emptied?  What was to be
 * online at all events was not built in place.
 */
static inline bool
evs_rebuild_has_begun(const EvsRebuild *rebuild)
{
	return evs_rebuild_is_online(rebuild) ||
		(rebuild->started && !(rebuild->is_chosen && rebuild->online));
}

/*
 * Who works on a rebuild holds this to the end of the transaction.  It is taken
 * before the lock on the projection's name: that one is free for those who
 * apply events to the old version while the new one is built.
 */
extern void evs_rebuild_locktag(LOCKTAG *tag, const char *name);
extern void evs_rebuild_lock(const char *name);
extern bool evs_rebuild_try_lock(const char *name);

/* The row in CurrentMemoryContext; false when there is none. */
extern bool evs_rebuild_read(const char *name, EvsRebuild *rebuild);

/* Write it, whether there is one or not; requested, it has not begun. */
extern void evs_rebuild_write(const EvsRebuild *rebuild);
extern void evs_rebuild_delete(const char *name);

/*
 * The rebuild begins now: of the definition that the projection has now, and of the
 * log as it was when that was read.
 */
extern void evs_rebuild_start(const EvsRebuild *rebuild, const EvsProjection *projection);

/* This session goes on with it: the rate is counted from now. */
extern void evs_rebuild_resume(const char *name);

/* It is asked for again, and goes on: what the attempt before this meets is none of it. */
extern void evs_rebuild_renew(const char *name);

/*
 * In place: what evs_checkpoint_start() has begun goes on from a snapshot, whose mistakes
 * are in it; is that so of what there is, though its rebuild may be forgotten?
 */
extern void evs_rebuild_note_snapshot(const char *name);
extern bool evs_rebuild_has_snapshot(const char *name);

/*
 * Note who is in the way: transactions, or who has locked relations, also to
 * read them.  Until the row is written the next time.
 */
extern void evs_rebuild_waits_for_transactions(const char *name,
											   const VirtualTransactionId *transactions,
											   int count);
extern void evs_rebuild_waits_for_relations(const char *name, List *relations,
											bool with_readers);

/*
 * Where the partitions of a version are, if they are at different positions: note
 * it of the one that is about to be kept; ask for it, as text, and for how many
 * they are (NULL: they are all where its checkpoint is); put them there again.
 */
extern void evs_rebuild_keep_parts(const char *name);
extern char *evs_rebuild_parts(const char *name, int *count);
extern void evs_rebuild_restore_parts(const char *name, const char *parts);

/*
 * The error that stopped it, and at which event; 0: at none.  False: it is not the request any
 * more that has met it, and nothing was written.
 */
extern bool evs_rebuild_fail(const char *name, uint64 request, int64 position,
							 const ErrorData *error);

/* The same of an error that it goes on after; and it has got past that. */
extern void evs_rebuild_note_trouble(const char *name, uint64 request, int64 position,
									 const ErrorData *error);
extern void evs_rebuild_clear_trouble(const char *name);

/* What evs_rebuild_forget() locks against readers, too; NIL when it drops nothing. */
extern List *evs_rebuild_dropped(const char *name);

/* Forget a rebuild, with all that it has built or kept. */
extern void evs_rebuild_forget(const char *name);

/* Forget those whose new or old tables belong to one of these roles. */
extern void evs_rebuild_forget_owned(List *roles);

/* Do the arguments of a request make sense?  22023 when they do not.  keep_old means online. */
extern void evs_rebuild_check(EvsRebuild *wanted);

/*
 * Is there a rebuild, or a version, that a request replaces?  Checks rights and takes the
 * rebuild's lock.
 */
extern bool evs_rebuild_replaces(const EvsRebuild *wanted, EvsRebuild *former);

/* Make a request the row, or go on with what is under way.  Checks rights. */
extern void evs_rebuild_register(EvsRebuild *wanted);

/*
 * Building beside the old version (rebuild_online.c).
 */

/*
 * Begin with it if possible, and say whether that had to wait.  False: it is not, and
 * nothing was done; unless it was asked for, which is an error (55000).
 */
extern bool evs_online_start(EvsProcedure *procedure, EvsRebuild *rebuild,
							 EvsProjection *projection, int64 total, EvsOutcome *outcome);

/* One transaction of it. */
extern EvsOutcome evs_online_step(EvsProcedure *procedure, EvsRebuild *rebuild);

/*
 * The exchange is made: drop the version that it has replaced.  A worker takes that over
 * from a call that is no longer there.
 */
extern bool evs_exchange_takes_over(EvsProcedure *procedure, EvsRebuild *rebuild);
extern EvsOutcome evs_exchange_drop_old(EvsProcedure *procedure, EvsRebuild *rebuild);

/* One transaction of whatever there is to do (rebuild.c). */
extern EvsOutcome evs_rebuild_advance(EvsProcedure *procedure);

#endif							/* EVS_REBUILD_ROW_H */

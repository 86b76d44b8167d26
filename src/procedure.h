/*
 * procedure.h - work on one projection in transactions of its own.
 */
#ifndef EVS_PROCEDURE_H
#define EVS_PROCEDURE_H

#include "evsource.h"
#include "clock.h"
#include "crash_mark.h"
#include "price.h"
#include "projection.h"
#include "registry.h"

#include "fmgr.h"
#include "storage/lock.h"

/* A procedure under way. */
typedef struct EvsProcedure
{
	const char *name;			/* of the projection */
	EvsProjectionState state;	/* in which it is meanwhile */
	int			timeout;		/* ms to wait for a lock at a time, 0 for ever */
	bool		at_once;		/* all is one transaction: no other attempt */
	bool		background;		/* waits for nobody: says EVS_WAIT instead */
	EvsCaution	caution;		/* in the background: what has crashed before */
	bool		worn;			/* handlers have run in this process: what they
								 * remember may be of other times */
	struct EvsRebuild *wanted;	/* rebuild: what the call asks for, at first */
	MemoryContext context;		/* of one transaction */

	/* what follows is of this request alone: see evs_procedure_begin_anew() */
	uint64		request;		/* rebuild: the one in the row; 0: none yet */
	int			attempts;		/* that failed */
	const struct EvsMet *met;	/* what the last one met */
	VirtualTransactionId *ahead;	/* and whom, as far as we know */
	int			nahead;			/* how many of them are still there */
	EvsTime		ahead_until;	/* then that was an attempt, too */
	int			rounds;			/* that reached the safe position */
	int			pause;			/* ms to sleep when EVS_WAIT was said */
	int64		batch;			/* events for the next transaction; 0: not known yet */
	bool		was_slow;		/* one has taken too long: it grows slowly since */
	EvsPrice	price;			/* of a statement */
	bool		restored;		/* rebuild: snapshots have been looked at */
	bool		from_snapshots; /* and there are some that can be used */
	int64		restored_upto;	/* a fold's states have what there is up to here */
	int			troubles;		/* rebuild: errors in a row after which it goes on */
	bool		complete;		/* rebuild: this is who completed it */
	bool		in_place_said;	/* rebuild: that it is, and why */
	uint64		looked_at;		/* rebuild: so many changes of tables, see rebuild_look.c; 0: none yet */
	TransactionId built;		/* rebuild: whoever sees this one sees a whole
								 * read model; see rebuild_readers.h */
	int64		built_events;	/* which has so many events */
	VirtualTransactionId *readers;	/* who may not have seen it */
	int			nreaders;		/* how many of them are still there */
	bool		in_vain;		/* one of them waits for us, so that we do not wait */
	VirtualTransactionId awaited;	/* EVS_WAIT was said because of this one */
	Oid			shadow;			/* rebuild: the schema that all this is about */
	bool		still;			/* rebuild: the projection has been held still
								 * since the last transaction */
	bool		tables_first;	/* rebuild: the next exchange takes the tables before all else */
	Oid			first_table;	/* beginning with this one */
	bool		tables_taken;	/* and has them */
	EvsTime		spares_until;	/* so long it spares who has used the tables and waits
								 * for us; none: nobody was found who does */
	bool		insists;		/* no longer, since this attempt began */
	struct EvsLetIn *let_in;	/* who had waited for them, when they were let go of */
	int			nlet_in;
	List	   *appenders;		/* sessions that were let in, and then waited for us to append */
	EvsTime		still_until;	/* and is for so long at most; none: to be settled yet */
	EvsCheckpoint old;			/* rebuild: of the version that is to be kept */
} EvsProcedure;

/* What one transaction came to. */
typedef enum EvsOutcome
{
	EVS_MORE,					/* go on at once */
	EVS_WAIT,					/* the barrier was not to be had */
	EVS_WORN,					/* in the background: it failed at what a new process
								 * may not fail at */
	EVS_DONE
} EvsOutcome;

/* Is it called where it cannot commit? */
extern bool evs_procedure_is_atomic(FunctionCallInfo fcinfo);

/* Begin, with a context in the current one. */
extern void evs_procedure_init(EvsProcedure *procedure, const char *name,
							   EvsProjectionState state, int timeout);

/* It is another request that it works on from here on: forget what is known of the one before. */
extern void evs_procedure_begin_anew(EvsProcedure *procedure, uint64 request);

/*
 * Begin: the projection is the first argument, the lock timeout another one.
 * The caller has connected to SPI, in a way that allows to commit unless it is atomic.
 */
extern void evs_procedure_begin(EvsProcedure *procedure, FunctionCallInfo fcinfo,
								EvsProjectionState state, int timeout_argument);

/* Run a step until it is done, each time in a transaction of its own. */
extern void evs_procedure_repeat(EvsProcedure *procedure,
								 EvsOutcome (*step) (EvsProcedure *));

/*
 * End the transaction and begin the next.  Commits on the way need not be
 * flushed: a crash takes read model and checkpoint back together, and the last
 * commit flushes them all.
 */
extern void evs_procedure_next_transaction(bool on_the_way);

/*
 * How long (ms, 0: for ever) may a lock be waited for that others queue behind?
 */
extern int	evs_procedure_moment(const EvsProcedure *procedure);

/*
 * Are those through who were in the way of the last attempt?  False: end the
 * transaction, and say EVS_WAIT; nobody queues behind us meanwhile.
 * Errors: 55P03 when there were too many attempts, those that lasted so long included.
 */
extern bool evs_procedure_may_try(EvsProcedure *procedure);

/*
 * Take the barrier for this transaction, or say that it was not to be had.
 * Errors: 55P03 when that was said too often.
 */
extern bool evs_procedure_barrier(EvsProcedure *procedure);

/* For whoever did not get tables because of those who read them: say so, and count it. */
extern void evs_procedure_gave_way_to_readers(EvsProcedure *procedure, List *relations);

/* The same for tables that a new version refers to, because of those who change them. */
extern void evs_procedure_gave_way_to_changes(EvsProcedure *procedure, List *relations,
											  LOCKMODE mode);

/*
 * Were there so many attempts that it is time to give up?  Once the work is complete,
 * and only something is left to be cleaned up, that is not an error.
 */
extern bool evs_procedure_has_tried(const EvsProcedure *procedure);

/* For whoever held the projection still until those with old snapshots would be gone. */
extern void evs_procedure_gave_way_to_snapshots(EvsProcedure *procedure);

/*
 * For a caller that applied events behind the barrier, and met a lock of somebody else's:
 * it ends the transaction, which lets others append.
 */
extern void evs_procedure_gave_way_to_writers(EvsProcedure *procedure);

/*
 * The projection, if it still is what this procedure works on; NULL if another
 * session has completed the work.  Errors: 55000 when it is in another state.
 */
extern EvsProjection *evs_procedure_open(const EvsProcedure *procedure);

/* Say EVS_WAIT until then. */
extern EvsOutcome evs_procedure_wait_until(EvsProcedure *procedure, EvsTime due);

/* So long (ms) should a transaction take. */
#define EVS_PROCEDURE_TIME	1000

/*
 * How many events a transaction may apply, so that it does not last for long and
 * others see how far the work is; and how long one has taken that applied as many.
 */
extern int64 evs_procedure_batch(EvsProcedure *procedure, const EvsProjection *projection);
extern void evs_procedure_pace(EvsProcedure *procedure, int64 applied, EvsTime began);

/*
 * Apply events after the checkpoint to what is built, and move it; at most so
 * many, and about EVS_PROCEDURE_TIME.  What it cannot take is on record under a
 * name; an error that ends the work gets out.  Returns how many were applied, and
 * when the one that failed, if one did, is due again (none: none did).
 */
extern int64 evs_procedure_apply(EvsProcedure *procedure, EvsProjection *projection,
								 const char *troubles, EvsCheckpoint *checkpoint,
								 int64 upto, int64 max_events, EvsTime *due);

/*
 * One batch; or the last, behind the barrier, when a round without it has
 * reached the end.
 */
extern EvsOutcome evs_procedure_catch_up(EvsProcedure *procedure,
										 EvsProjection *projection);

/* An async projection is active as soon as it has seen what there was. */
extern void evs_procedure_finish_async(EvsProjection *projection);

#endif							/* EVS_PROCEDURE_H */

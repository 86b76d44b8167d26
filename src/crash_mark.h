/*
 * crash_mark.h - notice that a handler has ended the server.
 *
 * An event that crashes the server leaves no error behind, and would be applied
 * again as soon as the server is back, for ever.  So what a worker is about to do
 * is on disk before it does it, until the worker can be trusted with the unit.
 */
#ifndef EVS_CRASH_MARK_H
#define EVS_CRASH_MARK_H

#include "evsource.h"
#include "clock.h"

/* Of a rebuild, where partitions are numbered from 0. */
#define EVS_CRASH_REBUILD	(-1)

/* What is known of crashes before a batch; begin with zeros. */
typedef struct EvsCaution
{
	TimestampTz marked_at;		/* when this process has left its last mark; 0: none */
	int64		careful;		/* so many events are to be applied in small batches */
	int			batch;			/* of so many events */
	int			crashes;		/* so often the next one has ended the server, alone */
	EvsTime		waits_since;	/* that others apply events one by one, if it is set */
} EvsCaution;

/*
 * Before a batch that begins at a position: learn from what a crash has left, and
 * leave a mark.  The transaction must commit before the work begins, and will
 * reach the disk.  Whoever calls this holds the unit, or the rebuild.
 *
 * False: nothing is done, for another worker applies events one by one.  Two that
 * do so at the same time would both be blamed for what one of them does.  Who has waited for
 * long goes on all the same.
 */
extern bool evs_caution_begin(EvsCaution *caution, const char *projection, int partition,
							  int64 position, int64 events);

/*
 * In the transaction that does the work, before a handler is called: if the turn is ours, it
 * stays so to the end of that, whatever the handler does to the session's locks.
 */
extern void evs_caution_keep_turn(void);

/*
 * It has ended and come to a position: in the same transaction.  At the end of the
 * log there is nothing left to be careful about.
 */
extern void evs_caution_end(EvsCaution *caution, const char *projection, int partition,
							int64 position, bool at_end);

/* It has ended without success, but has not crashed. */
extern void evs_caution_withdraw(const char *projection, int partition);

/* The transaction in which it has ended, with or without success, has committed. */
extern void evs_caution_settled(void);

/*
 * Outside a transaction, when that is over: let others have their turn.  A mark that is not
 * settled is taken back, as what it was left for has not come about.  Returns for how
 * long (ms) to leave the unit alone now, 0: not at all.
 */
extern int	evs_caution_rest(void);

/* How many events to apply, where so many would do without a crash. */
extern int64 evs_caution_batch(const EvsCaution *caution, int64 events);

/*
 * Has the next event crashed the server often enough to be blamed for it?  0: no; more than
 * 1: it has done so again when it was to be left aside.
 */
extern int	evs_caution_blames(const EvsCaution *caution);

/* Forget what is known of one, or of all that is a projection's. */
extern void evs_crash_mark_clear(const char *projection, int partition);
extern void evs_crash_marks_clear(const char *projection);

/* The process ends in good order: take back the mark that it has left and not settled. */
extern void evs_crash_mark_at_exit(void);

#endif							/* EVS_CRASH_MARK_H */

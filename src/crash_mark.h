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

/* What a worker began and did not end: a row of evsource.crash_marks. */
typedef struct EvsCrashMark
{
	int64		position;		/* of the unit before it */
	int			events;			/* at most so many */
	int			attempts;		/* at one event, before this one */
	int			careful;		/* so many are to be applied one by one */
} EvsCrashMark;

/* The mark of a unit; false when there is none. */
extern bool evs_crash_mark_read(const char *projection, int partition, EvsCrashMark *mark);

/*
 * Leave a mark: the transaction must commit before the work begins, and will
 * reach the disk.  Whoever leaves one holds the unit.
 */
extern void evs_crash_mark_write(const char *projection, int partition,
								 const EvsCrashMark *mark);

/* It has ended, well or with an error: in the same transaction. */
extern void evs_crash_mark_clear(const char *projection, int partition);

/* Forget all of a projection's. */
extern void evs_crash_marks_clear(const char *projection);

/*
 * Two that apply events one by one at the same time would both be blamed for
 * what one of them does.  False: it is another's turn.  Given back by the second,
 * which does no harm to who has none.
 */
extern bool evs_crash_turn_take(void);
extern void evs_crash_turn_give_back(void);

/* The process ends in good order: take back the mark that it has left. */
extern void evs_crash_mark_at_exit(void);

#endif							/* EVS_CRASH_MARK_H */

/*
 * restore.h - rows that bring their places in the log.
 */
#ifndef EVS_RESTORE_H
#define EVS_RESTORE_H

#include "evsource.h"

#include "utils/relcache.h"

/* The streams of a statement's rows, and with which version they begin. */
typedef struct EvsRestored EvsRestored;

/* In CurrentMemoryContext, as what it comes to hold. */
extern EvsRestored *evs_restore_begin(void);

/*
 * Call before a row is stored at the position that it brings: makes it safe for
 * readers, or raises 55000 where it cannot be.
 */
extern void evs_restore_row(EvsRestored *restored, Relation events, const EvsEvent *row);

/* Call when the statement's rows are stored: notes the streams that came without a begin. */
extern void evs_restore_end(EvsRestored *restored, Relation events);

/*
 * Call when a projection, a subscription or what is saved comes to this position:
 * nothing is restored below it from now on.  40001 if that is being done.
 */
extern void evs_restore_followed(int64 position);

/*
 * The safe position, for somebody who goes on from this one to there: the same.
 */
extern int64 evs_restore_reader_comes(int64 after);

#endif							/* EVS_RESTORE_H */

/*
 * positions.h - draw positions from evsource.position_seq.
 */
#ifndef EVS_POSITIONS_H
#define EVS_POSITIONS_H

#include "evsource.h"

/* The last position drawn in this database, 0 when there is none. */
extern int64 evs_positions_last(void);

/*
 * Draw so many positions, without anybody else's between them, and return the
 * first.  "announce", if given, is called with it while nobody can see yet that
 * it is drawn; it must not do more than store it.
 */
extern int64 evs_positions_draw(int count, void (*announce) (int64 first));

/*
 * Leave a gap if this server is another one than drew the last position: it may not
 * know of all that were drawn.  Whoever takes the positions above that as free calls
 * this first; drawing does.
 */
extern void evs_positions_follow_timeline(void);

/* Was any position drawn in this log, or came from where one was?  See restore.c. */
extern bool evs_positions_log_is_open(void);

/* It is, as if one had been drawn. */
extern void evs_positions_open_log(void);

/* What is drawn from now on is above this position. */
extern void evs_positions_pass(int64 position);

/*
 * The same, for one that another server has drawn: it may have drawn more, so
 * the next one that is drawn here leaves a gap.
 */
extern void evs_positions_come_from_elsewhere(int64 position);

/* Was one drawn in this log by this server, or was it opened here?  Not by another one that fills it. */
extern bool evs_positions_are_drawn_here(void);

/*
 * Events are restored up to this one, and nobody has appended here: the identity of their
 * store comes after them.
 */
extern void evs_positions_are_restored(int64 last);

/* Up to where, 0 for nothing; and does the identity still have to come? */
extern int64 evs_positions_restored(bool *awaits_store);

/* Before the next one is drawn, ask again whether that may be done here. */
extern void evs_positions_ask_again(void);

#endif							/* EVS_POSITIONS_H */

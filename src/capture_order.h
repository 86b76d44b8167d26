/*
 * capture_order.h - the order in which changes are told that a statement made.
 */
#ifndef EVS_CAPTURE_ORDER_H
#define EVS_CAPTURE_ORDER_H

#include "capture.h"
#include "event.h"

/* One that was captured. */
typedef struct EvsChange
{
	EvsCaptureStep step;
	CommandId	place;			/* the command with which it is told */
	bool		repeats_key;	/* of other rows of its table, perhaps */
	bool		is_event;		/* or an update without one: it left a version of the row */
	Oid			table;			/* whose row it is */
	int64		sequence;		/* in which it was collected */
	int			nest_level;		/* of the transaction that collected it */
	Oid			role;			/* who appends it */
	EvsEvent	event;
} EvsChange;

/* The order of commands and phases: less than 0, 0 or more, as strcmp(). */
extern int	evs_capture_compare(const EvsChange *a, const EvsChange *b);

/*
 * Say with which command each is told, where statements ran within others.  The
 * changes are sorted otherwise afterwards.
 */
extern void evs_capture_place(EvsChange *changes, int count);

/*
 * Of the updates that are no events, those whose row is still to come: it will be told
 * when other triggers have run.  In CurrentMemoryContext; NULL: there are none.
 */
extern EvsChange *evs_capture_ahead(const EvsChange *changes, int count, int *ahead);

/*
 * Sort them by that; what is of the same command and phase as it was collected, or,
 * by streams, so that who appends is together, and each in the order of the streams.
 */
extern void evs_capture_sort(EvsChange *changes, int count, bool by_streams);

#endif							/* EVS_CAPTURE_ORDER_H */

/*
 * retry_read.h - read the events that a projection has left aside again, and remove
 * their rows.
 */
#ifndef EVS_RETRY_READ_H
#define EVS_RETRY_READ_H

#include "evsource.h"
#include "dead_letters.h"

/* A dead letter. */
typedef struct EvsLetter
{
	int64		position;
	EvsKeys		keys;
	bool		tried;			/* it has failed itself */
	bool		crashed;		/* so that the process died */
	bool		read;			/* the event has been looked for in the log, and ... */
	bool		gone;			/* it is not there any more */
	EvsEvent	event;
	bool		keys_checked;	/* it has them still, or has an error */
	ErrorData  *error;			/* why it cannot be applied; if it cannot be read, it is as stored */
} EvsLetter;

/* Where released ones begin: the position of the first; PG_INT64_MAX if there is none. */
extern int64 evs_letters_first_released(const EvsUnit *unit);

/*
 * The next letters of a unit from a position on, at most so many, in CurrentMemoryContext;
 * without their events.
 */
extern EvsLetter *evs_letters_read(const EvsUnit *unit, int64 from, int max_letters, int *count);

/*
 * Read the events of so many letters, where that has not been done.  False: some are gone.
 * Errors that are nobody's fault get out.
 */
extern bool evs_letters_read_events(EvsLetter *letters, int count);

/*
 * The keys of so many letters that have been read are looked at: one that has others now than
 * when it was parked has an error.  Returns how many of them, from the first on, may be tried:
 * after one whose keys cannot be found out none.  Errors that are nobody's fault get out.
 */
extern int	evs_letters_check_keys(EvsProjection *projection, EvsLetter *letters, int count);

/* So many have been dealt with: their rows go. */
extern void evs_letters_remove(const char *projection, const EvsLetter *letters, int count);

#endif							/* EVS_RETRY_READ_H */

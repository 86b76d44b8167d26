/*
 * executed.h - commands that were executed already: what their ids tell.
 */
#ifndef EVS_EXECUTED_H
#define EVS_EXECUTED_H

#include "evsource.h"

#include "utils/jsonb.h"
#include "utils/relcache.h"

/* A command that is executed once. */
typedef struct EvsCommandId
{
	pg_uuid_t	id;
	uint16		fingerprint;	/* of its decider and of what it says */
	text	   *stream;
} EvsCommandId;

/* What came of it. */
typedef struct EvsExecuted
{
	int64		version;		/* of the stream, after it */
	int			count;			/* events: the last ones up to that version */
	bool		stored;			/* now, not before */
} EvsExecuted;

/* The same for equal commands, on every machine. */
extern uint16 evs_executed_fingerprint(const char *decider, Jsonb *command);

/* The id of its nth event, from 1 on. */
extern void evs_executed_event_id(const EvsCommandId *command, int64 n, pg_uuid_t *id);

/*
 * Was it executed?  VE002 if its id was used for another one.  The second looks
 * only for a row of evsource.commands.
 */
extern bool evs_executed_find(const EvsCommandId *command, Relation events,
							  EvsExecuted *outcome);
extern bool evs_executed_find_row(const EvsCommandId *command, EvsExecuted *outcome);

/*
 * Its events are stored: VE002 if by now another command with its id was executed, too.
 * Each of the two leaves what the other looks for, and then looks: one sees it.
 */
extern void evs_executed_check_alone(const EvsCommandId *command, Relation events);

/* Remember what the ids of its events do not tell; the same check. */
extern void evs_executed_remember(const EvsCommandId *command, Relation events,
								  const EvsExecuted *outcome);

#endif							/* EVS_EXECUTED_H */

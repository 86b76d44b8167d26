/*
 * decider.h - functions that decide commands.
 */
#ifndef EVS_DECIDER_H
#define EVS_DECIDER_H

#include "evsource.h"
#include "projection.h"

/* A row of evsource.deciders. */
typedef struct EvsDecider
{
	char	   *name;
	char	   *projection;		/* whose states it decides on */
	char	   *handler;		/* qualified signature */
	char	   *owner;			/* role name */
	char	   *search_path;	/* what the handler runs with */
} EvsDecider;

/* The decider of this name; 42704 or NULL when there is none. */
extern EvsDecider *evs_decider_load(const char *name, bool missing_ok);

/*
 * Let it decide, as its owner.  The events are in CurrentMemoryContext, without
 * stream, their ids and metadata as the function gave them.
 *
 * Errors: 42883 when the function is gone, 42P13 when its signature is another,
 * 42501; 22004 and 22023 for what is not an event; what the function raises.
 */
extern void evs_decider_decide(const EvsDecider *decider, const EvsProjection *projection,
							   Jsonb *state, Jsonb *command, EvsBatch *batch);

#endif							/* EVS_DECIDER_H */

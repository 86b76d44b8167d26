/*
 * types_survey.h - what a change of an event type has to know of the log.
 */
#ifndef EVS_TYPES_SURVEY_H
#define EVS_TYPES_SURVEY_H

#include "evsource.h"

#include "nodes/pg_list.h"

typedef struct EvsTypeSurvey
{
	const text *type;
	int			first,			/* are events stored in these versions? */
				last;			/* first > last: nobody asks */
	int			below;			/* are some stored in an earlier one than this? */
	bool		changes;		/* and are these read otherwise from now on? */
	bool		found;
	bool		found_below;
	List	   *named;			/* the categories that projections name (char *) */
	List	   *categories;		/* where they are: all of those, and some others */
	List	   *readers;		/* the projections that have applied them */
} EvsTypeSurvey;

/* Look at the log for each of these.  Returns with the barrier held. */
extern void evs_type_surveys(EvsTypeSurvey *surveys, int count);

/* Snapshots and read models that were made of these events are not what a replay gives. */
extern void evs_type_note_changes(const EvsTypeSurvey *survey);

#endif							/* EVS_TYPES_SURVEY_H */

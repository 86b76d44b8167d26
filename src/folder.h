/*
 * folder.h - a projection's fold function, ready to be called.
 *
 *	EvsFolder  *folder = evs_folder_open(projection);
 *	evs_folder_start(folder, state);
 *	while (...)
 *		evs_folder_step(folder, &event);
 *	state = evs_folder_state(folder);
 *
 * All of this runs as the projection's owner.
 */
#ifndef EVS_FOLDER_H
#define EVS_FOLDER_H

#include "evsource.h"
#include "projection.h"

#include "fmgr.h"

/*
 * A fold function of our own, which needs no function call and no composite
 * value.  Either it takes jsonb to jsonb as any fold function does, or it has a
 * form of its own for the state while a run of events is folded.
 */
typedef struct EvsFoldRoutine
{
	PGFunction	function;		/* its entry point in SQL */

	/* in CurrentMemoryContext; may return the state as it is */
	Jsonb	   *(*step) (Jsonb *state, const EvsEvent *event);

	/* or these three instead */
	void	   *(*expand) (Jsonb *state, const EvsProjection *projection);
	void		(*advance) (void *state, const EvsEvent *event);
	Jsonb	   *(*flatten) (const void *state);
} EvsFoldRoutine;

/* The routine behind an entry point, or NULL: see fold_builtin.c. */
extern const EvsFoldRoutine *evs_fold_routine(PGFunction function);

typedef struct EvsFolder
{
	EvsProjection *projection;
	uint64		generation;		/* of all projections when it was opened */
	const EvsFoldRoutine *routine;	/* NULL: call the function */
	FmgrInfo	flinfo;
	FunctionCallInfo fcinfo;
	bool		asked;			/* for one state: what it is made of is told */
	bool		suspicious;		/* the snapshot may see rows that were removed */

	/* the run of events under way */
	Jsonb	   *state;			/* unless it is expanded */
	void	   *expanded;
	MemoryContext contexts[2];	/* the state is in one, or is the caller's */
	int			current;		/* the one that the next state goes into */
} EvsFolder;

/*
 * The projection's fold function, in CurrentMemoryContext.  The current user
 * must be the projection's owner.
 *
 * Errors: 42883 when it is gone, 42P13 when its signature is another, 42501.
 */
extern EvsFolder *evs_folder_open(EvsProjection *projection);
extern void evs_folder_close(EvsFolder *folder);

/* Begin a run of events with this state, which must live as long as the run. */
extern void evs_folder_start(EvsFolder *folder, Jsonb *state);

/* Fold one event.  Error: 22004 when the function returns null. */
extern void evs_folder_step(EvsFolder *folder, const EvsEvent *event);

/* The state now: valid until the next step or start. */
extern Jsonb *evs_folder_state(EvsFolder *folder);

/* The state before the first event: {} */
extern Jsonb *evs_initial_state(void);

#endif							/* EVS_FOLDER_H */

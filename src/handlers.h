/*
 * handlers.h - the kinds of handlers, and how each of them is called.
 *
 * All of this runs as the projection's owner, with an active snapshot: see
 * evs_dispatch_batch().
 */
#ifndef EVS_HANDLERS_H
#define EVS_HANDLERS_H

#include "evsource.h"
#include "projection.h"

/*
 * What is being applied, for the context of an error message:
 *
 *	CONTEXT:  projection "x", event at position 7 of stream "s-1"
 */
typedef struct EvsHandlerContext
{
	ErrorContextCallback callback;
	const EvsProjection *projection;
	const EvsEvent *event;		/* this event, or NULL: all of them at once */
	int64		count;			/* 0: not known */
	int64		first_position;
	int64		last_position;
} EvsHandlerContext;

extern void evs_handlers_init(void);

/*
 * Apply events (already filtered, in order) to the projection.  Leaves nothing
 * in CurrentMemoryContext that matters.  Each kind pushes its EvsHandlerContext.
 *
 * Returns how many from the first on that were.  bounded: it ends soon after the alarm
 * (alarm.h) has rung.  That is after one event, or one call of who gets many, unless a fold
 * has to be given up, which is 0.
 */
extern int	evs_handler_run(EvsProjection *projection, EvsEvent *const *events, int count,
							bool bounded);

/*
 * The same for events that need not all be in memory, and for the kinds that
 * can take them so: event handlers and queries.  next() returns the next event,
 * valid until it is called again, or NULL after the last; there is at least one.
 */
typedef const EvsEvent *(*EvsNextEvent) (void *source);

extern void evs_handler_run_stream(EvsProjection *projection, EvsNextEvent next, void *source);

/*
 * The handler of a projection that is no query: it exists, has the signature of
 * its kind and the current user, who must be the owner, may execute it.
 *
 * Errors: 42883 when it is gone, 42P13 when its signature is another, 42501.
 */
extern Oid	evs_handler_function(EvsProjection *projection);

/* Counts the changes of functions and schemas that this session has heard of, from 1. */
extern uint64 evs_handler_changes(void);

/* Is it in a language in which it may take long?  In C it is taken to be quick.  Errors as above. */
extern bool evs_handler_may_tarry(EvsProjection *projection);

/* Is the handler of this signature a fold that is passed the projection's path? */
extern bool evs_handler_takes_path(const char *signature);

/*
 * The function behind a stored signature, whose argument types the caller knows:
 * only its qualified name is read.  InvalidOid when there is none.
 */
extern Oid	evs_handler_lookup(const char *signature, int nargs, const Oid *argtypes);

/*
 * Name the events in errors from here on; the innermost context is popped.
 * Without events none is named, or those that are added one by one.
 */
extern void evs_handler_context_push(EvsHandlerContext *context, const EvsProjection *projection,
									 EvsEvent *const *events, int count);
extern void evs_handler_context_add(EvsHandlerContext *context, const EvsEvent *event);
extern void evs_handler_context_pop(EvsHandlerContext *context);

/*
 * The position of the event that was given to the handler, alone, when the last error was
 * raised; 0: none was.  Whoever wants to know sets it to 0 before.
 */
extern int64 evs_handler_blamed;

#endif							/* EVS_HANDLERS_H */

/*
 * handlers.h - the kinds of handlers, and how each of them is called.
 *
 * All of this runs as the projection's owner, with an active snapshot: see
 * evs_dispatch_batch().
 */
#ifndef EVS_HANDLERS_H
#define EVS_HANDLERS_H

#include "evsource.h"
#include "event_row.h"
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
	int64		count;
	int64		first_position;
	int64		last_position;
} EvsHandlerContext;

/* Events as rows that a query can read. */
typedef struct EvsNewEvents
{
	MemoryContext context;
	struct Tuplestorestate *store;
	EvsEventRow row;
	int64		count;
	int64		first_position;
	int64		last_position;
} EvsNewEvents;

extern void evs_handlers_init(void);

/*
 * Apply events (already filtered, in order) to the projection.  Leaves nothing
 * in CurrentMemoryContext that matters.  Each kind pushes its EvsHandlerContext.
 */
extern void evs_handler_run(EvsProjection *projection, EvsEvent *const *events, int count);

/*
 * The same for a query, whose events need not all be in memory: begin, put each
 * of them (which copies it), run, end.  Rows beyond memory_kb go to a file.
 */
extern void evs_new_events_begin(EvsNewEvents *new_events, int memory_kb);
extern void evs_new_events_put(EvsNewEvents *new_events, const EvsEvent *event);
extern void evs_new_events_run(EvsNewEvents *new_events, EvsProjection *projection);
extern void evs_new_events_end(EvsNewEvents *new_events);

/*
 * The handler of a projection that is no query: it exists, has the signature of
 * its kind and the current user, who must be the owner, may execute it.
 *
 * Errors: 42883 when it is gone, 42P13 when its signature is another, 42501.
 */
extern Oid	evs_handler_function(EvsProjection *projection);

/*
 * The function behind a stored signature, whose argument types the caller knows:
 * only its qualified name is read.  InvalidOid when there is none.
 */
extern Oid	evs_handler_lookup(const char *signature, int nargs, const Oid *argtypes);

/* Name the events in errors from here on; the innermost context is popped. */
extern void evs_handler_context_push(EvsHandlerContext *context, const EvsProjection *projection,
									 EvsEvent *const *events, int count);
extern void evs_handler_context_pop(EvsHandlerContext *context);

#endif							/* EVS_HANDLERS_H */

/*
 * run_batch.c - run a batch of events through a projection.
 */
#include "run_batch.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "alarm.h"
#include "handlers.h"
#include "handling.h"
#include "identity.h"

void
evs_run_check_serializable(const EvsProjection *projection)
{
	Snapshot	snapshot;

	if (!IsolationUsesXactSnapshot() || projection->kind == EVS_KIND_FOLD ||
		TransactionIdIsCurrentTransactionId(projection->changed_by))
		return;
	snapshot = GetTransactionSnapshot();
	if (!XidInMVCCSnapshot(projection->changed_by, snapshot) ||
		!evs_projection_exists(projection->name, snapshot))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access because projection \"%s\" was changed", projection->name),
			 errdetail("Another transaction has changed, reset or rebuilt it since this one began to read."),
			 errhint("Run the whole transaction again.")));
}

/* Apply events that have passed the filter; how many, see evs_handler_run(). */
static int
apply(EvsProjection *projection, EvsEvent *const *events, int count, bool bounded)
{
	EvsIdentity identity;
	EvsHandlerContext errors;
	int			done;

	ereport(DEBUG1,
			(errmsg_internal("dispatching %d events to projection \"%s\"",
							 count, projection->name)));

	evs_handler_context_push(&errors, projection, events, count);
	evs_handling_begin(projection, &identity);
	evs_handler_context_pop(&errors);
	done = evs_handler_run(projection, events, count, bounded);
	evs_handling_end(projection, &identity);
	return done;
}

/*
 * The same until the alarm rings.  A fold that had to be given up begins again with one
 * event, two, four, so that as little as possible is given up when it rings once more.
 */
static int
apply_some(EvsProjection *projection, EvsEvent *const *events, int count)
{
	int			done = apply(projection, events, count, count > 1);

	if (done > 0)
		return done;
	evs_alarm_again();
	for (int portion = 1; done < count && !(done > 0 && evs_alarm_rang()); portion *= 2)
	{
		int			most = Min(portion, count - done);
		int			some = apply(projection, events + done, most, most > 1);

		done += some;
		if (some < most)
			break;
	}
	return done;
}

int
evs_run_batch(EvsProjection *projection, const EvsBatch *batch, int *taken)
{
	EvsEvent   *single;
	EvsEvent  **events = &single;
	int			first = 0;
	int			count = 0;
	int			done;
	MemoryContext context;
	MemoryContext caller;

	if (taken != NULL)
		*taken = batch->count;

	/* whatever it is about, the transaction may read the read model next */
	evs_run_check_serializable(projection);

	/* most events are of no concern to most projections: that costs no more than the filter */
	while (first < batch->count && !evs_run_accepts(projection, &batch->events[first]))
		first++;
	if (first == batch->count)
		return 0;

	context = AllocSetContextCreate(CurrentMemoryContext, "evsource dispatch",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);

	if (batch->count > 1)
		events = MemoryContextAllocHuge(context, sizeof(EvsEvent *) * (batch->count - first));
	events[count++] = &batch->events[first];
	for (int i = first + 1; i < batch->count; i++)
	{
		if (evs_run_accepts(projection, &batch->events[i]))
			events[count++] = &batch->events[i];
	}
	done = taken ? apply_some(projection, events, count) : apply(projection, events, count, false);
	if (done < count)
		*taken = events[done] - batch->events;

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return done;
}

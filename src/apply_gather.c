/*
 * apply_gather.c - bring the partitions of an async projection to one position.
 *
 * In the caller's transaction, which holds the projection's name, so that nobody works
 * on one of them.  Nothing is parked or put on record for it: what cannot be applied, or
 * not soon enough, is the caller's error.
 */
#include "evsource.h"


#include "apply.h"
#include "attempt.h"
#include "failure.h"
#include "registry.h"
#include "settings.h"

/*
 * So many events are few enough for a transaction that is somebody else's, and so
 * many times what one of a worker's should take is short enough.
 */
#define MOST_GATHERED	10000
#define MOST_BATCHES	10

static void
refuse_to_gather(const EvsApply *apply, const char *why, const char *context)
{
	const char *name = apply->projection->name;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot bring the partitions of projection \"%s\" to one position", name),
			 errdetail("Partition %d is at position %lld: %s", apply->unit.partition,
					   (long long) apply->began_at, why),
			 errhint("Call evsource.resume_projection('%s') if the projection is stopped, and let evsource.run_projection('%s') or the daemon apply the rest; or rebuild it.",
					 name, name),
			 context ? errcontext("%s", context) : 0));
}

typedef struct GatherWork
{
	EvsApply   *apply;
	int64		upto;
	int64		most;			/* events */
	EvsTime		until;
} GatherWork;

static void
apply_up_to(void *arg)
{
	GatherWork *work = arg;
	EvsApply   *apply = work->apply;

	while (apply->applied <= work->most && !evs_clock_is_over(work->until) &&
		   evs_apply_batch(apply, work->upto, Min(evs_apply_limit(apply->projection), work->most + 1),
						   work->until) == EVS_APPLY_MORE)
		;
}

/* Returns how many events that took. */
static int64
bring_to(EvsApply *apply, int64 upto, int64 most, EvsTime until)
{
	GatherWork	work = {apply, upto, most, until};
	ErrorData  *error;

	apply->projection->filter.partition = apply->unit.partition;
	error = evs_attempt(apply_up_to, &work);
	if (error != NULL && evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	if (error != NULL)
		refuse_to_gather(apply, psprintf("%s.", error->message), error->context);
	if (apply->applied > most)
		refuse_to_gather(apply, psprintf("more than %d events are missing.", MOST_GATHERED), NULL);
	if (apply->unit.checkpoint.position < upto)
		refuse_to_gather(apply, psprintf("to apply what is missing takes longer than %d ms.",
										 MOST_BATCHES * evs_async_batch_time), NULL);
	return apply->applied;
}

void
evs_apply_gather(EvsProjection *projection)
{
	EvsApply   *applies = palloc(sizeof(EvsApply) * projection->partitions);
	EvsCheckpoint checkpoint;
	int64		left = MOST_GATHERED;
	EvsTime		until = evs_clock_in(MOST_BATCHES * evs_async_batch_time);

	if (projection->partitions == 1)
		return;

	evs_checkpoint_read(projection->name, &checkpoint);
	for (int i = 0; i < projection->partitions; i++)
	{
		evs_apply_begin(&applies[i], projection, i);
		applies[i].raise = true;
		checkpoint.position = Max(checkpoint.position, applies[i].unit.checkpoint.position);
	}
	for (int i = 0; i < projection->partitions; i++)
	{
		left -= bring_to(&applies[i], checkpoint.position, left, until);
		checkpoint.event_count += applies[i].applied;
	}
	projection->filter.partitions = 1;
	evs_checkpoint_write(projection->name, &checkpoint);
	evs_failures_clear(projection->name);
}

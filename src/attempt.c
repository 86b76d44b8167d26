/*
 * attempt.c - do something that may fail, in a subtransaction, and wait before it
 * is tried again.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "attempt.h"
#include "clock.h"

/*
 * PostgreSQL looks at all that other processes ask for at once, and forgets that there is
 * something to look at before it does.  An error of a lock timeout or a cancelled wait
 * passes over the rest, such as a barrier that DROP DATABASE waits for: in a loop of timeouts
 * it would do so every time.
 */
void
evs_attempt_flush(void)
{
	FlushErrorState();
	InterruptPending = true;
}

ErrorData *
evs_attempt(void (*work) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);

	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		evs_attempt_flush();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

void
evs_attempt_pause(int milliseconds)
{
	EvsTime		until = evs_clock_in(milliseconds);

	for (;;)
	{
		long		left;

		CHECK_FOR_INTERRUPTS();
		left = evs_clock_left(until);
		if (left <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * clock.c - time that passes evenly, for deadlines and durations while the server runs.
 */
#include "evsource.h"

#include <limits.h>
#include <time.h>

#include "utils/timestamp.h"

#include "clock.h"

/* Longer (ms) is for ever: a time so far away can be reckoned with. */
#define FOR_EVER		(PG_INT64_MAX / 4000)

EvsTime
evs_clock_now(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return (EvsTime) {(int64) now.tv_sec * 1000000 + now.tv_nsec / 1000};
}

EvsTime
evs_clock_after(EvsTime time, int64 milliseconds)
{
	if (milliseconds > FOR_EVER || time.us == EVS_NEVER.us)
		return EVS_NEVER;
	return (EvsTime) {time.us + milliseconds * 1000};
}

EvsTime
evs_clock_in(int64 milliseconds)
{
	return evs_clock_after(evs_clock_now(), milliseconds);
}

EvsTime
evs_clock_at(TimestampTz time)
{
	return evs_clock_in(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), time));
}

long
evs_clock_left(EvsTime time)
{
	int64		now = evs_clock_now().us;

	if (time.us <= now)
		return 0;
	return (long) Min((time.us - now + 999) / 1000, INT_MAX);
}

double
evs_clock_since(EvsTime time)
{
	return (evs_clock_now().us - time.us) / 1000.0;
}

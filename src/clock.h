/*
 * clock.h - time that passes evenly, for deadlines and durations while the server runs.
 *
 * The time of day (TimestampTz) can be set back and forth while we wait.  It is for what
 * people read, and for what outlives the server: then never as further away than it was
 * meant to be.
 */
#ifndef EVS_CLOCK_H
#define EVS_CLOCK_H

#include "evsource.h"

#include "datatype/timestamp.h"

/* A point of time, of use to the processes that run now: not to be stored. */
typedef struct EvsTime
{
	int64		us;
} EvsTime;

/* None, which zeros are, too: it is over. */
#define EVS_NO_TIME			((EvsTime) {0})

/* One that does not come. */
#define EVS_NEVER			((EvsTime) {PG_INT64_MAX})

extern EvsTime evs_clock_now(void);

/* So many ms after a time, or from now; before it, where they are negative. */
extern EvsTime evs_clock_after(EvsTime time, int64 milliseconds);
extern EvsTime evs_clock_in(int64 milliseconds);

/* When this time of day comes, as it looks now; at once, if it has come. */
extern EvsTime evs_clock_at(TimestampTz time);

/* How many ms are left until then: whole ones, at least 0 and at most INT_MAX. */
extern long evs_clock_left(EvsTime time);

/* How many ms have passed since then. */
extern double evs_clock_since(EvsTime time);

static inline bool
evs_clock_is_set(EvsTime time)
{
	return time.us != 0;
}

static inline bool
evs_clock_is_over(EvsTime time)
{
	return evs_clock_now().us >= time.us;
}

static inline EvsTime
evs_clock_earlier(EvsTime one, EvsTime other)
{
	return one.us < other.us ? one : other;
}

static inline EvsTime
evs_clock_later(EvsTime one, EvsTime other)
{
	return one.us > other.us ? one : other;
}

#endif							/* EVS_CLOCK_H */

/*
 * alarm.c - know that a time is over without looking at the clock.
 *
 * To look at the clock takes as long as a tenth of what it takes to fold an event, and
 * who looks only now and then notices too late that events have become slow.  So a
 * timer of the process, of those that PostgreSQL has for lock_timeout and the like, sets a
 * flag.  There is one alarm: what is bounded in time is never called within what is.
 */
#include "evsource.h"

#include <limits.h>

#include "utils/timeout.h"

#include "alarm.h"

volatile sig_atomic_t evs_alarm_bell = 0;

static TimeoutId timer;
static bool is_registered = false;
static long patience = 0;		/* ms that it was set for */

static void
ring(void)
{
	evs_alarm_bell = 1;
}

static void
ring_after(long milliseconds)
{
	evs_alarm_bell = milliseconds <= 0;
	if (milliseconds > 0)
		enable_timeout_after(timer, (int) Min(milliseconds, INT_MAX));
}

void
evs_alarm_set(EvsTime until)
{
	evs_alarm_off();
	if (!evs_clock_is_set(until))
		return;
	if (!is_registered)
		timer = RegisterTimeout(USER_TIMEOUT, ring);
	is_registered = true;
	patience = evs_clock_left(until);
	ring_after(patience);
}

void
evs_alarm_again(void)
{
	ring_after(patience);
}

void
evs_alarm_off(void)
{
	if (is_registered)
		disable_timeout(timer, false);
	evs_alarm_bell = 0;
}

/*
 * alarm.h - know that a time is over without looking at the clock.
 */
#ifndef EVS_ALARM_H
#define EVS_ALARM_H

#include "evsource.h"
#include "clock.h"

#include <signal.h>

/* Use evs_alarm_rang(). */
extern PGDLLIMPORT volatile sig_atomic_t evs_alarm_bell;

/* Have it ring at this time, at once if that is over; not at all if it is not set. */
extern void evs_alarm_set(EvsTime until);

/* It has rung: have it ring once more, after as long as it had been set for. */
extern void evs_alarm_again(void);

/* After an error nobody need do that: it would ring, and nobody would listen. */
extern void evs_alarm_off(void);

/* For whoever has been told that he is bounded in time: others may be called by him. */
static inline bool
evs_alarm_rang(void)
{
	return evs_alarm_bell != 0;
}

#endif							/* EVS_ALARM_H */

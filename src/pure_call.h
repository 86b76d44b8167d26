/*
 * pure_call.h - call a function that looks at events and states, and must not append.
 */
#ifndef EVS_PURE_CALL_H
#define EVS_PURE_CALL_H

#include "evsource.h"

#include "fmgr.h"

/* What such a function does. */
typedef enum EvsPure
{
	EVS_PURE_NONE,				/* none is running */
	EVS_PURE_TYPE,				/* validates or upcasts an event */
	EVS_PURE_STATE				/* computes a state, or says whose it is */
} EvsPure;

/* FunctionCallInvoke() of it. */
extern Datum evs_pure_call(FunctionCallInfo fcinfo, EvsPure what);

/* 55000 when one is running. */
extern void evs_pure_check_append(void);

#endif							/* EVS_PURE_CALL_H */

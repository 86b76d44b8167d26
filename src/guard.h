/*
 * guard.h - the log is not dropped by accident.
 */
#ifndef EVS_GUARD_H
#define EVS_GUARD_H

#include "evsource.h"

#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"

extern void evs_guard_init(void);

/* What fired the function, which is for these event triggers; 39P03 when nothing has. */
extern EventTriggerData *evs_guard_event(FunctionCallInfo fcinfo, const char *triggers);

/* The same of a trigger of a table: 39P01. */
extern TriggerData *evs_guard_trigger(FunctionCallInfo fcinfo, const char *triggers);

/* For who had to wait for a projection: 42704 if the extension was dropped meanwhile. */
extern void evs_guard_check_there(const char *name);

#endif							/* EVS_GUARD_H */

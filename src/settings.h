/*
 * settings.h - every setting of evsource; settings.c says what each one means.
 */
#ifndef EVS_SETTINGS_H
#define EVS_SETTINGS_H

#include "evsource.h"

extern bool evs_allow_drop;
extern bool evs_allow_passed_positions;
extern int	evs_async_attempts;
extern int	evs_async_batch_events;
extern int	evs_async_batch_time;
extern int	evs_async_retry_delay;
extern int	evs_max_dead_letters;
extern int	evs_max_command_retries;
extern int	evs_max_dispatch_depth;
extern int	evs_max_partitions;
extern int	evs_max_wait;
extern char *evs_metadata;

extern void evs_settings_init(void);

/*
 * Background worker: connect to a database (invalid: to none) as the bootstrap superuser.  Of
 * evsource's settings, those of the database and the server are in force, and none of a role.
 */
extern void evs_settings_connect(Oid database);

#endif							/* EVS_SETTINGS_H */

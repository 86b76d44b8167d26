/*
 * settings.h - every setting of evsource; settings.c says what each one means.
 */
#ifndef EVS_SETTINGS_H
#define EVS_SETTINGS_H

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

#endif							/* EVS_SETTINGS_H */

/*
 * settings.c - every setting of evsource, alphabetically.
 */
#include "evsource.h"

#include "daemon.h"
#include "metadata.h"
#include "settings.h"
#include "state_cache.h"

bool		evs_allow_drop = false;
bool		evs_allow_passed_positions = false;
int			evs_async_attempts = 5;
int			evs_async_batch_events = 100000;
int			evs_async_batch_time = 500;
int			evs_async_retry_delay = 200;
int			evs_max_dead_letters = 1000;
int			evs_max_command_retries = 3;
int			evs_max_dispatch_depth = 16;
int			evs_max_partitions = 16;
int			evs_max_wait = 60000;
char	   *evs_metadata = NULL;

void
evs_settings_init(void)
{
	DefineCustomBoolVariable("evsource.allow_drop",
							 "Allows DROP EXTENSION evsource while the log holds events.",
							 NULL,
							 &evs_allow_drop,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("evsource.allow_passed_positions",
							 "Lets the owner import events at any position, and in any order.",
							 "Those that follow the log miss what is imported below where they are.",
							 &evs_allow_passed_positions,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.async_attempts",
							"How often an async projection tries an event before it gives up.",
							"Then it stops, or parks the event: see on_error of create_projection.",
							&evs_async_attempts,
							5, 1, 1000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.async_batch_events",
							"The most events that a worker applies in one transaction.",
							NULL,
							&evs_async_batch_events,
							100000, 1, 1000000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.async_batch_time",
							"How long a transaction of a worker should take.",
							"A long one holds back vacuum. Batches grow and shrink accordingly.",
							&evs_async_batch_time,
							500, 1, 60000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.async_retry_delay",
							"How long a worker waits before it tries an event again.",
							"The wait doubles with each further attempt.",
							&evs_async_retry_delay,
							200, 0, 600000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("evsource.daemon",
							 "Lets background processes apply async projections.",
							 "Set it for a database to keep them out of it. In a session: whether its changes of projections start them.",
							 &evs_daemon_enabled,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_dead_letters",
							"How many events a projection may park because of an error.",
							"So many say that the handler is broken, and not the events: the projection stops.",
							&evs_max_dead_letters,
							1000, 0, INT_MAX,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_command_retries",
							"How often execute_command decides anew when its stream has moved on.",
							NULL,
							&evs_max_command_retries,
							3, 0, 1000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_dispatch_depth",
							"How deep handlers that append may feed each other.",
							"What a client appends is at depth 0, what its handlers append at depth 1.",
							&evs_max_dispatch_depth,
							16, 0, 1000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_partitions",
							"How many workers may share one projection.",
							NULL,
							&evs_max_partitions,
							16, 1, 1024,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_wait",
							"How long fetch_events waits for events at most, whatever it is told.",
							"A statement that waits holds back vacuum. 0: as long as it is told.",
							&evs_max_wait,
							60000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.max_workers",
							"How many workers may apply async projections of one database at a time.",
							"Each takes one of max_worker_processes; so does the coordinator of the database.",
							&evs_max_workers,
							4, 1, EVS_MAX_WORKERS,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("evsource.metadata",
							   "Metadata merged under that of every append, as the text of a JSON object.",
							   "Empty means none. See also evsource.set_metadata().",
							   &evs_metadata,
							   "",
							   PGC_USERSET, 0,
							   evs_metadata_check_setting, NULL, NULL);

	DefineCustomIntVariable("evsource.notify_interval",
							"How often the daemon tells those who LISTEN of new events, while there are any.",
							"A few may come sooner. 0: it does not.",
							&evs_notify_interval,
							5, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.publish_interval",
							"How often the safe position is published for standbys while it changes.",
							"0: the daemon does not publish it.",
							&evs_publish_interval,
							1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.state_cache_size",
							"Memory of each session for states of fold projections.",
							"The states used last are kept. 0 keeps none.",
							&evs_state_cache_size,
							4096, 0, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("evsource");
}

/*
 * settings.c - defines every setting of evsource.
 *
 * The processes of the daemon are connected as the bootstrap superuser.  What ALTER ROLE has
 * given to that role is for its sessions, and not for what they do for everybody.
 */
#include "evsource.h"

#include "postmaster/bgworker.h"
#include "utils/elog.h"

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

static bool without_role = false;	/* we connect, and want no settings of a role */
static emit_log_hook_type previous_log_hook = NULL;

/* The message of our refusals, which nobody is to read. */
#define OF_A_ROLE	"this is the setting of a role"

static bool
is_for_us(GucSource source)
{
	if (!without_role || (source != PGC_S_USER && source != PGC_S_DATABASE_USER))
		return true;
	GUC_check_errmsg(OF_A_ROLE);
	return false;
}

static bool
check_bool(bool *value, void **extra, GucSource source)
{
	return is_for_us(source);
}

static bool
check_int(int *value, void **extra, GucSource source)
{
	return is_for_us(source);
}

static bool
check_metadata(char **value, void **extra, GucSource source)
{
	return is_for_us(source) && evs_metadata_check_setting(value, extra, source);
}

/* To refuse one is the only way to have those of the database instead; the server warns of it. */
static void
drop_refusals(ErrorData *error)
{
	if (error->message != NULL && strcmp(error->message, OF_A_ROLE) == 0)
		error->output_to_server = false;
	else if (previous_log_hook)
		previous_log_hook(error);
}

void
evs_settings_connect(Oid database)
{
	previous_log_hook = emit_log_hook;
	emit_log_hook = drop_refusals;
	without_role = true;
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	without_role = false;
	emit_log_hook = previous_log_hook;
}

void
evs_settings_init(void)
{
	DefineCustomBoolVariable("evsource.allow_drop",
							 "Allows DROP EXTENSION evsource while the log holds events.",
							 NULL,
							 &evs_allow_drop,
							 false,
							 PGC_SUSET, 0,
							 check_bool, NULL, NULL);

	DefineCustomBoolVariable("evsource.allow_passed_positions",
							 "Allows the owner to import events at any position and in any order.",
							 "Readers that follow the log miss events that are imported below their position.",
							 &evs_allow_passed_positions,
							 false,
							 PGC_USERSET, 0,
							 check_bool, NULL, NULL);

	DefineCustomIntVariable("evsource.async_attempts",
							"Sets how often an async projection tries an event before it gives up.",
							"After that it stops, or parks the event: see on_error of create_projection.",
							&evs_async_attempts,
							5, 1, 1000,
							PGC_USERSET, 0,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.async_batch_events",
							"Sets the maximum number of events that a worker applies in one transaction.",
							NULL,
							&evs_async_batch_events,
							100000, 1, 1000000,
							PGC_USERSET, 0,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.async_batch_time",
							"Sets the target duration of a worker's transactions.",
							"Batches grow and shrink to meet it. Long transactions hold back vacuum.",
							&evs_async_batch_time,
							500, 1, 60000,
							PGC_USERSET, GUC_UNIT_MS,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.async_retry_delay",
							"Sets the time a worker waits before it tries an event again.",
							"The wait doubles with each further attempt.",
							&evs_async_retry_delay,
							200, 0, 600000,
							PGC_USERSET, GUC_UNIT_MS,
							check_int, NULL, NULL);

	DefineCustomBoolVariable("evsource.daemon",
							 "Enables background processes that apply async projections.",
							 "Turn it off for a database to keep them out of it. In a session, it decides whether changes of projections start them.",
							 &evs_daemon_enabled,
							 true,
							 PGC_USERSET, 0,
							 check_bool, NULL, NULL);

	DefineCustomIntVariable("evsource.max_dead_letters",
							"Sets the maximum number of events that a projection may park because of errors.",
							"A projection with more stops: its handler is at fault, and not the events.",
							&evs_max_dead_letters,
							1000, 0, INT_MAX,
							PGC_USERSET, 0,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.max_command_retries",
							"Sets the maximum number of times that execute_command decides again after a conflict.",
							NULL,
							&evs_max_command_retries,
							3, 0, 1000,
							PGC_USERSET, 0,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.max_dispatch_depth",
							"Sets the maximum depth to which handlers that append may trigger each other.",
							"Events that a client appends are at depth 0, those that their handlers append at depth 1.",
							&evs_max_dispatch_depth,
							16, 0, 1000,
							PGC_USERSET, 0,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.max_partitions",
							"Sets the maximum number of partitions of one projection.",
							NULL,
							&evs_max_partitions,
							16, 1, 1024,
							PGC_SUSET, 0,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.max_wait",
							"Sets the maximum time that one call of fetch_events waits for events.",
							"A waiting statement holds back vacuum. 0 disables the limit.",
							&evs_max_wait,
							60000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							check_int, NULL, NULL);

	DefineCustomIntVariable("evsource.max_workers",
							"Sets the maximum number of workers that apply async projections of one database.",
							"Each takes one of max_worker_processes, as does the coordinator of the database.",
							&evs_max_workers,
							4, 1, EVS_MAX_WORKERS,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("evsource.metadata",
							   "Sets metadata that is merged under that of every append.",
							   "The text of a JSON object; empty means none. See also evsource.set_metadata().",
							   &evs_metadata,
							   "",
							   PGC_USERSET, 0,
							   check_metadata, NULL, NULL);

	DefineCustomIntVariable("evsource.notify_interval",
							"Sets the interval at which the daemon notifies listeners while there are new events.",
							"Some notifications may come sooner. 0 disables them.",
							&evs_notify_interval,
							5, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.publish_interval",
							"Sets the interval at which the safe position is published for standbys while it changes.",
							"0 disables publishing by the daemon.",
							&evs_publish_interval,
							1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("evsource.state_cache_size",
							"Sets the memory of each session for states of fold projections.",
							"The most recently used states are kept. 0 keeps none.",
							&evs_state_cache_size,
							4096, 0, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							check_int, NULL, NULL);

	MarkGUCPrefixReserved("evsource");
}

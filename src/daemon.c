/*
 * daemon.c - what the background processes have in common: how they are
 * described, how they begin, how they sleep; and how a launcher is started.
 */
#include "evsource.h"

#include <signal.h>
#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "daemon.h"
#include "replication.h"
#include "settings.h"
#include "shmem.h"
#include "wakeup.h"

/* seconds until the postmaster starts a launcher again that died */
#define LAUNCHER_RESTART	5

/* ms between two looks whether somebody who cannot say so needs the database */
#define UNKNOWN_TIMEOUT		1000

/* ms between two looks at a log that logical replication fills: it does not wake us */
#define COPY_INTERVAL		1000

static volatile sig_atomic_t told_to_leave = false;
static volatile sig_atomic_t may_be_cancelled = false;

bool		evs_daemon_enabled = true;
int			evs_max_workers = 4;
int			evs_notify_interval = 5;
int			evs_publish_interval = 1000;

StaticAssertDecl(sizeof(EvsPost) <= BGW_EXTRALEN, "EvsPost must fit into bgw_extra");

void
evs_daemon_describe(BackgroundWorker *worker, const char *type, const char *function,
					const EvsPost *post)
{
	memset(worker, 0, sizeof(BackgroundWorker));
	snprintf(worker->bgw_type, BGW_MAXLEN, "%s", type);
	if (OidIsValid(post->database))
		snprintf(worker->bgw_name, BGW_MAXLEN, "%s for database %u", type, post->database);
	else
		snprintf(worker->bgw_name, BGW_MAXLEN, "%s", type);
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;

	/* not on a standby: the postmaster waits for the promotion */
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker->bgw_library_name, sizeof(worker->bgw_library_name), "evsource");
	snprintf(worker->bgw_function_name, BGW_MAXLEN, "%s", function);
	memcpy(worker->bgw_extra, post, sizeof(EvsPost));
}

static void
describe_launcher(BackgroundWorker *worker, Oid database)
{
	EvsPost		post = {.database = database};

	evs_daemon_describe(worker, "evsource launcher", "evs_launcher_main", &post);
	worker->bgw_restart_time = LAUNCHER_RESTART;
}

void
evs_launcher_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	describe_launcher(&worker, InvalidOid);
	RegisterBackgroundWorker(&worker);
}

bool
evs_launcher_start(Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	describe_launcher(&worker, database);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

/*
 * What a database or a role was given by ALTER ... SET is not for us.
 *
 * No commit of ours waits for the disk, nor for a standby.  A crash takes read model and
 * checkpoint back together, and a session that reads positions flushes what it reads (read.c).
 * While a synchronous standby is away, a process that waits for it keeps its locks and listens
 * to nobody.
 */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"exit_on_error", "off"},
		{"idle_in_transaction_session_timeout", "0"},
		{"lock_timeout", "0"},
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"session_replication_role", "origin"},
		{"statement_timeout", "0"},
		{"synchronous_commit", "off"},
		{"transaction_timeout", "0"},	/* since 17 */
	};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* Nor whom it names: we stay who we were connected as.  To look that up takes a transaction. */
static void
pin_session_user(void)
{
	if (GetSessionUserId() == BOOTSTRAP_SUPERUSERID)
		return;
	StartTransactionCommand();
	SetConfigOption("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false),
					PGC_SUSET, PGC_S_OVERRIDE);
	CommitTransactionCommand();
}

/* Is this a child between fork() and exec(), of a handler, say?  Our latch is not its own. */
static bool
is_for_child(int number)
{
	if (MyProcPid == (int) getpid())
		return false;
	signal(number, SIG_DFL);
	raise(number);
	return true;
}

/* A handler may have sent the signal, to whoever runs it: nobody has told us then. */
static void
leave_soon(int number, siginfo_t *info, void *context)
{
	int			saved_errno = errno;

	if (is_for_child(number))
		return;
	if (info->si_pid != MyProcPid)
		told_to_leave = true;
	evs_die(number, info);
	errno = saved_errno;
}

/*
 * A cancel is for what a handler does.  Anything else it would end, and the process with it.
 * A timeout of our own comes from ourselves.
 */
static void
cancel_step(int number, siginfo_t *info, void *context)
{
	int			saved_errno = errno;

	if (is_for_child(number))
		return;
	if (may_be_cancelled || info->si_pid == MyProcPid)
		evs_cancel(number, info);
	errno = saved_errno;
}

/* pqsignal() has no way to ask who has sent it; what it does besides, the handlers do. */
static void
handle_signal(int number, void (*handler) (int number, siginfo_t *info, void *context))
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = handler;
	action.sa_flags = SA_SIGINFO | SA_RESTART;
	sigemptyset(&action.sa_mask);
	if (sigaction(number, &action, NULL) < 0)
		elog(ERROR, "could not install a signal handler: %m");
}

/* One that came too late for the step is not for what follows. */
void
evs_daemon_allow_cancel(bool allow)
{
	may_be_cancelled = allow;
	if (!allow)
		QueryCancelPending = false;
}

bool
evs_daemon_was_told_to_leave(void)
{
	return told_to_leave;
}

EvsPost
evs_daemon_begin(bool with_database)
{
	EvsPost		post;

	memcpy(&post, MyBgworkerEntry->bgw_extra, sizeof(EvsPost));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	handle_signal(SIGTERM, leave_soon);
	handle_signal(SIGINT, cancel_step);
	BackgroundWorkerUnblockSignals();

	/* handlers run as their projection's owner */
	evs_settings_connect(with_database ? post.database : InvalidOid);
	pin_session_user();
	pin_settings();
	pgstat_report_appname(MyBgworkerEntry->bgw_type);
	return post;
}

/* Which extension this is, and whose work; false when there is none. */
static bool
read_extension(Oid *oid, char *version, TransactionId *xmin)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		exists = false;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("evsource"));
	scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(extensions), &isnull);

		*oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		*xmin = HeapTupleHeaderGetXmin(tuple->t_data);
		strlcpy(version, isnull ? "" : text_to_cstring(DatumGetTextPP(value)), NAMEDATALEN);
		exists = true;
	}
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	return exists;
}

bool
evs_daemon_is_outdated(void)
{
	static Oid	first_oid = InvalidOid;
	static char first_version[NAMEDATALEN];
	Oid			oid;
	char		version[NAMEDATALEN];
	TransactionId xmin;

	if (!read_extension(&oid, version, &xmin))
		return false;
	if (!OidIsValid(first_oid))
	{
		first_oid = oid;
		strlcpy(first_version, version, sizeof(first_version));
	}
	return oid != first_oid || strcmp(version, first_version) != 0;
}

bool
evs_daemon_is_new(void)
{
	Oid			oid;
	char		version[NAMEDATALEN];
	TransactionId xmin;

	return read_extension(&oid, version, &xmin) && TransactionIdIsCurrentTransactionId(xmin);
}

bool
evs_daemon_is_shut_out(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	bool		allowed = HeapTupleIsValid(tuple) &&
		((Form_pg_database) GETSTRUCT(tuple))->datallowconn;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return !allowed;
}

bool
evs_daemon_is_in_copy(void)
{
	Relation	store = evs_catalog_open(evs_catalog()->store, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(store, snapshot, 0, NULL, SO_NONE);
	TupleTableSlot *slot = table_slot_create(store, NULL);
	bool		copy = false;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		copy = (uint64) DatumGetInt64(slot_getattr(slot, 2, &isnull)) != GetSystemIdentifier() ||
			DatumGetObjectId(slot_getattr(slot, 3, &isnull)) != MyDatabaseId;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(store, AccessShareLock);
	return copy;
}

bool
evs_daemon_reload(void)
{
	CHECK_FOR_INTERRUPTS();
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

void
evs_daemon_start_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

void
evs_daemon_sleep(bool events, bool (*nothing_to_do) (void *argument), void *argument,
				 long timeout)
{
	static uint32 wait_event = 0;
	bool		sleep;

	if (wait_event == 0)
		wait_event = evs_wakeup_wait_event("EvsourceIdle");

	/* DROP DATABASE may come from a session that does not know of us */
	if (!evs_shmem_is_preloaded())
		timeout = Min(timeout, UNKNOWN_TIMEOUT);

	evs_daemon_start_transaction();
	if (events)
		evs_wakeup_register_events();
	else
		evs_wakeup_register_daemon();
	/* what was committed before that did not wake us: hear of it now */
	AcceptInvalidationMessages();
	sleep = nothing_to_do(argument);
	if (events && evs_catalog_exists() && evs_replication_is_copy())
		timeout = Min(timeout, COPY_INTERVAL);
	if (!evs_wakeup_needs_transaction())
		CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	if (sleep)
		evs_wakeup_sleep(timeout, wait_event);
	evs_wakeup_unregister();
	if (evs_wakeup_needs_transaction())
		CommitTransactionCommand();
}

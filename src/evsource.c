/*
 * evsource.c - the library's entry: each room sets itself up, nothing else.
 *
 * With shared_preload_libraries = 'evsource' this runs in the postmaster and
 * shared memory is reserved; otherwise it runs in the first backend that calls
 * one of our functions, and horizon.c does with what it finds.
 */
#include "evsource.h"

#include "fmgr.h"

#include "capture.h"
#include "catalog.h"
#include "compile.h"
#include "daemon.h"
#include "dispatch.h"
#include "event.h"
#include "gate.h"
#include "guard.h"
#include "hold.h"
#include "horizon.h"
#include "inserter.h"
#include "immutable.h"
#include "intake.h"
#include "jobs.h"
#include "listen.h"
#include "new_events_stream.h"
#include "projection.h"
#include "replication.h"
#include "run.h"
#include "settings.h"
#include "standin.h"
#include "shmem.h"
#include "snapshots.h"
#include "state_cache.h"
#include "streams.h"
#include "types.h"
#include "utility.h"
#include "waited.h"
#include "wakeup.h"

PG_MODULE_MAGIC_EXT(.name = "evsource", .version = "0.1");

void		_PG_init(void);

void
_PG_init(void)
{
	evs_settings_init();
	evs_shmem_init();
	evs_catalog_init();
	evs_hold_init();
	evs_gate_init();
	evs_horizon_init();
	evs_replication_init();
	evs_wakeup_init();
	evs_waited_init();
	evs_event_init();
	evs_streams_init();
	evs_inserter_init();
	evs_intake_init();
	evs_immutable_init();
	evs_types_init();
	evs_projection_init();
	evs_dispatch_init();
	evs_new_events_stream_init();
	evs_run_init();
	evs_state_cache_init();
	evs_snapshot_reject_init();
	evs_capture_plan_init();
	evs_capture_pending_init();
	evs_capture_truncate_init();
	evs_guard_init();
	evs_standin_init();
	evs_compile_init();
	evs_utility_init();
	evs_listen_init();
	evs_jobs_init();
	evs_launcher_init();
}

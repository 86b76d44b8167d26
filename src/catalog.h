/*
 * catalog.h - the OIDs of evsource's own objects, looked up by name once and
 * forgotten when any of them is dropped or created again.
 */
#ifndef EVS_CATALOG_H
#define EVS_CATALOG_H

#include "evsource.h"

#include "access/tupdesc.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

typedef struct EvsCatalog
{
	Oid			schema;			/* evsource */
	Oid			events;			/* the log */
	Oid			events_pkey;	/* (position) */
	Oid			events_stream;	/* (stream, version) */
	Oid			events_category;	/* (category(stream), position) */
	Oid			events_id;		/* (id) where id is not null */
	Oid			position_seq;	/* draws positions */
	Oid			timeline_seq;	/* on which timeline it drew them last */
	Oid			restored_seq;	/* do events await the row of store? */
	Oid			projections;	/* registered projections */
	Oid			event_types;	/* versions of event types */
	Oid			event_type_changes; /* which of them changed stored events */
	Oid			snapshots;		/* saved states */
	Oid			snapshots_pkey; /* (projection, key) */
	Oid			snapshot_parts; /* large ones */
	Oid			snapshot_parts_pkey;	/* (projection, key, part) */
	Oid			snapshot_removals;	/* who removed some last */
	Oid			snapshot_removals_pkey; /* (projection) */
	Oid			store;			/* who this store is */
	Oid			published;		/* safe position for standbys */
	Oid			followed;		/* who followed the log before it was a copy */
	Oid			event_type;		/* composite type evsource.event */
	Oid			event_array_type;	/* evsource.event[] */
	Oid			deciders;		/* registered deciders */
	Oid			commands;		/* executed commands that events do not tell */
	Oid			commands_pkey;	/* (command_id) */
	Oid			new_event_type; /* evsource.new_event */
	Oid			new_event_array_type;	/* evsource.new_event[] */
	Oid			command_result; /* what execute_command returns */
	Oid			append_result;	/* what append returns */
	Oid			append_batch_result;	/* what append_batch and append_json return */
	Oid			intake_begin;	/* functions of the triggers on events */
	Oid			intake_row;
	Oid			intake_end;
	Oid			replicated_row;
	Oid			subscriptions;	/* subscriptions */
	Oid			subscriptions_pkey; /* (subscription) */
	Oid			cursors;		/* how far their partitions are */
	Oid			cursors_pkey;	/* (subscription, generation, partition) */
	Oid			letters;		/* their dead letters */
	Oid			letters_pkey;	/* (subscription, position) */
	Oid			letters_retry;	/* (subscription, position) where retry */
	Oid			captures;		/* who captures which table */
	Oid			capture;		/* functions of the triggers on captured tables */
	Oid			capture_partition;
} EvsCatalog;

extern void evs_catalog_init(void);
extern const EvsCatalog *evs_catalog(void);
extern bool evs_catalog_exists(void);

/*
 * Open and lock one of these tables.  42P01 when the extension has been dropped while we
 * waited for the lock.
 */
extern Relation evs_catalog_open(Oid relid, LOCKMODE lockmode);

/* The owner of evsource's tables; 3F000, 42P01 when the extension is not there. */
extern Oid	evs_catalog_owner(void);

/* A table of ours is older than the library: 42703. */
extern void evs_catalog_no_column(const char *table, const char *column);

/* tuple descriptor of evsource.event: copied, without reference counts */
extern TupleDesc evs_event_tupdesc(void);

#endif							/* EVS_CATALOG_H */

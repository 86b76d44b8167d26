/*
 * read.h - what the two halves of the reading functions share: read.c reads by
 * itself, read_secured.c through SPI where row security applies.
 */
#ifndef EVS_READ_H
#define EVS_READ_H

#include "evsource.h"

#include "access/xlogdefs.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "event_row.h"
#include "types.h"

/* One call of a reading function. */
typedef struct EvsRead
{
	Tuplestorestate *result;	/* where the events go */
	EvsEventRow row;			/* forms them */
	EvsTypeRun *types;			/* brings old data up; NULL: no type is defined */
	MemoryContext event_context;	/* of the event in hand, if types are */
	int64		remaining;		/* how many may still be put; -1: all */
	bool		secured;		/* row security applies */
	Snapshot	own;			/* the transaction's snapshot where that is fixed,
								 * NULL under READ COMMITTED */
	TransactionId last_xmin;	/* whose commit was looked at last */
	XLogRecPtr	commit_lsn;		/* newest commit among the events read */
} EvsRead;

/*
 * May the current user read the events?  42501 says no; true says: only what
 * row security lets through.
 */
extern bool evs_read_check_access(void);

/* Begin the result of a function that returns events: here they go. */
extern Tuplestorestate *evs_read_result(FunctionCallInfo fcinfo);

/* A stored row (see below) as an event, its varlenas as they are stored. */
extern void evs_read_view(EvsEvent *event, const Datum *stored, const bool *is_null);

/*
 * A stored row is an array of values and one of nulls, in the order of
 * evsource.events.  Put it to the result; ask whether it has this id.
 */
extern void evs_read_put(EvsRead *read, const Datum *stored, const bool *is_null);
extern bool evs_read_has_id(const Datum *stored, const bool *is_null,
							const pg_uuid_t *wanted);

/* Remember the commit of the transaction that stored this row. */
extern void evs_read_note_commit(EvsRead *read, TupleTableSlot *slot);

/* Flush the WAL up to these commits: what is handed out must survive a crash. */
extern void evs_read_flush_commits(const EvsRead *read);

/* Can the transaction's own snapshot (NULL: yes) see a row that a newer one sees? */
extern bool evs_read_snapshot_sees(Snapshot own, Relation events, TupleTableSlot *slot);

/* The readers, for a user to whom row security applies. */
extern void evs_read_secured_stream(EvsRead *read, text *stream, int64 from_version,
									int64 to_version, bool backward);
extern int64 evs_read_secured_version(text *stream, int64 to_version);
extern void evs_read_secured_log(EvsRead *read, int64 after, int64 upto,
								 const EvsFilter *filter);
extern void evs_read_secured_event(EvsRead *read, pg_uuid_t *id, int64 position);

#endif							/* EVS_READ_H */

/*
 * query.h - constant SQL on evsource's own tables, run by kept plans as the
 * owner of these tables.
 *
 *	static EvsQuery forget = {
 *		"delete from evsource.snapshots where projection = $1",
 *		1, {TEXTOID}, SPI_OK_DELETE
 *	};
 *	Datum		values[] = {CStringGetTextDatum(name)};
 *	uint64		rows = evs_query_run(&forget, values, NULL);
 *
 * The caller has checked the rights of whoever asked.
 */
#ifndef EVS_QUERY_H
#define EVS_QUERY_H

#include "evsource.h"

#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "identity.h"

#define EVS_QUERY_MAX_ARGUMENTS	32

/* One statement; a static variable. */
typedef struct EvsQuery
{
	const char *sql;			/* names qualified, values as parameters */
	int			nargs;
	Oid			argtypes[EVS_QUERY_MAX_ARGUMENTS];
	int			expected;		/* the SPI_OK_... that it must give */
	bool		by_index;		/* it takes rows one by one, and keeps a plan that does, for
								 * the table may become much longer than it was */
	SPIPlanPtr	plan;			/* kept; NULL until it first runs */
} EvsQuery;

/* What it gave: valid from evs_query_begin() to evs_query_end(). */
typedef struct EvsQueryResult
{
	uint64		count;			/* rows returned or changed */
	TupleDesc	tupdesc;		/* of the rows, if it returns any */
	HeapTuple  *rows;
	MemoryContext context;		/* the caller's: what shall outlive the result */
	EvsIdentity identity;
} EvsQueryResult;

/*
 * Run the statement.  nulls as SPI takes them (NULL: no argument is null).
 * With a snapshot it only reads, and sees what the snapshot sees; without one
 * it reads and writes as any statement does, and sees what was done before it.
 */
extern void evs_query_begin(EvsQuery *query, Datum *values, const char *nulls,
							Snapshot snapshot, EvsQueryResult *result);
extern void evs_query_end(EvsQueryResult *result);

/*
 * In a PG_CATCH block around SPI: rethrow the error.  Its context names a statement of
 * evsource's own, which may be a page long, by what it is, or by how it begins ("what" is
 * NULL).  The rest of the context stays.
 */
pg_noreturn extern void evs_query_rethrow(MemoryContext context, const char *statement,
										  const char *what);

/*
 * A column of a row, which count from 1 and 0: 0, false or NULL where it is null.
 * Texts, and what looks like one, are in the caller's memory.
 */
extern int64 evs_query_bigint(const EvsQueryResult *result, uint64 row, int column);
extern int32 evs_query_integer(const EvsQueryResult *result, uint64 row, int column);
extern bool evs_query_boolean(const EvsQueryResult *result, uint64 row, int column);
extern TimestampTz evs_query_timestamp(const EvsQueryResult *result, uint64 row, int column);
extern char *evs_query_text(const EvsQueryResult *result, uint64 row, int column);

/*
 * All in one: the first value of the first row, in the caller's memory.  What is
 * passed as "otherwise" when there is no row, or it is null.
 */
extern Datum evs_query_value(EvsQuery *query, Datum *values, const char *nulls,
							 Snapshot snapshot, Datum otherwise);

/* The same for a statement that returns texts: a list of them, as C strings. */
extern List *evs_query_texts(EvsQuery *query, Datum *values, const char *nulls);

/* And for one that returns oids. */
extern List *evs_query_oids(EvsQuery *query, Datum *values, const char *nulls);

/* The same where only the number of rows matters: how many it returned or changed. */
extern uint64 evs_query_run(EvsQuery *query, Datum *values, const char *nulls);

/* The same of a statement that has one parameter, a text. */
extern uint64 evs_query_run_by_name(EvsQuery *query, const char *name);

/*
 * The same of what is there now, whatever the transaction's isolation level: what
 * others have committed meanwhile is seen and is no reason for a 40001.
 */
extern uint64 evs_query_run_latest(EvsQuery *query, Datum *values, const char *nulls);
extern List *evs_query_texts_latest(EvsQuery *query, Datum *values, const char *nulls);

/* Of what is there now, too; but it only reads. */
extern Datum evs_query_value_latest(EvsQuery *query, Datum *values, const char *nulls,
									Datum otherwise);

/*
 * And a command that is none of these: CREATE, TRUNCATE and so on.  It runs with the
 * rights and the search_path that are there, once; what is put into it is quoted.
 */
extern void evs_query_command(const char *command);

/* The owner of evsource's tables, as whom statements run. */
extern Oid	evs_query_owner(void);

#endif							/* EVS_QUERY_H */

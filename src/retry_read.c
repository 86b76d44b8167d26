/*
 * retry_read.c - read the events that a projection has left aside again, and remove
 * their rows.
 *
 * There may be very many.  So each statement here looks at no more rows than those that
 * it is asked for, wherever they are, and an event is read when it is its turn.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "attempt.h"
#include "catalog.h"
#include "event.h"
#include "failure.h"
#include "query.h"
#include "retry_read.h"
#include "scan.h"
#include "text_array.h"
#include "types.h"

/* Columns of evsource.dead_letters. */
#define PROJECTION	1
#define POSITION	2
#define STREAM		3
#define KEYS		6
#define ATTEMPTS	7
#define SQLSTATE	9

static EvsQuery first_released = {
	"select position from evsource.dead_letters"
	" where projection = $1 and retry"
	"  and ($2 = 1 or evsource._partition(stream, $2) = $3)"
	" order by position limit 1",
	3, {TEXTOID, INT4OID, INT4OID}, SPI_OK_SELECT, .by_index = true
};

/* Each is one step in the index; by their positions alone, or joined, all would be looked at. */
static EvsQuery remove_letters = {
	"delete from evsource.dead_letters where ctid = any (array("
	"  select (select d.ctid from evsource.dead_letters d"
	"    where d.projection = $1 and d.position = n.position)"
	"  from unnest($2) n (position)))",
	2, {TEXTOID, INT8ARRAYOID}, SPI_OK_DELETE, .by_index = true
};

static EvsQuery remove_keys = {
	"delete from evsource.parked_keys where ctid = any (array("
	"  select (select k.ctid from evsource.parked_keys k"
	"    where k.projection = $1 and k.key = n.key collate \"C\" and k.position = n.position)"
	"  from unnest($2, $3) n (key, position)))",
	3, {TEXTOID, TEXTARRAYOID, INT8ARRAYOID}, SPI_OK_DELETE, .by_index = true
};

int64
evs_letters_first_released(const EvsUnit *unit)
{
	Datum		values[] = {
		CStringGetTextDatum(unit->projection), Int32GetDatum(unit->partitions),
		Int32GetDatum(unit->partition)
	};

	return DatumGetInt64(evs_query_value(&first_released, values, NULL, InvalidSnapshot,
										 Int64GetDatum(PG_INT64_MAX)));
}

/* Is it one of the unit's? */
static bool
is_of_unit(const EvsUnit *unit, HeapTuple row, TupleDesc desc)
{
	bool		is_null;

	return unit->partitions == 1 ||
		evs_partition_of(DatumGetTextPP(heap_getattr(row, STREAM, desc, &is_null)),
						 unit->partitions) == unit->partition;
}

static void
take_letter(EvsLetter *letter, HeapTuple row, TupleDesc desc)
{
	bool		is_null;
	Datum		sqlstate;

	letter->position = DatumGetInt64(heap_getattr(row, POSITION, desc, &is_null));
	evs_text_array_read(heap_getattr(row, KEYS, desc, &is_null),
						&letter->keys.keys, &letter->keys.count);
	letter->tried = DatumGetInt32(heap_getattr(row, ATTEMPTS, desc, &is_null)) > 0;
	sqlstate = heap_getattr(row, SQLSTATE, desc, &is_null);
	letter->crashed = letter->tried && !is_null &&
		strcmp(TextDatumGetCString(sqlstate), unpack_sql_state(ERRCODE_CRASH_SHUTDOWN)) == 0;
}

/*
 * Along the index: a statement would be planned by what is known of the table, which may be
 * from before it grew, and sort all that comes after for the first few.
 */
EvsLetter *
evs_letters_read(const EvsUnit *unit, int64 from, int max_letters, int *count)
{
	EvsLetter  *letters = palloc0(sizeof(EvsLetter) * max_letters);
	Relation	table = table_open(get_relname_relid("dead_letters", evs_catalog()->schema),
								   AccessShareLock);
	Relation	index = index_open(RelationGetPrimaryKeyIndex(table, false), AccessShareLock);
	Snapshot	snapshot;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	row;

	/* what the transaction has done so far counts */
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	ScanKeyInit(&keys[0], PROJECTION, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(unit->projection));
	ScanKeyInit(&keys[1], POSITION, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	scan = systable_beginscan_ordered(table, index, snapshot, 2, keys);
	*count = 0;
	while (*count < max_letters &&
		   (row = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		if (is_of_unit(unit, row, RelationGetDescr(table)))
			take_letter(&letters[(*count)++], row, RelationGetDescr(table));
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return letters;
}

/* ---- events ---- */

/* The event at a position. */
typedef struct Search
{
	int64		position;
	Snapshot	snapshot;
	bool		as_stored;
	EvsEvent   *event;
	bool		exists;			/* it is not gone from the log */
} Search;

static void
search_event(void *arg)
{
	Search	   *search = arg;
	EvsScan    *scan = evs_scan_log(search->position - 1, search->position, NULL,
									search->snapshot);
	EvsEvent	found;

	if (search->as_stored)
		evs_scan_as_stored(scan);
	search->exists = evs_scan_next(scan, &found);
	if (search->exists)
		evs_event_copy(search->event, &found);
	evs_scan_end(scan);
}

static void
read_event(EvsLetter *letter, Snapshot snapshot)
{
	Search		search = {letter->position, snapshot, false, &letter->event};

	if (evs_types_any_now())
		letter->error = evs_attempt(search_event, &search);
	else
		search_event(&search);
	if (letter->error != NULL)
	{
		if (evs_failure_is_transient(letter->error->sqlerrcode))
			ReThrowError(letter->error);
		search.as_stored = true;
		search_event(&search);
	}
	letter->read = true;
	letter->gone = !search.exists;
}

bool
evs_letters_read_events(EvsLetter *letters, int count)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		all = true;

	for (int i = 0; i < count; i++)
	{
		if (!letters[i].read)
			read_event(&letters[i], snapshot);
		all &= !letters[i].gone;
	}
	UnregisterSnapshot(snapshot);
	return all;
}

/* ---- keys ---- */

static bool
same_keys(const EvsKeys *a, const EvsKeys *b)
{
	bool		same = a->count == b->count;

	for (int i = 0; i < a->count && same; i++)
	{
		same = false;
		for (int k = 0; k < b->count && !same; k++)
			same = evs_same_text(a->keys[i], b->keys[k]);
	}
	return same;
}

static char *
keys_text(const EvsKeys *keys)
{
	return OidOutputFunctionCall(F_ARRAY_OUT, evs_text_array(keys->keys, keys->count));
}

/* Later events of the new keys did not wait for it. */
static ErrorData *
other_keys(const EvsProjection *projection, const EvsLetter *letter, const EvsKeys *keys)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	error->message = pstrdup("the event has other keys now than when it was parked");
	error->detail = psprintf("Later events waited for it under %s; now it has %s.",
							 keys_text(&letter->keys), keys_text(keys));
	error->hint = psprintf("CALL evsource.rebuild_projection('%s') applies all events, this one included.",
						   projection->name);
	return error;
}

int
evs_letters_check_keys(EvsProjection *projection, EvsLetter *letters, int count)
{
	int		   *places = palloc(sizeof(int) * count);
	EvsEvent   *events = palloc(sizeof(EvsEvent) * count);
	EvsKeys    *keys = palloc(sizeof(EvsKeys) * count);
	int			nevents = 0;
	int			found;
	ErrorData  *error;

	for (int i = 0; i < count; i++)
	{
		if (letters[i].keys_checked || letters[i].error != NULL)
			continue;
		places[nevents] = i;
		events[nevents++] = letters[i].event;
	}
	if (nevents == 0)
		return count;
	found = evs_keys_of(projection, events, nevents, keys, &error);
	for (int i = 0; i < found; i++)
	{
		EvsLetter  *letter = &letters[places[i]];

		letter->keys_checked = true;
		if (!same_keys(&letter->keys, &keys[i]))
			letter->error = other_keys(projection, letter, &keys[i]);
	}
	/* it fails again when it is its turn */
	return found < nevents ? places[found] + 1 : count;
}

/* ---- rows ---- */

static Datum
positions_array(Datum *positions, int count)
{
	return PointerGetDatum(construct_array(positions, count, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
evs_letters_remove(const char *projection, const EvsLetter *letters, int count)
{
	Datum	   *positions;
	text	  **keys;
	int			nkeys = 0;
	Datum		values[3];

	for (int i = 0; i < count; i++)
		nkeys += letters[i].keys.count;
	positions = palloc(sizeof(Datum) * Max(Max(count, nkeys), 1));
	keys = palloc(sizeof(text *) * Max(nkeys, 1));

	for (int i = 0; i < count; i++)
		positions[i] = Int64GetDatum(letters[i].position);
	values[0] = CStringGetTextDatum(projection);
	values[1] = positions_array(positions, count);
	(void) evs_query_run(&remove_letters, values, NULL);

	/* of each key, where it is */
	nkeys = 0;
	for (int i = 0; i < count; i++)
	{
		for (int k = 0; k < letters[i].keys.count; k++)
		{
			keys[nkeys] = letters[i].keys.keys[k];
			positions[nkeys++] = Int64GetDatum(letters[i].position);
		}
	}
	values[1] = evs_text_array(keys, nkeys);
	values[2] = positions_array(positions, nkeys);
	(void) evs_query_run(&remove_keys, values, NULL);
}

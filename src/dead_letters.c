/*
 * dead_letters.c - events that a projection could not apply and has left aside.
 *
 * Order is kept where it matters: once an event is parked, later events that
 * share a key with it are parked behind it, and so are those that share a key
 * with these.  So of each key what was applied is what came before the first
 * event that is parked, and applying the parked ones in their order, and then
 * what comes after, is the order of the log.
 *
 * A row in evsource.dead_letters is an event, for people; the rows in
 * evsource.parked_keys are its keys, to be found.
 *
 * Locks: whoever parks holds the projection's unit; a key is in one partition.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "attempt.h"
#include "dead_letters.h"
#include "failure.h"
#include "fold_key.h"
#include "identity.h"
#include "query.h"
#include "text_array.h"

/* What stands in the row of an event that has not failed itself. */
#define WAITS		"waits behind an event of the same key"

static EvsQuery park_event = {
	"insert into evsource.dead_letters"
	" (projection, position, stream, version, type, keys, attempts, failed_at,"
	"  sqlstate, message, detail, hint, context)"
	" values ($1, $2, $3, $4, $5, $6, $7, case when $7 > 0 then clock_timestamp() end,"
	"  $8, $9, $10, $11, $12)",
	12, {TEXTOID, INT8OID, TEXTOID, INT8OID, TEXTOID, TEXTARRAYOID, INT4OID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_INSERT
};

static EvsQuery park_keys = {
	"insert into evsource.parked_keys (projection, key, position)"
	" select $1, k, $3 from unnest($2) k",
	3, {TEXTOID, TEXTARRAYOID, INT8OID}, SPI_OK_INSERT
};

/* The first event of a key is one step in the index; a join would look at all of them. */
static EvsQuery find_keys = {
	"select k from unnest($2) k where"
	" (select min(p.position) from evsource.parked_keys p"
	"  where p.projection = $1 and p.key = k collate \"C\") < $3",
	3, {TEXTOID, TEXTARRAYOID, INT8OID}, SPI_OK_SELECT, .by_index = true
};

static EvsQuery count_letters = {
	"select count(*) from evsource.dead_letters where projection = $1 and attempts > 0",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery count_crashed = {
	"select count(*) from evsource.dead_letters"
	" where projection = $1 and attempts > 0 and sqlstate = '57P02'",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery letters_exist = {
	"select exists (select from evsource.dead_letters where projection = $1)",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* A key is in one partition, and so is what waits for it. */
static EvsQuery find_released = {
	"select exists (select from evsource.dead_letters where projection = $1 and retry"
	"  and ($2 = 1 or evsource._partition(stream, $2) = $3))",
	3, {TEXTOID, INT4OID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery first_version = {
	"select l.version from evsource.parked_keys p"
	" join evsource.dead_letters l on l.projection = p.projection and l.position = p.position"
	" where p.projection = $1 and p.key = $2 order by p.position limit 1",
	2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
};

static EvsQuery clear_letters = {
	"delete from evsource.dead_letters where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery clear_keys = {
	"delete from evsource.parked_keys where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery rename_letters = {
	"update evsource.dead_letters set projection = $2 where projection = $1",
	2, {TEXTOID, TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery rename_keys = {
	"update evsource.parked_keys set projection = $2 where projection = $1",
	2, {TEXTOID, TEXTOID}, SPI_OK_UPDATE
};

/* ---- sets of keys ---- */

/* A key that was looked for and has nothing parked: no position is after it. */
#define NOT_PARKED	PG_INT64_MAX

typedef struct ParkedKey
{
	text	   *key;			/* the table's key */
	int64		position;		/* the lowest that it was added with */
	uint32		hash;
	char		status;
} ParkedKey;

#define SH_PREFIX parked
#define SH_ELEMENT_TYPE ParkedKey
#define SH_KEY_TYPE text *
#define SH_KEY key
#define SH_HASH_KEY(tb, k) \
	hash_bytes((const unsigned char *) VARDATA_ANY(k), VARSIZE_ANY_EXHDR(k))
#define SH_EQUAL(tb, a, b) evs_same_text(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

EvsKeySet *
evs_key_set_create(void)
{
	return parked_create(CurrentMemoryContext, 64, NULL);
}

/* False: it is there already. */
static bool
add_key(EvsKeySet *set, text *key, int64 position)
{
	bool		found;
	ParkedKey  *entry = parked_insert(set, key, &found);

	if (!found)
	{
		entry->key = MemoryContextAlloc(set->ctx, VARSIZE_ANY(key));
		memcpy(entry->key, key, VARSIZE_ANY(key));
		entry->position = position;
	}
	entry->position = Min(entry->position, position);
	return !found;
}

void
evs_key_set_add(EvsKeySet *set, const EvsKeys *keys, int64 position)
{
	for (int i = 0; i < keys->count; i++)
		(void) add_key(set, keys->keys[i], position);
}

bool
evs_key_set_has_before(EvsKeySet *set, const EvsKeys *keys, int64 position)
{
	for (int i = 0; i < keys->count; i++)
	{
		ParkedKey  *entry = parked_lookup(set, keys->keys[i]);

		if (entry != NULL && entry->position < position)
			return true;
	}
	return false;
}

/* ---- the keys of events ---- */

/* Ask the projection's key function, as its owner. */
typedef struct KeyWork
{
	EvsProjection *projection;
	EvsEvent   *events;
	int			count;
	EvsKeys    *keys;			/* made here, in CurrentMemoryContext */
} KeyWork;

static void
find_keys_of(void *arg)
{
	KeyWork    *work = arg;
	EvsIdentity identity;
	EvsKeyer   *keyer;

	evs_identity_enter(&identity, work->projection->owner, work->projection->search_path);
	evs_identity_pin_settings();
	PushActiveSnapshot(GetTransactionSnapshot());
	keyer = evs_keyer_open(work->projection);
	for (int i = 0; i < work->count; i++)
	{
		text	  **keys;
		int			count;

		CHECK_FOR_INTERRUPTS();
		count = evs_keyer_keys(keyer, &work->events[i], &keys);
		work->keys[i].count = count;
		work->keys[i].keys = palloc(sizeof(text *) * Max(count, 1));
		for (int k = 0; k < count; k++)
		{
			work->keys[i].keys[k] = palloc(VARSIZE_ANY(keys[k]));
			memcpy(work->keys[i].keys[k], keys[k], VARSIZE_ANY(keys[k]));
		}
	}
	evs_keyer_close(keyer);
	PopActiveSnapshot();
	evs_identity_leave(&identity);
}

/* NULL, or the error, if one that does not pass. */
static ErrorData *
attempt_keys_of(KeyWork *work)
{
	ErrorData  *error = evs_attempt(find_keys_of, work);

	if (error != NULL && evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

int
evs_keys_of(EvsProjection *projection, EvsEvent *events, int count, EvsKeys *keys,
			ErrorData **error)
{
	KeyWork		work = {projection, events, count, keys};

	/* nothing of the user's own has to be asked */
	if (projection->key_kind != EVS_KEY_FUNCTION)
	{
		find_keys_of(&work);
		return count;
	}

	*error = attempt_keys_of(&work);
	if (*error == NULL)
		return count;

	/* which one was it? */
	work.count = 1;
	for (int i = 0; i < count; i++)
	{
		work.events = &events[i];
		work.keys = &keys[i];
		*error = attempt_keys_of(&work);
		if (*error != NULL)
			return i;
	}
	return count;
}

/* ---- the tables ---- */

void
evs_dead_letters_find(EvsKeySet *set, const char *projection, int64 before,
					  const EvsKeys *keys, int count)
{
	text	  **texts;
	int			ntexts = 0;
	Datum		values[3];
	EvsQueryResult result;

	for (int i = 0; i < count; i++)
		ntexts += keys[i].count;
	texts = palloc(sizeof(text *) * Max(ntexts, 1));

	/* each key once; those that are found get a position below */
	ntexts = 0;
	for (int i = 0; i < count; i++)
	{
		for (int k = 0; k < keys[i].count; k++)
		{
			if (add_key(set, keys[i].keys[k], NOT_PARKED))
				texts[ntexts++] = keys[i].keys[k];
		}
	}
	if (ntexts == 0)
		return;

	values[0] = CStringGetTextDatum(projection);
	values[1] = evs_text_array(texts, ntexts);
	values[2] = Int64GetDatum(before);
	evs_query_begin(&find_keys, values, NULL, InvalidSnapshot, &result);
	for (uint64 row = 0; row < result.count; row++)
	{
		bool		is_null;
		Datum		value = SPI_getbinval(result.rows[row], result.tupdesc, 1, &is_null);

		(void) add_key(set, DatumGetTextPP(value), 0);
	}
	evs_query_end(&result);
}

void
evs_dead_letter_park(const char *projection, const EvsEvent *event, const EvsKeys *keys,
					 int attempts, const ErrorData *error)
{
	EvsErrorText text = {{0}, {'n', ' ', 'n', 'n', 'n'}};
	Datum		values[12];
	char		nulls[12];
	Datum		key_values[3];

	if (error != NULL)
		evs_error_text(error, &text);
	else
		text.values[1] = CStringGetTextDatum(WAITS);

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(projection);
	values[1] = Int64GetDatum(event->position);
	values[2] = PointerGetDatum(event->stream);
	values[3] = Int64GetDatum(event->version);
	values[4] = PointerGetDatum(event->type);
	values[5] = evs_text_array(keys->keys, keys->count);
	values[6] = Int32GetDatum(attempts);
	memcpy(&values[7], text.values, sizeof(text.values));
	memcpy(&nulls[7], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&park_event, values, nulls);

	key_values[0] = values[0];
	key_values[1] = values[5];
	key_values[2] = values[1];
	(void) evs_query_run(&park_keys, key_values, NULL);
}

/* Now: under REPEATABLE READ the transaction may not see what was parked since it began. */
bool
evs_dead_letters_exist(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return DatumGetBool(evs_query_value_latest(&letters_exist, values, NULL, BoolGetDatum(false)));
}

/* Now as well: an event of the transaction's snapshot may have been parked since. */
int64
evs_dead_letters_first_version(const char *projection, text *stream)
{
	Datum		values[] = {CStringGetTextDatum(projection), PointerGetDatum(stream)};

	return DatumGetInt64(evs_query_value_latest(&first_version, values, NULL,
												Int64GetDatum(PG_INT64_MAX)));
}

bool
evs_dead_letters_released(const EvsUnit *unit)
{
	Datum		values[] = {
		CStringGetTextDatum(unit->projection), Int32GetDatum(unit->partitions),
		Int32GetDatum(unit->partition)
	};

	return DatumGetBool(evs_query_value(&find_released, values, NULL, InvalidSnapshot,
										BoolGetDatum(false)));
}

int64
evs_dead_letters_count(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return DatumGetInt64(evs_query_value(&count_letters, values, NULL, InvalidSnapshot,
										 Int64GetDatum(0)));
}

int64
evs_dead_letters_crashed(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return DatumGetInt64(evs_query_value(&count_crashed, values, NULL, InvalidSnapshot,
										 Int64GetDatum(0)));
}

void
evs_dead_letters_clear(const char *projection)
{
	(void) evs_query_run_by_name(&clear_letters, projection);
	(void) evs_query_run_by_name(&clear_keys, projection);
}

void
evs_dead_letters_rename(const char *from, const char *to)
{
	Datum		values[] = {CStringGetTextDatum(from), CStringGetTextDatum(to)};

	(void) evs_query_run(&rename_letters, values, NULL);
	(void) evs_query_run(&rename_keys, values, NULL);
}

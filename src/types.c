/*
 * types.c - the types of events that have been defined, as this session knows
 * them.
 *
 * Appends and readers ask for every event; nearly always there is nothing to
 * know, and the answer costs a look at two variables.  The list is read with a
 * latest snapshot and kept until evsource.event_types changes.  Who defines a
 * type holds the barrier, so an appender, who locks the log first, knows every
 * definition that was committed before; a statement trigger tells the others.
 *
 * A caller that gets a type gets a copy: the functions that it runs then may well
 * make us read the list anew.
 */
#include "types.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonpath.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "relations.h"
#include "text_array.h"

/* Events of the type in the category are read otherwise than they once were. */
typedef struct Change
{
	text	   *type;
	text	   *category;		/* NULL: in any ... */
	text	  **but_not;		/* ... but these */
	int			nbut_not;
	uint32		hash;			/* tells it from others */
	TransactionId maker;		/* the transaction that made it */
} Change;

/* What they come to for a filter. */
typedef struct Fingerprint
{
	uint64		filter;			/* its hash */
	uint32		fingerprint;
} Fingerprint;

/* What is known. */
static struct
{
	MemoryContext context;		/* holds the list; NULL: never read */
	EvsEventType **types;		/* by length and bytes of their names */
	int			count;
	List	   *changes;		/* of Change */
	HTAB	   *fingerprints;	/* of filters that were asked for */
	bool		own_writes;		/* read by a transaction that had written */
	bool		valid;			/* nothing has changed since */
} known;

static Oid	event_types_relid = InvalidOid; /* the tables it was read from */
static Oid	changes_relid = InvalidOid;
static uint64 invalidations = 0;	/* counts them */

/* ---- reading the table ---- */

static Datum
column(HeapTuple tuple, TupleDesc tupdesc, const char *name, bool *isnull)
{
	int			number = SPI_fnumber(tupdesc, name);

	if (number <= 0)
		evs_catalog_no_column("event_types", name);
	return heap_getattr(tuple, number, tupdesc, isnull);
}

static char *
text_column(HeapTuple tuple, TupleDesc tupdesc, const char *name)
{
	bool		isnull;
	Datum		value = column(tuple, tupdesc, name, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static EvsTypeVersion *
read_version(HeapTuple tuple, TupleDesc tupdesc)
{
	EvsTypeVersion *version = palloc0(sizeof(EvsTypeVersion));
	bool		isnull;
	Datum		value;

	version->version = DatumGetInt32(column(tuple, tupdesc, "version", &isnull));
	value = column(tuple, tupdesc, "schema_path", &isnull);
	version->schema_path = isnull ? NULL : DatumGetJsonPathPCopy(value);
	version->path_has_times = !isnull && evs_type_path_has_times(version->schema_path);
	version->validator = text_column(tuple, tupdesc, "validator");
	version->upcaster = text_column(tuple, tupdesc, "upcaster");
	version->owner = text_column(tuple, tupdesc, "owner");
	version->search_path = text_column(tuple, tupdesc, "search_path");
	version->changes_stored = DatumGetBool(column(tuple, tupdesc, "changes_stored", &isnull));
	return version;
}

/* By length first: most comparisons need no more. */
static int
compare_names(const text *a, const text *b)
{
	int			length = VARSIZE_ANY_EXHDR(a);
	int			other = VARSIZE_ANY_EXHDR(b);

	if (length != other)
		return length < other ? -1 : 1;
	return memcmp(VARDATA_ANY(a), VARDATA_ANY(b), length);
}

static int
compare_types(const void *a, const void *b)
{
	return compare_names((*(EvsEventType *const *) a)->type, (*(EvsEventType *const *) b)->type);
}

static EvsEventType *
get_type(List **types, text *name)
{
	EvsEventType *type;
	ListCell   *cell;

	foreach(cell, *types)
	{
		type = lfirst(cell);
		if (evs_same_text(type->type, name))
			return type;
	}
	type = palloc0(sizeof(EvsEventType));
	type->type = name;
	type->newest = 1;
	type->versions = palloc0(2 * sizeof(EvsTypeVersion *));
	*types = lappend(*types, type);
	return type;
}

static void
add_version(EvsEventType *type, EvsTypeVersion *version)
{
	if (version->version < 1 || version->version > EVS_MAX_SCHEMA_VERSION)
		elog(ERROR, "evsource.event_types has a version %d", version->version);
	if (version->version > type->newest)
	{
		type->versions = repalloc(type->versions,
								  (version->version + 1) * sizeof(EvsTypeVersion *));
		for (int i = type->newest + 1; i <= version->version; i++)
			type->versions[i] = NULL;
		type->newest = version->version;
	}
	type->versions[version->version] = version;
}

/* All types, in CurrentMemoryContext. */
static List *
read_types(Relation relation)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
	TupleDesc	tupdesc = RelationGetDescr(relation);
	List	   *types = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		name = column(tuple, tupdesc, "type", &isnull);

		add_version(get_type(&types, DatumGetTextPCopy(name)), read_version(tuple, tupdesc));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return types;
}

static uint32
hash_bytes_into(uint32 hash, const text *value)
{
	return hash_combine(hash, hash_bytes((const unsigned char *) VARDATA_ANY(value),
										 VARSIZE_ANY_EXHDR(value)));
}

/* All changes, in CurrentMemoryContext. */
static List *
read_changes(void)
{
	Relation	relation = evs_catalog_open(evs_catalog()->event_type_changes, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
	List	   *changes = NIL;
	HeapTuple	tuple;

	changes_relid = RelationGetRelid(relation);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Change	   *change = palloc(sizeof(Change));
		Datum		values[4];
		bool		nulls[4];

		heap_deform_tuple(tuple, RelationGetDescr(relation), values, nulls);
		change->type = DatumGetTextPCopy(values[0]);
		change->hash = hash_bytes_into(0, change->type);
		change->category = nulls[1] ? NULL : DatumGetTextPCopy(values[1]);
		if (change->category != NULL)
			change->hash = hash_bytes_into(change->hash, change->category);
		change->but_not = NULL;
		change->nbut_not = 0;
		if (!nulls[3])
			evs_text_array_read(values[3], &change->but_not, &change->nbut_not);
		change->hash = hash_combine(change->hash, (uint32) DatumGetInt64(values[2]));
		change->maker = HeapTupleHeaderGetXmin(tuple->t_data);
		changes = lappend(changes, change);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return changes;
}

static HTAB *
create_fingerprints(MemoryContext context)
{
	HASHCTL		control = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(Fingerprint),
		.hcxt = context
	};

	return hash_create("evsource fingerprints", 16, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
read_known(void)
{
	Relation	relation = evs_catalog_open(evs_catalog()->event_types, AccessShareLock);
	uint64		before = invalidations;
	MemoryContext context;
	MemoryContext caller;
	List	   *types;
	ListCell   *cell;

	event_types_relid = RelationGetRelid(relation);

	/* until it is complete an error takes it away with the caller's memory */
	context = AllocSetContextCreate(CurrentMemoryContext, "evsource event types",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	types = read_types(relation);
	if (known.context != NULL)
		MemoryContextDelete(known.context);
	known.context = NULL;

	known.count = 0;
	known.types = palloc(Max(list_length(types), 1) * sizeof(EvsEventType *));
	foreach(cell, types)
		known.types[known.count++] = lfirst(cell);
	qsort(known.types, known.count, sizeof(EvsEventType *), compare_types);
	known.changes = read_changes();
	known.fingerprints = create_fingerprints(context);
	MemoryContextSwitchTo(caller);
	table_close(relation, AccessShareLock);

	MemoryContextSetParent(context, TopMemoryContext);
	known.context = context;
	known.own_writes = TransactionIdIsValid(GetTopTransactionIdIfAny());
	known.valid = invalidations == before;
}

/* ---- asking ---- */

bool
evs_types_any(void)
{
	if (!known.valid)
		read_known();
	return known.count > 0;
}

bool
evs_types_any_now(void)
{
	/* a lock that the transaction has already would not make it listen */
	AcceptInvalidationMessages();
	return evs_types_any();
}

static EvsTypeVersion *
copy_version(const EvsTypeVersion *from)
{
	EvsTypeVersion *to = palloc(sizeof(EvsTypeVersion));

	*to = *from;
	if (from->schema_path != NULL)
	{
		to->schema_path = palloc(VARSIZE(from->schema_path));
		memcpy(to->schema_path, from->schema_path, VARSIZE(from->schema_path));
	}
	to->validator = from->validator ? pstrdup(from->validator) : NULL;
	to->upcaster = from->upcaster ? pstrdup(from->upcaster) : NULL;
	to->owner = pstrdup(from->owner);
	to->search_path = pstrdup(from->search_path);
	return to;
}

static EvsEventType *
copy_type(const EvsEventType *from)
{
	EvsEventType *to = palloc(sizeof(EvsEventType));

	*to = *from;
	to->type = palloc(VARSIZE_ANY(from->type));
	memcpy(to->type, from->type, VARSIZE_ANY(from->type));
	to->versions = palloc0((from->newest + 1) * sizeof(EvsTypeVersion *));
	for (int i = 1; i <= from->newest; i++)
		if (from->versions[i] != NULL)
			to->versions[i] = copy_version(from->versions[i]);
	return to;
}

EvsEventType *
evs_types_find(const text *type)
{
	int			low = 0;
	int			high;

	if (!evs_types_any())
		return NULL;
	high = known.count - 1;
	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int			order = compare_names(type, known.types[middle]->type);

		if (order == 0)
			return copy_type(known.types[middle]);
		if (order < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return NULL;
}

static bool
has_text(text *const *values, int count, const text *value)
{
	for (int i = 0; i < count; i++)
		if (evs_same_text(values[i], value))
			return true;
	return false;
}

/* Does the filter accept events that are read otherwise since the change? */
static bool
concerns(const Change *change, const EvsFilter *filter)
{
	if (filter->ntypes > 0 && !has_text(filter->types, filter->ntypes, change->type))
		return false;
	if (filter->ncategories == 0)
		return true;
	if (change->category != NULL)
		return has_text(filter->categories, filter->ncategories, change->category);
	for (int i = 0; i < filter->ncategories; i++)
		if (!has_text(change->but_not, change->nbut_not, filter->categories[i]))
			return true;
	return false;
}

static uint32
compute_fingerprint(const EvsFilter *filter, bool with_own)
{
	uint32		sum = 0;
	ListCell   *cell;

	/* in whatever order they are in the table */
	foreach(cell, known.changes)
	{
		const Change *change = lfirst(cell);

		if (concerns(change, filter) &&
			(with_own || !TransactionIdIsCurrentTransactionId(change->maker)))
			sum += change->hash;
	}
	return sum;
}

static uint64
hash_filter_texts(uint64 hash, text *const *values, int count)
{
	hash = hash_combine64(hash, count);
	for (int i = 0; i < count; i++)
		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(values[i]),
								   VARSIZE_ANY_EXHDR(values[i]), hash);
	return hash;
}

/* Each state that is loaded or saved asks for it: once computed it is kept. */
uint32
evs_types_fingerprint(const EvsFilter *filter)
{
	uint64		hash;
	Fingerprint *entry;
	bool		found;

	(void) evs_types_any();
	if (known.changes == NIL)
		return 0;
	hash = hash_filter_texts(0, filter->categories, filter->ncategories);
	hash = hash_filter_texts(hash, filter->types, filter->ntypes);
	entry = hash_search(known.fingerprints, &hash, HASH_ENTER, &found);
	if (!found)
		entry->fingerprint = compute_fingerprint(filter, true);
	return entry->fingerprint;
}

uint32
evs_types_fingerprint_before(const EvsFilter *filter)
{
	(void) evs_types_any();
	return compute_fingerprint(filter, false);
}

/* ---- hearing of changes ---- */

static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == event_types_relid || relid == changes_relid)
	{
		known.valid = false;
		invalidations++;
	}
}

/*
 * Rows that the transaction itself has written are gone when it rolls back, and
 * the invalidation that says so may not have been sent yet.
 */
static void
forget_own_writes(void)
{
	if (known.own_writes)
		known.valid = false;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		known.own_writes = false;
	else if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		forget_own_writes();
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_own_writes();
}

void
evs_types_init(void)
{
	evs_relations_watch(relation_changed);
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}

/*
 * capture_order.c - in which order the changes are told that a statement made.
 *
 * Statements that triggers and functions of another statement run belong to it:
 * what they change is told with it (capture_pending.c).  PostgreSQL fires the triggers of
 * such a statement before the outer one's, or the rest of them, though the row may
 * have been changed by the outer one first.  Every row version knows the command that
 * made it, and commands are numbered as they begin.  So this is the order of a row
 * that both change: the outer command finds no row that the inner one has left
 * there.  Only one that comes may have come later, to a key that others left
 * meanwhile: see evs_capture_place().
 *
 * Within one command, what leaves a stream comes before what comes to it: when
 * keys are moved on by one, each stream first loses its old row.  A command sees
 * no row of its own, so this is an order in which it could have happened.
 *
 * Rows of one key share a stream, and sessions that change different ones of them
 * meet there.  So that they do not deadlock, the events of a statement are appended in
 * the order of their streams then, if they are more than are locked at once.  What leaves
 * and what comes are each in that order: if the streams are not too many to be locked at
 * once, that is done before.  Not so beyond work_mem: the parts of a big statement are
 * each in that order, and a load of millions of rows does not take the memory that it
 * would need otherwise.
 */
#include "capture_order.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "event.h"

int
evs_capture_compare(const EvsChange *a, const EvsChange *b)
{
	if (a->place != b->place)
		return a->place < b->place ? -1 : 1;
	if (a->step.phase != b->step.phase)
		return a->step.phase < b->step.phase ? -1 : 1;
	return 0;
}

static int
compare_changes(const void *left, const void *right)
{
	const EvsChange *a = left;
	const EvsChange *b = right;
	int			order = evs_capture_compare(a, b);

	return order != 0 ? order : (a->sequence < b->sequence ? -1 : 1);
}

/* The role that appends comes before the stream: each has a batch of its own. */
static int
compare_streams(const void *left, const void *right)
{
	const EvsChange *a = left;
	const EvsChange *b = right;
	int			order = evs_capture_compare(a, b);

	if (order == 0 && a->role != b->role)
		order = a->role < b->role ? -1 : 1;
	if (order == 0)
		order = evs_compare_text(a->event.stream, b->event.stream);
	return order != 0 ? order : (a->sequence < b->sequence ? -1 : 1);
}

static int
compare_in_stream(const void *left, const void *right)
{
	int			order = evs_compare_text(((const EvsChange *) left)->event.stream,
										 ((const EvsChange *) right)->event.stream);

	return order != 0 ? order : compare_changes(left, right);
}

/*
 * A version of a row that this transaction has made, as one trigger captures it: others
 * may capture the row to other streams.  None gives its place to another while the
 * transaction runs, unless a command truncates the table and another one fills it again.
 */
typedef struct Version
{
	Oid			table;
	CommandId	made_by;
	uint32		stream;			/* its hash */
	ItemPointerData tid;
} Version;

typedef struct VersionEntry
{
	Version		version;
	int			change;			/* the first that found it, or left it */
} VersionEntry;

static Version
version_of(const EvsChange *change, const EvsRowVersion *row)
{
	const text *stream = change->event.stream;
	Version		version = {change->table, row->made_by};

	version.stream = hash_bytes((const unsigned char *) VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
	version.tid = row->tid;
	return version;
}

static HTAB *
index_versions(const EvsChange *changes, int count, bool found)
{
	HASHCTL		control = {0};
	HTAB	   *versions;

	/* the bytes of its fields, without those that fill it up */
	control.keysize = offsetof(Version, tid) + sizeof(ItemPointerData);
	control.entrysize = sizeof(VersionEntry);
	control.hcxt = CurrentMemoryContext;
	versions = hash_create("evsource versions of captured rows", count, &control,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < count; i++)
	{
		const EvsRowVersion *row = found ? &changes[i].step.found : &changes[i].step.left;
		Version		version;
		VersionEntry *entry;
		bool		is_known;

		CHECK_FOR_INTERRUPTS();
		if (row->made_by == InvalidCommandId)
			continue;
		version = version_of(&changes[i], row);
		entry = hash_search(versions, &version, HASH_ENTER, &is_known);
		if (!is_known)
			entry->change = i;
	}
	return versions;
}

/* The change that is known for the version of a row of another one; NULL: none. */
static const VersionEntry *
find_version(HTAB *versions, const EvsChange *change, const EvsRowVersion *row)
{
	Version		version = version_of(change, row);

	return row->made_by == InvalidCommandId ? NULL : hash_search(versions, &version, HASH_FIND, NULL);
}

/*
 * A row that comes to a stream is told after what a later command did there before
 * it came.  That was done to rows that were there before, and it is what was collected
 * earlier, up to the first change of the new row itself, which it never comes behind.
 */
static void
place(EvsChange *coming, const EvsChange *changed, bool was_changed)
{
	const EvsChange *earlier = changed - 1;

	/* they are in the order of their commands */
	while (earlier > coming && earlier->sequence > coming->sequence)
		earlier--;
	if (earlier > coming)
		coming->place = Max(coming->place, earlier->step.command);
	/* which may have changed a row of another partition first */
	if (was_changed)
		coming->place = Min(coming->place, changed->step.command - 1);
}

void
evs_capture_place(EvsChange *changes, int count)
{
	HTAB	   *found;
	int			end = 0;

	qsort(changes, count, sizeof(EvsChange), compare_in_stream);
	found = index_versions(changes, count, true);
	for (int i = 0; i < count; i++)
	{
		EvsChange  *coming = &changes[i];
		const VersionEntry *changed;

		CHECK_FOR_INTERRUPTS();
		while (end <= i || (end < count && evs_same_text(changes[end].event.stream, coming->event.stream)))
			end++;
		if (coming->step.phase != EVS_CAPTURE_COMES || coming->repeats_key)
			continue;
		changed = find_version(found, coming, &coming->step.left);
		place(coming, &changes[changed != NULL ? changed->change : end], changed != NULL);
	}
	hash_destroy(found);
}

EvsChange *
evs_capture_ahead(const EvsChange *changes, int count, int *ahead)
{
	EvsChange  *links;
	HTAB	   *left;
	int			candidates = 0;

	*ahead = 0;
	for (int i = 0; i < count; i++)
		candidates += !changes[i].is_event;
	if (candidates == 0)
		return NULL;

	links = MemoryContextAllocHuge(CurrentMemoryContext, candidates * sizeof(EvsChange));
	left = index_versions(changes, count, false);
	for (int i = 0; i < count; i++)
	{
		if (!changes[i].is_event && find_version(left, &changes[i], &changes[i].step.found) == NULL)
			links[(*ahead)++] = changes[i];
	}
	hash_destroy(left);
	return links;
}

void
evs_capture_sort(EvsChange *changes, int count, bool by_streams)
{
	qsort(changes, count, sizeof(EvsChange), by_streams ? compare_streams : compare_changes);
}

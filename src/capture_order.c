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

#include "miscadmin.h"
#include "utils/memutils.h"

#include "event.h"

int
evs_capture_compare(const EvsChange *a, const EvsChange *b)
{
	if (a->place != b->place)
		return a->place < b->place ? -1 : 1;
	if (a->phase != b->phase)
		return a->phase < b->phase ? -1 : 1;
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

/* Who appends comes first: each has a batch of his own. */
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

/* Does a row come to the same stream by the same command? */
static bool
comes_like(const EvsChange *a, const EvsChange *b)
{
	return a->phase == EVS_CAPTURE_COMES && b->phase == EVS_CAPTURE_COMES &&
		a->command == b->command && evs_same_text(a->event.stream, b->event.stream);
}

/*
 * A row that comes to a stream is told after what a later command did there before
 * it came.  That was done to rows that were there before, and it is what was collected
 * earlier, up to the first change of the new row itself, which it never comes behind.
 * If a command brings several rows, each has made room for the next: one of the changes
 * is its own.  Partitions may share a stream: the changes of a row are those of its table.
 */
static void
place(EvsChange *coming, const EvsChange *changed, bool was_changed)
{
	const EvsChange *earlier = changed - 1;

	/* they are in the order of their commands */
	while (earlier > coming && earlier->sequence > coming->sequence)
		earlier--;
	if (earlier > coming)
		coming->place = Max(coming->place, earlier->command);
	/* which may have changed a row of another partition first */
	if (was_changed)
		coming->place = Min(coming->place, changed->command - 1);
}

void
evs_capture_place(EvsChange *changes, int count)
{
	/* of each that comes: where its row is changed first, or else the end of its stream */
	int		   *changed = MemoryContextAllocHuge(CurrentMemoryContext, count * sizeof(int));
	int			end = 0;

	qsort(changes, count, sizeof(EvsChange), compare_in_stream);
	for (int i = 0; i < count; i++)
	{
		EvsChange  *coming = &changes[i];
		int			before = i - 1;
		int			next = i + 1;

		CHECK_FOR_INTERRUPTS();
		while (end <= i || (end < count && evs_same_text(changes[end].event.stream, coming->event.stream)))
			end++;
		if (coming->phase != EVS_CAPTURE_COMES || coming->repeats_key)
			continue;
		while (before >= 0 && comes_like(&changes[before], coming) &&
			   changes[before].table != coming->table)
			before--;
		if (before >= 0 && comes_like(&changes[before], coming))
			next = changed[before] + 1;
		while (next < end && !(changes[next].table == coming->table &&
							   changes[next].made_by == coming->command))
			next++;
		changed[i] = Min(next, end);
		place(coming, &changes[changed[i]], next < end);
	}
	pfree(changed);
}

void
evs_capture_sort(EvsChange *changes, int count, bool by_streams)
{
	qsort(changes, count, sizeof(EvsChange), by_streams ? compare_streams : compare_changes);
}

/*
 * fold_groups.c - take a batch apart by key.
 *
 * A batch may hold a million events of as many keys, and what costs is not the
 * work but waiting for memory: following a list from event to event took as
 * long as all the rest.  So the events of a key end up side by side: the
 * first pass numbers the keys, notes which number each event has and counts; the
 * second lays the events out, one key after the other.
 */
#include "fold_groups.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "alarm.h"
#include "fold_key.h"

/* From a key to its number. */
typedef struct KeyNumber
{
	text	   *key;			/* the table's key */
	uint32		hash;
	char		status;
	int			number;
} KeyNumber;

#define SH_PREFIX numbers
#define SH_ELEMENT_TYPE KeyNumber
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

/* An event of a key.  An event may have several keys, or none. */
typedef struct Member
{
	int			event;			/* index in the batch */
	int			group;			/* number of the key */
} Member;

typedef struct Grouping
{
	numbers_hash *numbers;
	EvsKeyGroup *groups;		/* by number; events are laid out at the end */
	int			ngroups;
	int			groups_allocated;
	Member	   *members;
	int			nmembers;
	int			members_allocated;
} Grouping;

static void *
enlarge(void *array, Size size, int *allocated)
{
	*allocated *= 2;
	return repalloc_huge(array, size * *allocated);
}

/* The number of a key, a new one for a new key. */
static int
number_of(Grouping *grouping, text *key, bool copy_key)
{
	bool		found;
	KeyNumber  *entry = numbers_insert(grouping->numbers, key, &found);

	if (!found)
	{
		if (copy_key)
		{
			entry->key = palloc(VARSIZE_ANY(key));
			memcpy(entry->key, key, VARSIZE_ANY(key));
		}
		if (grouping->ngroups == grouping->groups_allocated)
			grouping->groups = enlarge(grouping->groups, sizeof(EvsKeyGroup),
									   &grouping->groups_allocated);
		entry->number = grouping->ngroups++;
		grouping->groups[entry->number].key = entry->key;
		grouping->groups[entry->number].count = 0;
	}
	return entry->number;
}

static void
add_member(Grouping *grouping, int event, int group)
{
	Member	   *member;

	if (grouping->nmembers == grouping->members_allocated)
		grouping->members = enlarge(grouping->members, sizeof(Member),
									&grouping->members_allocated);
	member = &grouping->members[grouping->nmembers++];
	member->event = event;
	member->group = group;
	grouping->groups[group].count++;
}

/* Number the keys, and note each event's.  False: there was not the time for it. */
static bool
number_keys(Grouping *grouping, EvsProjection *projection, EvsEvent *const *events, int count,
			bool bounded)
{
	EvsKeyer   *keyer;
	int			i;

	if (projection->key_kind == EVS_KEY_STREAM)
	{
		for (int i = 0; i < count; i++)
			add_member(grouping, i, number_of(grouping, events[i]->stream, false));
		return true;
	}

	keyer = evs_keyer_open(projection);
	for (i = 0; i < count; i++)
	{
		text	  **keys;
		int			nkeys;

		CHECK_FOR_INTERRUPTS();
		if (bounded && i > 0 && evs_alarm_rang())
			break;
		nkeys = evs_keyer_keys(keyer, events[i], &keys);
		for (int k = 0; k < nkeys; k++)
			add_member(grouping, i, number_of(grouping, keys[k], true));
	}
	evs_keyer_close(keyer);
	return i == count;
}

/* Lay the events out. */
static void
place_events(Grouping *grouping, EvsEvent *const *events)
{
	EvsEvent  **place = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(EvsEvent *) * Max(grouping->nmembers, 1));

	for (int i = 0; i < grouping->ngroups; i++)
	{
		EvsKeyGroup *group = &grouping->groups[i];

		group->events = place;
		place += group->count;
		group->count = 0;
	}
	for (int i = 0; i < grouping->nmembers; i++)
	{
		EvsKeyGroup *group = &grouping->groups[grouping->members[i].group];

		group->events[group->count++] = events[grouping->members[i].event];
	}
}

EvsKeyGroup *
evs_group_by_key(EvsProjection *projection, EvsEvent *const *events, int count, bool bounded,
				 int *ngroups)
{
	Grouping	grouping = {0};

	/* what most appends are */
	if (count == 1 && projection->key_kind == EVS_KEY_STREAM)
	{
		EvsKeyGroup *group = palloc(sizeof(EvsKeyGroup));

		group->key = events[0]->stream;
		group->events = (EvsEvent **) events;
		group->count = 1;
		*ngroups = 1;
		return group;
	}

	grouping.numbers = numbers_create(CurrentMemoryContext, Min(count, 1024), NULL);
	grouping.groups_allocated = Min(count, 64);
	grouping.groups = palloc(sizeof(EvsKeyGroup) * grouping.groups_allocated);
	grouping.members_allocated = count;
	grouping.members = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Member) * count);

	if (!number_keys(&grouping, projection, events, count, bounded))
		return NULL;
	place_events(&grouping, events);
	numbers_destroy(grouping.numbers);
	pfree(grouping.members);
	*ngroups = grouping.ngroups;
	return grouping.groups;
}

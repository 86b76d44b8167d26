/*
 * kept_waiting.c - who cannot go on before somebody else does, by the lock table.
 *
 * A process that waits for a lock waits for those that have it in a mode that conflicts,
 * and for those that are before it in the queue.  What we read does not tell the order in
 * the queue: so any other that has asked for a mode that conflicts counts as before it.
 *
 * Only locks that somebody waits for are looked at, as often as the longest chain has
 * links: a row's has two.
 */
#include "evsource.h"

#include "kept_waiting.h"

/* A lock that somebody waits for. */
typedef struct Awaited
{
	LOCKTAG		tag;
	LOCKMASK	modes;			/* that those who are found have, or have asked for */
} Awaited;

/* One who waits, or whom we are asked about. */
typedef struct Party
{
	int			pid;
	bool		found;
	LOCKMODE	mode;			/* in which it waits, for ... */
	Awaited    *awaited;
} Party;

/* What a party has of a lock that is waited for, or has asked for. */
typedef struct Claim
{
	Party	   *party;
	Awaited    *awaited;
	LOCKMASK	modes;
} Claim;

static int
compare_tags(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(LOCKTAG));
}

static int
compare_pids(const void *a, const void *b)
{
	int			first = *(const int *) a;
	int			second = *(const int *) b;

	return (first > second) - (first < second);
}

/* All locks that are waited for, each once. */
static Awaited *
list_awaited(const LockData *locks, int *count)
{
	Awaited    *awaited = palloc0(sizeof(Awaited) * Max(locks->nelements, 1));
	int			distinct = 0;

	*count = 0;
	for (int i = 0; i < locks->nelements; i++)
		if (locks->locks[i].waitLockMode != NoLock)
			awaited[(*count)++].tag = locks->locks[i].locktag;
	qsort(awaited, *count, sizeof(Awaited), compare_tags);
	for (int i = 0; i < *count; i++)
		if (distinct == 0 || compare_tags(&awaited[i], &awaited[distinct - 1]) != 0)
			awaited[distinct++] = awaited[i];
	*count = distinct;
	return awaited;
}

static Party *
list_parties(const List *pids, const LockData *locks, int *count)
{
	Party	   *parties = palloc0(sizeof(Party) * (list_length(pids) + locks->nelements + 1));
	int			asked;
	ListCell   *cell;

	*count = 0;
	foreach(cell, pids)
	{
		parties[*count].pid = lfirst_int(cell);
		parties[(*count)++].found = true;
	}
	asked = *count;
	qsort(parties, asked, sizeof(Party), compare_pids);
	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];

		if (lock->waitLockMode == NoLock ||
			bsearch(&lock->pid, parties, asked, sizeof(Party), compare_pids) != NULL)
			continue;
		parties[*count].pid = lock->pid;
		parties[(*count)++].mode = lock->waitLockMode;
	}
	qsort(parties, *count, sizeof(Party), compare_pids);
	return parties;
}

static Claim *
list_claims(const LockData *locks, Party *parties, int nparties, int *count)
{
	int			nawaited;
	Awaited    *awaited = list_awaited(locks, &nawaited);
	Claim	   *claims = palloc(sizeof(Claim) * Max(locks->nelements, 1));

	*count = 0;
	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];
		Claim		claim = {.modes = lock->holdMask};

		claim.awaited = bsearch(&lock->locktag, awaited, nawaited, sizeof(Awaited), compare_tags);
		claim.party = bsearch(&lock->pid, parties, nparties, sizeof(Party), compare_pids);
		if (claim.awaited == NULL || claim.party == NULL)
			continue;
		if (lock->waitLockMode != NoLock)
		{
			claim.modes |= LOCKBIT_ON(lock->waitLockMode);
			claim.party->awaited = claim.awaited;
		}
		claims[(*count)++] = claim;
	}
	return claims;
}

static bool
conflicts(LOCKMODE mode, LOCKMASK modes)
{
	for (LOCKMODE other = AccessShareLock; other <= AccessExclusiveLock; other++)
		if ((modes & LOCKBIT_ON(other)) != 0 && DoLockModesConflict(mode, other))
			return true;
	return false;
}

EvsProcesses
evs_kept_waiting(const List *pids, const LockData *locks)
{
	EvsProcesses found = {0};
	int			nparties;
	int			nclaims;
	Party	   *parties = list_parties(pids, locks, &nparties);
	Claim	   *claims = list_claims(locks, parties, nparties, &nclaims);
	bool		more = true;

	while (more)
	{
		more = false;
		for (int i = 0; i < nclaims; i++)
			if (claims[i].party->found)
				claims[i].awaited->modes |= claims[i].modes;
		for (int i = 0; i < nparties; i++)
		{
			Party	   *party = &parties[i];

			if (party->found || !conflicts(party->mode, party->awaited->modes))
				continue;
			party->found = more = true;
		}
	}

	found.pids = palloc(sizeof(int) * Max(nparties, 1));
	for (int i = 0; i < nparties; i++)
		if (parties[i].found)
			found.pids[found.count++] = parties[i].pid;
	return found;
}

bool
evs_is_among(int pid, const EvsProcesses *processes)
{
	return bsearch(&pid, processes->pids, processes->count, sizeof(int), compare_pids) != NULL;
}

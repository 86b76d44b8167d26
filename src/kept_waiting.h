/*
 * kept_waiting.h - who cannot go on before somebody else does.
 */
#ifndef EVS_KEPT_WAITING_H
#define EVS_KEPT_WAITING_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "storage/lock.h"

/* Processes, in the order of their numbers. */
typedef struct EvsProcesses
{
	int		   *pids;
	int			count;
} EvsProcesses;

/*
 * These processes, and all that wait for a lock which one of them has, or has asked for:
 * directly or not.
 */
extern EvsProcesses evs_kept_waiting(const List *pids, const LockData *locks);

extern bool evs_is_among(int pid, const EvsProcesses *processes);

#endif							/* EVS_KEPT_WAITING_H */

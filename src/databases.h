/*
 * databases.h - which databases there are.
 */
#ifndef EVS_DATABASES_H
#define EVS_DATABASES_H

#include "evsource.h"

#include "nodes/pg_list.h"

typedef enum EvsDatabases
{
	EVS_DATABASES_OPEN,			/* sessions can connect to them */
	EVS_DATABASES_CLOSED		/* they may again; not templates */
} EvsDatabases;

/*
 * The OIDs of all databases of a kind, or just this one if it is there and of that
 * kind.  Outside of a transaction: it makes one.
 */
extern List *evs_databases_find(EvsDatabases kind, Oid only);

#endif							/* EVS_DATABASES_H */

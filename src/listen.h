/*
 * listen.h - who LISTENs for "evsource_events".
 */
#ifndef EVS_LISTEN_H
#define EVS_LISTEN_H

#include "evsource.h"

#include "nodes/nodes.h"

/* A command of this session has been run: has it begun or ended to LISTEN? */
extern void evs_listen_command(Node *statement);

/*
 * Does a session of this database listen?  True also when that is not known: only
 * where the library is preloaded every session says so.
 */
extern bool evs_listen_anybody(void);

extern void evs_listen_init(void);

#endif							/* EVS_LISTEN_H */
